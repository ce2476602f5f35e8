"""A request: its parameters and its state in the engine. Independent of torch."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from glm_engine.block_manager import BlockTable
from glm_engine.errors import GenerationError, InvalidRequest
from glm_engine.tenant_cache import CacheScope
from glm_format.answer import AnswerReader, Channel
from glm_format.events import Event

if TYPE_CHECKING:
    from glm_engine.scoring import Scoring

DEFAULT_MAX_TOKENS = 512
MAX_STOP_STRINGS = 16
# For `stop_token_ids` and for `logit_bias`.
MAX_NUMBER_CHARACTERS = 32
MAX_TOKEN_IDS = 1024
MAX_LOGPROBS = 20
MAX_CHOICES = 16
MAX_STRUCTURE_CHARACTERS = 128 * 1024
MAX_STRUCTURE_CHOICES = 1000

FinishReason = Literal["stop", "length"]
# The entry of `stop` or of `stop_token_ids` that ended the answer.
StopReason = str | int


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Defaults from the checkpoint's ``generation_config.json``.

    Attributes:
        eos_token_ids: tokens that end an answer.
    """

    eos_token_ids: frozenset[int]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class ThinkingTokens:
    """The tokens around the thought at the beginning of an answer."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """A constraint on the form of an answer.

    Attributes:
        kind: its key on the wire.
        value: a JSON schema, a regular expression, a grammar, or a tuple of strings to choose from.
    """

    kind: Literal["json", "json_object", "regex", "choice", "grammar"]
    value: Any


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether an answer must call a tool, and which one."""

    is_enforced: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters for sampling and stopping, with the names and semantics of vLLM.

    Attributes:
        max_tokens: None for ``DEFAULT_MAX_TOKENS`` after the thought, which has a bound of its own
            (``EngineConfig.max_thinking_tokens``); or the rest of the context, if that is less.
        truncate_max_tokens: whether a larger ``max_tokens`` means the rest of the context, instead
            of an error.
        temperature: 0 for greedy decoding.
        top_k: 0 for off.
        logprobs: number of alternatives to report for each token; None for no log probabilities.
        prompt_logprobs: like ``logprobs``, for the tokens of the prompt.
        thinking_token_budget: tokens after which the thought is forced to end; None for no limit.
        structured_outputs: constraint on the answer, excluding its thought.
        tool_choice: whether it must call one of the request's tools.
        parallel_tool_calls: whether it may call several, if a grammar enforces calls.
        n: number of answers; the engine runs one request for each.
        priority: for scheduling and preemption: lower numbers come first.
    """

    max_tokens: int | None = None
    truncate_max_tokens: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    thinking_token_budget: int | None = None
    structured_outputs: StructuredOutputs | None = None
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    n: int = 1
    priority: int = 0


def parse_sampling_parameters(
    text: str | None,
    defaults: GenerationDefaults,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> SamplingParams:
    """Read the JSON object of the input ``sampling_parameters``.

    Accepts the names of vLLM and of TensorRT-LLM, as their Triton backends do.

    Args:
        beside: the same keys outside of that input, as parameters of the Triton request.

    Raises:
        InvalidRequest: names the key that is unknown, out of range, or given twice.
    """
    try:
        given = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("sampling_parameters", f"is not valid JSON ({error})") from None
    if not isinstance(given, dict):
        raise InvalidRequest("sampling_parameters", "must be a JSON object")
    values: dict[str, Any] = {
        "temperature": defaults.temperature,
        "top_p": defaults.top_p,
        "top_k": defaults.top_k,
        "repetition_penalty": defaults.repetition_penalty,
    }
    set_by: dict[str, str] = {}
    for prefix, entries in (("sampling_parameters", given), ("", beside)):
        for key, value in entries.items():
            path = f"{prefix}.{key}" if prefix else key
            if key in _NOT_SUPPORTED:
                if not _asks_for_nothing(key, value, defaults):
                    raise _bad_key(prefix, key, "is not supported")
                continue
            name = _ALIASES.get(key, key)
            if name not in _READERS:
                raise _bad_key(prefix, key, "is not supported")
            if value is None:  # the same as absent, as in OpenAI's API
                continue
            read = (_stop_words if key == "stop_words" else _READERS[name])(value, path)
            if name in set_by and values[name] != read:
                raise InvalidRequest(path, f"contradicts {set_by[name]}")
            values[name], set_by[name] = read, path
    params = SamplingParams(**values)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise InvalidRequest(
            set_by["min_tokens"], f"{params.min_tokens} exceeds max_tokens, {params.max_tokens}"
        )
    return params


def _asks_for_nothing(key: str, value: Any, defaults: GenerationDefaults) -> bool:
    """Whether a parameter that is not supported has a value that changes nothing."""
    number = _from_text(value)
    if key == "end_id":
        return value is None or (isinstance(number, int) and number in defaults.eos_token_ids)
    neutral = _NOT_SUPPORTED[key]
    return value is None or neutral is _ANY or value in neutral or number in neutral


def _bad_key(path: str, key: str, reason: str) -> InvalidRequest:
    """The error for a key; only a word can be part of a path."""
    if re.fullmatch(r"[\w-]{1,64}", key, re.ASCII):
        return InvalidRequest(f"{path}.{key}" if path else key, reason)
    return InvalidRequest(path or None, f"has the key {key[:64]!a}, which {reason}")


def _number(low: float, high: float, *, above: bool = False) -> Callable[[Any, str], float]:
    """A reader for numbers from ``low`` to ``high``; ``above`` excludes ``low`` itself."""

    def read(value: Any, path: str) -> float:
        value = _from_text(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(path, f"must be a number, not {value!r:.100}")
        # Written such that NaN is out of range.
        if not (low < value <= high if above else low <= value <= high):
            lower = f"more than {low:g}" if above else f"at least {low:g}"
            raise InvalidRequest(path, f"must be {lower} and at most {high:g}")
        return float(value)

    return read


def _whole(low: int, high: int | None = None) -> Callable[[Any, str], int]:
    def read(value: Any, path: str) -> int:
        value = _from_text(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(path, f"must be an integer, not {value!r:.100}")
        if value < low or (high is not None and value > high):
            upper = "" if high is None else f" and at most {high}"
            raise InvalidRequest(path, f"must be at least {low}{upper}, not {value!r:.100}")
        return value

    return read


def _from_text(value: Any) -> Any:
    """The number or truth value that a text is: clients of Triton write all values as texts."""
    if isinstance(value, str) and len(value) <= MAX_NUMBER_CHARACTERS:
        with contextlib.suppress(ValueError):
            return json.loads(value.strip().lower())
    return value


def _from_json(value: Any) -> Any:
    """The list or object that a text is, since a parameter of a Triton request can be neither."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _flag(value: Any, path: str) -> bool:
    value = _from_text(value)
    if not isinstance(value, bool):
        raise InvalidRequest(path, f"must be true or false, not {value!r:.100}")
    return value


def _top_k(value: Any, path: str) -> int:
    return min(max(0, _whole(-1)(value, path)), 2**31 - 1)  # vLLM writes "off" as -1 and as 0


def _stop(value: Any, path: str) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value
    if (
        not isinstance(strings, list)
        or len(strings) > MAX_STOP_STRINGS
        or not all(isinstance(string, str) and string for string in strings)
    ):
        raise InvalidRequest(
            path, f"must be a string or a list of at most {MAX_STOP_STRINGS} strings"
        )
    return tuple(strings)


def _stop_words(value: Any, path: str) -> tuple[str, ...]:
    return () if value in ("", []) else _stop(value, path)  # TensorRT-LLM's examples send ""


def _token_ids(value: Any, path: str) -> frozenset[int]:
    value = _from_json(value)
    if not isinstance(value, list) or len(value) > MAX_TOKEN_IDS:
        raise InvalidRequest(path, f"must be a list of at most {MAX_TOKEN_IDS} token ids")
    return frozenset(_whole(0)(token_id, f"{path}[{i}]") for i, token_id in enumerate(value))


def _logit_bias(value: Any, path: str) -> dict[int, float]:
    value = _from_json(value)
    if not isinstance(value, dict) or len(value) > MAX_TOKEN_IDS:
        raise InvalidRequest(
            path, f"must be an object of at most {MAX_TOKEN_IDS} token ids and numbers"
        )
    bias = {}
    for token_id, amount in value.items():
        if not token_id.isdecimal() or len(token_id) > 9:
            raise _bad_key(path, token_id, "is not a token id")
        bias[int(token_id)] = _number(-100, 100)(amount, f"{path}.{token_id}")
    return bias


def _structured_outputs(value: Any, path: str) -> StructuredOutputs:
    value = _from_json(value)
    if not isinstance(value, dict):
        raise InvalidRequest(path, "must be an object")
    given = {key: one for key, one in value.items() if one is not None}
    if len(given) != 1:
        raise InvalidRequest(path, f"must have exactly one of {', '.join(_STRUCTURES)}")
    ((kind, structure),) = given.items()
    if kind not in _STRUCTURES:
        raise _bad_key(path, kind, "is not supported")
    return StructuredOutputs(kind, _STRUCTURES[kind](structure, f"{path}.{kind}"))


def _schema(value: Any, path: str) -> Any:
    if isinstance(value, str):  # vLLM accepts it as text as well
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(path, f"is not valid JSON ({error})") from None
    if not isinstance(value, dict | bool):
        raise InvalidRequest(path, "must be a JSON schema")
    return value


def _any_object(value: Any, path: str) -> Any:
    if value is not True:
        raise InvalidRequest(path, "must be true or absent")
    return {"type": "object"}


def _pattern(value: Any, path: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_STRUCTURE_CHARACTERS:
        raise InvalidRequest(
            path, f"must be a string of 1 to {MAX_STRUCTURE_CHARACTERS} characters"
        )
    return value


def _texts(value: Any, path: str) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= MAX_STRUCTURE_CHOICES
        or not all(isinstance(text, str) and text for text in value)
    ):
        raise InvalidRequest(path, f"must be a list of 1 to {MAX_STRUCTURE_CHOICES} strings")
    return tuple(value)


_STRUCTURES: dict[Any, Callable[[Any, str], Any]] = {
    "json": _schema,
    "json_object": _any_object,
    "regex": _pattern,
    "choice": _texts,
    "grammar": _pattern,
}


def _tool_choice(value: Any, path: str) -> ToolChoice:
    match _from_json(value):
        case "auto":
            return ToolChoice()
        case "required":
            return ToolChoice(is_enforced=True)
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolChoice(is_enforced=True, name=name)
    raise InvalidRequest(path, "must be auto, required or a named function")


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "max_tokens": _whole(1),
    "truncate_max_tokens": _flag,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1, above=True),
    "top_k": _top_k,
    "min_p": _number(0, 1),
    "seed": _whole(-(2**63), 2**63 - 1),
    "stop": _stop,
    "stop_token_ids": _token_ids,
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(0.01, 100),
    "logit_bias": _logit_bias,
    "min_tokens": _whole(0),
    "ignore_eos": _flag,
    "skip_special_tokens": _flag,
    "logprobs": _whole(0, MAX_LOGPROBS),
    "prompt_logprobs": _whole(0, MAX_LOGPROBS),
    "thinking_token_budget": _whole(0),
    "structured_outputs": _structured_outputs,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _flag,
    "priority": _whole(-1_000_000, 1_000_000),
    "n": _whole(1, MAX_CHOICES),
}
# TensorRT-LLM's names.
_ALIASES = {
    "min_length": "min_tokens",
    "num_return_sequences": "n",
    "random_seed": "seed",
    "stop_words": "stop",
}
_ANY = None
# Parameters of vLLM, TensorRT-LLM and their Triton backends that are not supported, with the values
# that change nothing. Some do so with any value: those of beam search alone, and the padding token.
_NOT_SUPPORTED: Mapping[str, tuple[Any, ...] | None] = MappingProxyType(
    {
        "allowed_token_ids": ([],),
        "bad_words": ("", []),
        "beam_search_diversity_rate": _ANY,
        "beam_width": (1,),
        "best_of": (1,),
        "detokenize": (True,),
        "early_stopping": _ANY,
        "end_id": (),  # one of the checkpoint's, which end an answer anyway
        "include_stop_str_in_output": (False,),
        "length_penalty": _ANY,
        "lora_name": ("",),
        "pad_id": _ANY,
        "return_context_logits": (False,),
        "return_generation_logits": (False,),
        "return_log_probs": (False,),
        "return_perf_metrics": (False,),
        "spaces_between_special_tokens": (True,),
        "use_beam_search": (False,),
    }
)
SAMPLING_PARAMETERS = frozenset({*_READERS, *_ALIASES, *_NOT_SUPPORTED})
"""All keys that are known."""


@dataclass(frozen=True, eq=False, slots=True)
class PromptImage:
    """One image of a prompt: a picture, or two frames of a video. Compared and hashed by identity.

    Attributes:
        start: index of its first token in the prompt.
        num_tokens: number of its placeholder tokens, which are contiguous.
        grid: (temporal, height, width) in patches.
        content_hash: of what the client sent, in the request's cache scope.
        patches: (temporal * height * width, frames * channels * patch pixels) uint8, a single frame
            for a picture; None if the engine has the embeddings already.
        embeddings: (num_tokens, hidden size) tensor, if the engine has them.
    """

    start: int
    num_tokens: int
    grid: tuple[int, int, int]
    content_hash: bytes
    patches: npt.NDArray[np.uint8] | None
    embeddings: Any = None

    @property
    def end(self) -> int:
        """Index after its last token."""
        return self.start + self.num_tokens


def place_images(
    input_ids: npt.NDArray[np.int32],
    image_token_id: int,
    merge_size: int,
    grids: npt.NDArray[np.int32],
    hashes: npt.NDArray[np.uint8],
    patches: npt.NDArray[np.uint8],
    frames_of_patches: npt.NDArray[np.int32],
    embeddings: Mapping[bytes, Any] = MappingProxyType({}),
    seen: Mapping[bytes, npt.NDArray[np.uint8]] = MappingProxyType({}),
) -> tuple[PromptImage, ...]:
    """Locate the images of a prompt.

    Args:
        input_ids: (tokens,) int32 with ``image_token_id`` repeated once per merged patch.
        merge_size: there is one image token for ``merge_size ** 2`` patches.
        grids: (images, 3) int32 grid of each image in patches, in order.
        hashes: (images, hash bytes) uint8 content hash of each image.
        patches: (rows, channels * patch pixels) uint8 of those images whose hashes are neither in
            ``embeddings`` nor in ``seen``, in order; one row per frame of a patch.
        frames_of_patches: (images,) int32, 1 for a picture.
        embeddings: (image's tokens, hidden size) of known images, by content hash.
        seen: patches of images of another prompt, by content hash.
    """
    images: list[PromptImage] = []
    places = np.flatnonzero(input_ids == image_token_id)
    token = row = 0
    for (depth, height, width), name, frames in zip(
        grids.tolist(), hashes, frames_of_patches.tolist(), strict=True
    ):
        grid, content_hash = (depth, height, width), name.tobytes()
        num_patches = depth * height * width
        num_tokens = num_patches // merge_size**2
        own, known = seen.get(content_hash), embeddings.get(content_hash)
        if known is None and own is None:
            rows = num_patches * frames
            own = patches[row : row + rows].reshape(num_patches, -1)
            row += rows
        start = int(places[token])
        images.append(PromptImage(start, num_tokens, grid, content_hash, own, known))
        token += num_tokens
    return tuple(images)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as stage 1 delivers it.

    Attributes:
        field: the wire field that contained the prompt, for errors about its length.
        input_ids: (tokens,) int32.
        position_ids: (3, tokens) int32 M-RoPE positions.
        rope_delta: token n after the prompt is at position n + rope_delta on all axes.
        images: in the order of their tokens.
    """

    field: str
    input_ids: npt.NDArray[np.int32]
    position_ids: npt.NDArray[np.int32]
    rope_delta: int
    images: tuple[PromptImage, ...] = ()

    @property
    def is_raw(self) -> bool:
        """Whether the client sent a complete prompt, without the chat template."""
        return self.field in ("prompt", "prompt_token_ids")

    @property
    def num_tokens(self) -> int:
        """Length in tokens, image tokens included."""
        return len(self.input_ids)

    @property
    def num_image_tokens(self) -> int:
        """Number of image tokens."""
        return sum(image.num_tokens for image in self.images)


@dataclass(slots=True)
class Timeline:
    """``time.monotonic()`` timestamps of a request; 0 for events that have not happened.

    Attributes:
        received: arrival at stage 2.
        queued: arrival at the engine, after preprocessing.
        scheduled: start of the first step with a part of the prompt.
        vision_began, vision_ended: start of the first and end of the last step that encoded its
            pictures.
        first_token: first token sampled.
        finished: last token sampled, or the request failed.
    """

    received: float = 0.0
    queued: float = 0.0
    scheduled: float = 0.0
    vision_began: float = 0.0
    vision_ended: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0


@dataclass(eq=False, slots=True)
class Request:
    """One request with all its state. Requests are compared and hashed by identity.

    The engine thread owns everything but ``cancelled``, which any thread may set but not clear.

    Attributes:
        context: opaque data of the caller.
        leader: another request whose prompt begins alike, which computes it first; this one waits
            for it.
        num_shared: number of tokens whose keys and values this one copies from the leader, as long
            as that has them.
        max_tokens: resolved by the engine when it admits the request.
        max_text_tokens: bound on the tokens after the thought; None for no other than
            ``max_tokens``.
        max_thinking_tokens: number of tokens after which the thought is forced to end; None for no
            limit.
        token_ids: the answer so far; with ``scoring``, the given beginning of an answer.
        cumulative_logprob: sum of the log probabilities of ``token_ids``, if requested.
        prompt_logprobs: of the prompt's tokens after the first, by position, if requested.
        num_computed: number of tokens whose keys and values are in the cache.
        num_cached: number of prompt tokens found in the cache when it was first scheduled.
        table: its blocks in the cache.
        tail_copy: a block and the one that its content has to be copied to before the next step.
        block_hashes: hashes of its full blocks, computed on demand.
        encoded: embeddings of images that are not fully computed yet.
        sampling: the sampler's state of this request.
        guide: enforces a grammar (``structured_output.Guide``); None if there is none.
        functions: from the names of callable tools to the JSON schemas of their parameters; if
            empty, calls are parsed as text.
        wants_events: whether ``Output.events`` are requested instead of ``Output.text``.
        scoring: the options whose log probabilities are wanted, instead of an answer.
        option: the one that this request is a branch for; None for the question itself.
        reader: separates thought, text and calls; set by the engine.
        stop_finder: searches for stop strings: the reader, which searches the answer's text only;
            or, for a complete prompt of the client, one that treats all output as text.
        tenant: tenants get equal shares of the engine.
        scope: what of the caches it may reuse.
        arrival: sequence number for first come, first served.
    """

    request_id: str
    prompt: Prompt
    params: SamplingParams
    context: Any = None
    leader: "Request | None" = None
    num_shared: int = 0
    max_tokens: int = 0
    max_text_tokens: int | None = None
    max_thinking_tokens: int | None = None
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    prompt_logprobs: "dict[int, TokenLogprobs]" = field(default_factory=dict)
    num_computed: int = 0
    num_cached: int = 0
    table: BlockTable = field(default_factory=BlockTable)
    tail_copy: tuple[int, int] | None = None
    block_hashes: list[bytes] = field(default_factory=list)
    encoded: dict[PromptImage, Any] = field(default_factory=dict)
    sampling: Any = None
    guide: Any = None
    functions: Mapping[str, Any] = field(default_factory=dict)
    wants_events: bool = False
    scoring: "Scoring | None" = None
    option: int | None = None
    reader: AnswerReader | None = None
    stop_finder: AnswerReader | None = None
    tenant: str = ""
    scope: CacheScope = field(default_factory=CacheScope)
    arrival: int = 0
    timeline: Timeline = field(default_factory=Timeline)
    cancelled: bool = False
    cancelled_at_step: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer together."""
        return self.prompt.num_tokens + len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens that were generated."""
        return 0 if self.scoring is not None else len(self.token_ids)

    @property
    def is_thinking(self) -> bool:
        """Whether the answer is in its thought."""
        return self.reader is not None and self.reader.channel is Channel.THOUGHT

    @property
    def scores_prompt(self) -> bool:
        """Whether the log probabilities of the prompt's tokens are requested."""
        return self.params.prompt_logprobs is not None and self.leader is None

    @property
    def first_row(self) -> int:
        """Position of the first token whose prediction is needed; those before it may be cached."""
        if self.scoring is not None:
            if self.option is None:
                return self.prompt.num_tokens - 1
            return self.prompt.num_tokens + self.scoring.num_common
        return 0 if self.scores_prompt else self.num_tokens - 1

    def ids_between(self, start: int, end: int) -> npt.NDArray[np.int32]:
        """Tokens of prompt and answer from ``start`` to ``end``: (end - start,) int32."""
        length = self.prompt.num_tokens
        in_prompt = self.prompt.input_ids[start:end]
        if end <= length:
            return in_prompt
        answer = np.array(self.token_ids[max(0, start - length) : end - length], np.int32)
        return np.concatenate([in_prompt, answer])

    def positions_between(self, start: int, end: int) -> npt.NDArray[np.int32]:
        """M-RoPE positions from ``start`` to ``end``: (3, end - start) int32."""
        length = self.prompt.num_tokens
        in_prompt = self.prompt.position_ids[:, start:end]
        if end <= length:
            return in_prompt
        answer = np.arange(max(start, length), end, dtype=np.int32) + self.prompt.rope_delta
        of_answer = np.stack([answer, answer, answer])
        return of_answer if start >= length else np.concatenate([in_prompt, of_answer], axis=1)

    def images_between(self, start: int, end: int) -> list[PromptImage]:
        """The images with tokens in this range."""
        return [image for image in self.prompt.images if image.start < end and start < image.end]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A chosen token and its best alternatives: {token id: (log probability, rank from 1)}."""

    token_id: int
    entries: Mapping[int, tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Output:
    """The output of one step for one request; the last one has a finish reason or an error.

    Attributes:
        text: as the model writes it; empty if events are requested.
        events: the parsed tokens, with their ``logprobs`` as notes.
        num_thought_tokens: thinking tokens of the answer so far, including these.
        cumulative_logprob: sum of the log probabilities of all tokens so far.
        option_logprobs: of each option, if the request has some.
    """

    request: Request
    text: str = ""
    events: Sequence[Event] = ()
    num_thought_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    cumulative_logprob: float = 0.0
    finish_reason: FinishReason | None = None
    stop_reason: StopReason | None = None
    error: GenerationError | None = None
    option_logprobs: tuple[float, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether this is the last output of the request."""
        return self.finish_reason is not None or self.error is not None
