"""Requests to the model and its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log probability, before temperature and filters.

    Attributes:
        text: of this token alone; if it is a part of a character, use ``data``.
        data: its bytes.
        logprob: natural logarithm of its probability.
        rank: 1 for the most likely token.
    """

    token_id: int
    text: str
    data: bytes
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A chosen token, and the requested number of most likely alternatives."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class ThoughtDelta:
    """The next piece of a thought.

    Attributes:
        logprobs: of its tokens, excluding tags; empty unless requested.
    """

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer's text; attributes as in :class:`ThoughtDelta`."""

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool is called.

    Attributes:
        index: of the call in the answer, from 0.
        name: one of the request's tools.
    """

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """The next piece of the JSON text of a call's arguments; complete in a finished answer."""

    index: int
    arguments: str


Event = ThoughtDelta | TextDelta | CallStart | CallDelta
"""What an answer consists of, in the order in which the model writes it."""


class _Parsed:
    """Thought and text from ``events``."""

    __slots__ = ()
    events: tuple[Event, ...]

    @property
    def reasoning(self) -> str:
        """The thought, from ``events``."""
        return "".join(event.text for event in self.events if isinstance(event, ThoughtDelta))

    @property
    def content(self) -> str:
        """The answer's text, from ``events``."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a conversation, with options for its answer.

    Attributes:
        content: text, or a list of parts as in a message; it ends the last turn of the user.
        options: the whole texts of possible answers.
    """

    content: str | Sequence[Mapping[str, Any]]
    options: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One generation request. Set exactly one of the first four.

    Attributes:
        messages: a conversation in OpenAI chat form; a part ``{"type": "image"}`` refers to the
            next entry of ``images``, and ``{"type": "video"}`` to that of ``videos``.
        text_input: one user turn as plain text, preceded by all ``images`` and then ``videos``.
        prompt: a complete prompt, used without the chat template: tags in it become special tokens,
            and each ``<|image|>`` refers to the next entry of ``images``, ``<|video|>`` to that of
            ``videos``.
        prompt_token_ids: the same, tokenised.
        images: bytes of image files (or their base64 text, or data URIs), in order.
        image_max_pixels: for each of ``images`` the maximum number of pixels, to which it is scaled
            down; 0 for the checkpoint's own limit. Empty: 0 for all.
        videos: bytes of video files (or their base64 text, or data URIs), in order.
        mm_processor_kwargs: arguments of transformers' processor, for all images and videos:
            ``size``, ``min_pixels``, ``max_pixels``, ``do_resize``, ``fps``.
        tools: tools in OpenAI form, for the chat template.
        questions: about ``messages`` or ``text_input``: instead of text the answer has
            ``option_logprobs``. Their images come after those of the messages. Only the sampling
            parameter ``priority`` goes with them.
        chat_template_kwargs: for example ``{"enable_thinking": False}``.
        sampling_parameters: ``max_tokens``, ``temperature`` and so on, with vLLM's names. Missing
            ones default to those of the checkpoint. ``logprobs`` is the number of alternatives per
            token, from 0; ``n`` is the number of answers.
        request_id: appears in the server's log.
        return_token_ids: request ``GenerationDelta.token_ids``.
        return_events: request ``GenerationDelta.events``, which separate thought, text and calls of
            ``tools``, instead of ``text`` and ``logprobs``.
        return_image_sizes: request ``GenerationDelta.image_sizes``.
        tenant: each gets an equal share of the engine, and reuses only what it sent itself.
        cache_salt: cached prefixes and pictures are reused only by requests with the same one.
        trace_context: W3C ``traceparent`` of the caller's span, which becomes the parent of the
            server's spans if tracing is enabled there.

    Raises:
        ValueError: none or several of ``messages``, ``text_input``, ``prompt`` and
            ``prompt_token_ids``; or ``image_max_pixels`` and ``images`` differ in length.
    """

    messages: Sequence[Mapping[str, Any]] | None = None
    text_input: str | None = None
    prompt: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    images: Sequence[bytes] = ()
    image_max_pixels: Sequence[int] = ()
    videos: Sequence[bytes] = ()
    mm_processor_kwargs: Mapping[str, Any] | None = None
    questions: Sequence[Question] = ()
    tools: Sequence[Mapping[str, Any]] | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    sampling_parameters: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""
    return_token_ids: bool = False
    return_events: bool = False
    return_image_sizes: bool = False
    return_limits: bool = False
    tenant: str = ""
    cache_salt: str = ""
    trace_context: str = ""

    def __post_init__(self) -> None:
        prompts = (self.messages, self.text_input, self.prompt, self.prompt_token_ids)
        if sum(prompt is not None for prompt in prompts) != 1:
            raise ValueError(
                "messages, text_input, prompt, prompt_token_ids: give exactly one of them"
            )
        if self.image_max_pixels and len(self.image_max_pixels) != len(self.images):
            raise ValueError("image_max_pixels: must have one entry for each of images")

    @property
    def num_choices(self) -> int:
        """Number of answers requested."""
        return int(self.sampling_parameters.get("n", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDelta(_Parsed):
    """The next piece of an answer.

    Attributes:
        text: as the model writes it, including tags; never ends within a character; may be empty.
        events: the parsed text, if requested; then ``text`` is empty.
        index: of the answer, from 0.
        token_ids: the tokens of this piece, if requested.
        logprobs: of the tokens of this piece, if requested.
        finish_reason: set in the last piece only.
        stop_reason: in the last piece, the string of ``stop`` or the token of ``stop_token_ids``
            that ended the answer, if one did.
        num_input_tokens: length of the prompt in tokens; None in pieces that do not repeat it.
        num_image_tokens: those of ``num_input_tokens`` that represent pictures and videos.
        num_cached_tokens: those of ``num_input_tokens`` found in the cache.
        num_output_tokens: tokens in this piece.
        num_reasoning_tokens: those of ``num_output_tokens`` that belong to the thought.
        image_sizes: original width and height of each picture in pixels, upright; in the first
            piece, if requested.
        prompt_logprobs: of the tokens of the prompt, when ``sampling_parameters`` have
            ``prompt_logprobs``; NaN for the first, before which nothing comes. In the first piece.
        limits: ``max_model_len`` and ``vocab_size`` in tokens, the checkpoint's defaults of
            ``temperature``, ``top_p`` and ``top_k``, and its ``revision``; in the first piece, if
            requested.
        option_logprobs: for each option of all questions in their order, the natural logarithm of
            the probability that the answer begins with its text; where an option is the beginning
            of another of its question, that it is exactly this text.
    """

    text: str = ""
    events: tuple[Event, ...] = ()
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    num_input_tokens: int | None = None
    num_image_tokens: int | None = None
    num_cached_tokens: int | None = None
    num_output_tokens: int = 0
    num_reasoning_tokens: int = 0
    image_sizes: tuple[tuple[int, int], ...] = ()
    limits: Mapping[str, Any] | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    option_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(_Parsed):
    """A whole answer. Attributes as in :class:`GenerationDelta`, summed up."""

    text: str = ""
    events: tuple[Event, ...] = ()
    finish_reason: FinishReason
    num_input_tokens: int
    num_image_tokens: int
    num_output_tokens: int
    num_cached_tokens: int = 0
    num_reasoning_tokens: int = 0
    stop_reason: str | int | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    image_sizes: tuple[tuple[int, int], ...] = ()
    limits: Mapping[str, Any] | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    option_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """A tokenised prompt.

    Attributes:
        token_ids: a picture's placeholder is repeated once for each of its tokens.
        text: of all tokens together, including special ones.
        image_sizes: original width and height of each picture in pixels, upright.
        token_texts: of each token by itself; empty unless requested.
    """

    token_ids: tuple[int, ...]
    text: str
    image_sizes: tuple[tuple[int, int], ...] = ()
    token_texts: tuple[str, ...] = ()
