"""One request of a client, from its arrival to its last response. Independent of Triton."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from glm_engine.errors import GenerationError
from glm_engine.request import Output, Prompt, Request, SamplingParams, StopReason
from glm_engine.scoring import question
from glm_engine.structured_output import Guide
from glm_engine.tenant_cache import CacheScope

# The first responses of a stream are sent at once; the very first is often only "<think>".
_FIRST_RESPONSES = 3


@dataclass(frozen=True, slots=True)
class Response:
    """One response to a client. None: not requested, or not applicable.

    Attributes:
        text: as the model writes it, never ending within a character; None if the client asks
            for events.
        events: the parsed text; see ``events`` in config.pbtxt.
        index: of the answer, if there are several.
        finish_reason: empty until the answer is complete.
        logprobs: for each token, by token id: ``logprob``, ``rank``, ``decoded_token``, ``bytes``.
        num_input_tokens: of the prompt, like ``num_image_tokens`` and ``num_cached_tokens``.
        image_sizes: (pictures, 2) int32 original width and height; in the first response.
        prompt_logprobs: like ``logprobs``, for each token of the prompt; the first one has none. In
            the first response.
        option_logprobs: of each option of all questions.
        limits: see ``limits`` in config.pbtxt; in the first response.
        num_output_tokens: in this response, like ``num_reasoning_tokens`` and ``token_ids``.
    """

    text: str | None
    events: Sequence[Mapping[str, Any]] | None = None
    index: int | None = None
    finish_reason: str | None = None
    stop_reason: StopReason | None = None
    cumulative_logprob: float | None = None
    logprobs: Sequence[Mapping[int, Mapping[str, Any]]] | None = None
    num_input_tokens: int | None = None
    num_image_tokens: int | None = None
    num_cached_tokens: int | None = None
    num_output_tokens: int | None = None
    num_reasoning_tokens: int | None = None
    token_ids: Sequence[int] | None = None
    image_sizes: np.ndarray[Any, Any] | None = None
    limits: Mapping[str, float | str] | None = None
    prompt_logprobs: Sequence[Mapping[int, Mapping[str, Any]]] | None = None
    option_logprobs: Sequence[float] | None = None


class Client(Protocol):
    """The client that sent a job, behind Triton's response sender."""

    def send(self, response: Response, *, is_last: bool) -> None:
        """Send one response."""

    def fail(self, error: GenerationError) -> None:
        """Send an error as the last response; never raises."""

    def is_cancelled(self) -> bool:
        """Whether the client cancelled the request by closing its stream; never raises."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The share of the queue that a request occupies until its prefill.

    Attributes:
        since: ``time.monotonic()`` timestamp.
        num_bytes: size of its images and videos as sent.
        image_tokens: 0 until stage 1 has reported them.
    """

    tenant: str
    since: float
    num_bytes: int = 0
    image_tokens: int = 0


@dataclass(eq=False)
class Job:
    """One request of a client.

    Attributes:
        prompt_inputs: tensors for stage 1, copied: Triton reuses the originals' memory. Empty once
            the prompt is ready.
        prompt_field: the wire field that contains the prompt.
        flags: the ``return_...`` inputs that are true, or that a named output implies; "index" if
            that output is named.
        prefix: text that comes before the answer (vllm_backend's ``exclude_input_in_output:
            false``).
        received: ``time.monotonic()`` timestamp of its arrival.
        tenant: for fair scheduling.
        cache_salt: of the client; divides the tenant's part of the caches.
        scope: what of the caches it may reuse; set when it is accepted.
        cancel_key: a secret with which the client can cancel the job.
        trace_context: W3C traceparent of the client's span; empty if it has none.
        taken: when preprocessing began, like ``received``; 0 before that.
        num_bytes: size of its images and videos as sent.
        image_tokens: number in its prompt, once that is ready.
        image_sizes: (pictures, 2) int32 original width and height, once the prompt is ready.
        choices: the answers (sampling parameter ``n``), or the questions; none until the prompt is
            ready.
        num_open: number of choices that are not complete.
        has_begun: whether its first token has been generated.
    """

    request_id: str
    client: Client
    prompt_inputs: dict[str, np.ndarray[Any, Any]]
    prompt_field: str
    params: SamplingParams
    stream: bool
    flags: frozenset[str]
    prefix: str
    received: float
    tenant: str = ""
    cache_salt: str = ""
    scope: CacheScope = field(default_factory=CacheScope)
    cancel_key: bytes | None = None
    trace_context: str = ""
    taken: float = 0.0
    cancelled: bool = False
    num_bytes: int = 0
    image_tokens: int = 0
    image_sizes: np.ndarray[Any, Any] | None = None
    choices: list["Choice"] = field(default_factory=list)
    num_open: int = 0
    has_begun: bool = False

    @property
    def waiting(self) -> Waiting | None:
        """Its share of the queue; None once the engine computes its prompt."""
        if any(choice.request.timeline.scheduled for choice in self.choices):
            return None
        return Waiting(self.tenant, self.received, self.num_bytes, self.image_tokens)

    @property
    def has_questions(self) -> bool:
        """Whether it asks for the log probabilities of options instead of an answer."""
        return "questions" in self.prompt_inputs

    def set_prompt(
        self, prompt: Prompt, guides: Sequence[Guide | None], functions: Mapping[str, Any]
    ) -> list["Choice"]:
        """Create one engine request per answer; the first computes the prompt for all of them.

        Args:
            functions: tools that may be called, as in :class:`glm_engine.request.Request`.
        """
        choices: list[Choice] = []
        for index, guide in enumerate(guides):
            params, seed = self.params, self.params.seed
            if index and seed is not None:
                params = replace(
                    params, seed=seed + index
                )  # otherwise all answers would be the same
            request = Request(self.request_id, prompt, params, guide=guide, tenant=self.tenant)
            request.scope = self.scope
            request.functions, request.wants_events = functions, "return_events" in self.flags
            request.leader = choices[0].request if choices else None
            choices.append(Choice(self, index, request))
        return self._begin(choices)

    def set_questions(
        self, prompts: Sequence[Prompt], options: Sequence[Sequence[Sequence[int]]]
    ) -> list["Choice"]:
        """Create one engine request per question; the first computes what all prompts begin with.

        Args:
            options: tokens of the options of each question.
        """
        choices: list[Choice] = []
        for index, (prompt, tokens) in enumerate(zip(prompts, options, strict=True)):
            request = question(
                self.request_id,
                prompt,
                tokens,
                priority=self.params.priority,
                tenant=self.tenant,
                scope=self.scope,
                leader=choices[0].request if choices else None,
            )
            choices.append(Choice(self, index, request))
        return self._begin(choices)

    def _begin(self, choices: list["Choice"]) -> list["Choice"]:
        for choice in choices:
            choice.request.timeline.received = self.received
            choice.request.context = choice
        self.prompt_inputs = {}  # frees the image files; the prompt has what the engine needs
        self.choices, self.num_open = choices, len(choices)
        return choices

    def forget(self) -> None:
        """Release everything that it holds, after its end.

        The choices and the job reference each other; without this, prompts would stay in memory
        until a full garbage collection, which is rare and takes a tenth of a second.
        """
        self.prompt_inputs = {}  # a job that was cancelled early may still be queued for stage 1
        for choice in self.choices:
            choice.request.context = None
        self.choices = []


@dataclass(eq=False)
class Choice:
    """One answer to a job.

    Attributes:
        unsent: outputs that have not been sent; without streaming, all of them until the end.
        num_sent: number of responses so far.
        num_thought_tokens: number of thinking tokens in them.
        sent: ``time.monotonic()`` timestamp of the last of them.
    """

    job: Job
    index: int
    request: Request
    unsent: list[Output] = field(default_factory=list)
    num_sent: int = 0
    num_thought_tokens: int = 0
    sent: float = 0.0

    @property
    def is_new(self) -> bool:
        """Whether the client is still waiting for the first responses of a stream."""
        return self.job.stream and self.num_sent < _FIRST_RESPONSES

    @property
    def is_urgent(self) -> bool:
        """Whether the unsent outputs are the beginning or the end of the answer."""
        return self.is_new or self.unsent[-1].is_final
