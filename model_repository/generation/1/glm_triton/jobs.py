"""One request of a client, from its arrival to its last response. Free of Triton."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from glm_engine.errors import GenerationError
from glm_engine.request import Output, Prompt, Request, SamplingParams, StopReason
from glm_engine.structured_output import Guide

# The first responses of a stream are sent at once; the very first often is no more than "<think>".
_FIRST_RESPONSES = 3


@dataclass(frozen=True, slots=True)
class Response:
    """One response to a client. What is None was not asked for, or does not apply.

    Attributes:
        text: as the model writes it, never ending in the middle of a character; None where the
            client asks for events.
        events: what the text means; see ``events`` in config.pbtxt.
        index: of the answer, where there are several.
        finish_reason: empty as long as the answer goes on.
        logprobs: for each token, by token id: ``logprob``, ``rank``, ``decoded_token``, ``bytes``.
        num_input_tokens: of the prompt, as ``num_image_tokens`` and ``num_cached_tokens``.
        image_sizes: (pictures, 2) int32 width and height as they were sent; in the first response.
        num_output_tokens: in this response, as ``num_reasoning_tokens`` and ``token_ids``.
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


class Client(Protocol):
    """Whoever sent a job, at the other end of Triton's response sender."""

    def send(self, response: Response, *, is_last: bool) -> None:
        """Send one response."""

    def fail(self, error: GenerationError) -> None:
        """Send an error as the last response, whatever it takes; raises nothing."""

    def is_cancelled(self) -> bool:
        """Whether the client gave the request up by closing its stream; raises nothing."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a request before its prefill takes of the queue.

    Attributes:
        since: in seconds of ``time.monotonic()``.
        num_bytes: of its images and videos as they were sent.
        image_tokens: 0 as long as stage 1 has not reported them.
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
        prompt_field: the wire field that the prompt comes from.
        flags: the ``return_...`` inputs that are true.
        prefix: text that comes before the answer (vllm_backend's ``exclude_input_in_output:
            false``).
        received: when, in seconds of ``time.monotonic()``.
        tenant: on whose behalf.
        cancel_key: the client's secret, by which it can cancel the job.
        trace_context: W3C traceparent of the client's span; empty where it has none.
        taken: when preprocessing began, as ``received``; 0 for not yet.
        num_bytes: of its images and videos as they were sent.
        image_tokens: of its prompt, once that is ready.
        image_sizes: (pictures, 2) int32 width and height as they were sent, once that is ready.
        choices: the answers (sampling parameter ``n``); none until the prompt is ready.
        num_open: choices that are not answered to their end.
        has_begun: whether its first token is there.
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
        """What it takes of the queue; None once the engine computes its prompt."""
        if any(choice.request.timeline.scheduled for choice in self.choices):
            return None
        return Waiting(self.tenant, self.received, self.num_bytes, self.image_tokens)

    def set_prompt(
        self, prompt: Prompt, guides: Sequence[Guide | None], functions: Mapping[str, Any]
    ) -> list["Choice"]:
        """The prompt is ready: one request of the engine for each answer, the first of which
        computes the prompt for all.

        Args:
            functions: tools that may be called, as in :class:`glm_engine.request.Request`.
        """
        choices: list[Choice] = []
        for index, guide in enumerate(guides):
            params, seed = self.params, self.params.seed
            if index and seed is not None:
                params = replace(params, seed=seed + index)  # or all answers would be the same
            request = Request(self.request_id, prompt, params, guide=guide, tenant=self.tenant)
            request.functions, request.wants_events = functions, "return_events" in self.flags
            request.leader = choices[0].request if choices else None
            request.timeline.received = self.received
            request.context = Choice(self, index, request)
            choices.append(request.context)
        self.prompt_inputs = {}  # the image files; what the engine needs is in the prompt
        self.choices, self.num_open = choices, len(choices)
        return choices

    def forget(self) -> None:
        """It has ended: let go of what it holds.

        The choices and the job know each other; without this prompts lay in memory until the
        garbage collector looks at everything, which it does seldom and for a tenth of a second.
        """
        self.prompt_inputs = {}  # one that was cancelled early may wait for stage 1 yet
        for choice in self.choices:
            choice.request.context = None
        self.choices = []


@dataclass(eq=False)
class Choice:
    """One answer to a job.

    Attributes:
        unsent: outputs not sent yet; all of them until the end when the client did not ask for a
            stream.
        num_sent: responses so far.
        num_thought_tokens: tokens of the thought in them.
        sent: when the last of them was, in seconds of ``time.monotonic()``.
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
        """Whether the client waits for the beginning of the answer."""
        return self.job.stream and self.num_sent < _FIRST_RESPONSES

    @property
    def is_urgent(self) -> bool:
        """Whether what is unsent is the beginning or the end of the answer."""
        return self.is_new or self.unsent[-1].is_final
