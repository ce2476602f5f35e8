"""What goes to the model and what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and how likely it was, before temperature and filters.

    Attributes:
        text: of this token alone; where it is a part of a character, ``data`` tells more.
        data: its bytes.
        logprob: natural logarithm of its probability.
        rank: 1 for the likeliest.
    """

    token_id: int
    text: str
    data: bytes
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A chosen token, and the likeliest ones in its place, as many as were asked for."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class ThoughtDelta:
    """The next piece of a thought.

    Attributes:
        logprobs: of its tokens, tags left out, when the request asked for them.
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
        name: one of those that the request offers.
    """

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """The next piece of the JSON text of a call's arguments; it is whole in a finished answer."""

    index: int
    arguments: str


Event = ThoughtDelta | TextDelta | CallStart | CallDelta
"""What an answer consists of, in the order in which the model writes it."""


class _ToldApart:
    """What ``events`` have of thought and text."""

    __slots__ = ()
    events: tuple[Event, ...]

    @property
    def reasoning(self) -> str:
        """The thought, by ``events``."""
        return "".join(event.text for event in self.events if isinstance(event, ThoughtDelta))

    @property
    def content(self) -> str:
        """The answer's text, by ``events``."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request for text. Give one of the first four.

    Attributes:
        messages: a conversation in OpenAI chat form; a part ``{"type": "image"}`` takes the next
            entry of ``images``.
            Likewise ``{"type": "video"}`` of ``videos``.
        text_input: one user turn as plain text; all ``images`` and then ``videos`` come before it.
        prompt: a whole prompt, for which the chat template is not used: tags in it are tokens, and
            each ``<|image|>`` takes the next entry of ``images``, ``<|video|>`` of ``videos``.
        prompt_token_ids: the same, tokenised.
        images: bytes of image files (or their base64 text, or data URIs), in order.
        image_max_pixels: for each of ``images`` the pixels that it is scaled down to; 0 for the
            checkpoint's own limit. Empty: 0 for all.
        videos: bytes of video files (or their base64 text, or data URIs), in order.
        tools: tools in OpenAI form, for the chat template.
        chat_template_kwargs: for example ``{"enable_thinking": False}``.
        sampling_parameters: ``max_tokens``, ``temperature`` and so on, with vLLM's names. What is
            absent is chosen by the server from the checkpoint. With ``logprobs`` (how many
            alternatives, from 0) the pieces have theirs; with ``n`` there are so many answers.
        request_id: shows up in the server's log.
        return_token_ids: ask for ``GenerationDelta.token_ids``.
        return_events: ask for ``GenerationDelta.events``, in which thought, text and calls of
            ``tools`` are told apart, instead of ``text`` and ``logprobs``.
        return_image_sizes: ask for ``GenerationDelta.image_sizes``.
        tenant: on whose behalf. Requests that wait are started so that each tenant gets an equal
            share of the engine.
        trace_context: W3C ``traceparent`` of the caller's span; the server's spans of this request
            become its children, where it traces.

    Raises:
        ValueError: none or several of ``messages``, ``text_input``, ``prompt`` and
            ``prompt_token_ids``; or ``image_max_pixels`` of another length than ``images``.
    """

    messages: Sequence[Mapping[str, Any]] | None = None
    text_input: str | None = None
    prompt: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    images: Sequence[bytes] = ()
    image_max_pixels: Sequence[int] = ()
    videos: Sequence[bytes] = ()
    tools: Sequence[Mapping[str, Any]] | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    sampling_parameters: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""
    return_token_ids: bool = False
    return_events: bool = False
    return_image_sizes: bool = False
    tenant: str = ""
    trace_context: str = ""

    def __post_init__(self) -> None:
        prompts = (self.messages, self.text_input, self.prompt, self.prompt_token_ids)
        if sum(prompt is not None for prompt in prompts) != 1:
            raise ValueError(
                "messages, text_input, prompt, prompt_token_ids: give exactly one of them"
            )
        if self.image_max_pixels and len(self.image_max_pixels) != len(self.images):
            raise ValueError("image_max_pixels: needs one entry for each of images")

    @property
    def num_choices(self) -> int:
        """How many answers there will be."""
        return int(self.sampling_parameters.get("n", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDelta(_ToldApart):
    """The next piece of an answer.

    Attributes:
        text: as the model writes it, tags included; never ends in the middle of a character; may be
            empty.
        events: the same as what it means, when the request asked for it; then ``text`` is empty.
        index: which of the answers this is a piece of, from 0.
        token_ids: the tokens of this piece, when the request asked for them.
        logprobs: of the tokens of this piece, when the request asked for them.
        finish_reason: set in the last piece only.
        stop_reason: in the last piece, the string of ``stop`` or the token of ``stop_token_ids``
            that ended the answer, if one did.
        num_input_tokens: length of the prompt in tokens; None in pieces that do not repeat it.
        num_image_tokens: those of ``num_input_tokens`` that stand for pictures and videos.
        num_cached_tokens: those of ``num_input_tokens`` that another request had computed.
        num_output_tokens: tokens in this piece.
        num_reasoning_tokens: those of ``num_output_tokens`` that are of the thought.
        image_sizes: width and height of each picture in pixels, upright, as it was sent; in the
            first piece, when the request asked for them.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(_ToldApart):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """A prompt in tokens.

    Attributes:
        token_ids: a picture's placeholder is repeated once for each of its tokens.
        text: of all tokens together, special ones included.
        image_sizes: width and height of each picture in pixels, upright, as it was sent.
        token_texts: of each token by itself; empty unless asked for.
    """

    token_ids: tuple[int, ...]
    text: str
    image_sizes: tuple[tuple[int, int], ...] = ()
    token_texts: tuple[str, ...] = ()
