"""Constrains an answer to a grammar, with llguidance's token masks.

A grammar is compiled outside the engine's thread (1 to 10 ms), cached, and limited in its size and
its cost per step. In each step the engine's thread computes a mask, while the device computes the
logits, and then advances the grammar by the sampled token.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import llguidance
import numpy as np
import numpy.typing as npt
import torch
from llguidance.gbnf_to_lark import any_to_lark
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from glm_engine.errors import InvalidRequest
from glm_engine.request import Prompt, SamplingParams, StructuredOutputs, ThinkingTokens, ToolChoice
from glm_engine.tool_grammar import MAX_GRAMMAR_BYTES, ToolGrammar, json_rule, literal, regex
from glm_format.tags import Tag

_MAX_CACHED = 64
# Worst case per step: about 5 ms of lexer and 10 ms of parser. llguidance fails beyond that.
_LIMITS = llguidance.LLParserLimits(
    max_items_in_row=1000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=50_000,
    step_max_items=10_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
_NO_TEXT = "\x00"
_FIELD = "sampling_parameters.structured_outputs"
_TOO_COMPLEX = "is too complex: a decoding step takes too long"
_DEAD_END = "allows no continuation of the output so far"


class _Phase(Enum):
    BEGINNING = 1  # a thought may begin
    THOUGHT = 2
    AFTER_THOUGHT = 3  # GLM writes a line break there
    CONTENT = 4


class Guide:
    """Constrains one answer to a grammar, but not its thought.

    Owned by the engine's thread once the request is.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        field: str,
        free: npt.NDArray[np.int32],
        thinking: ThinkingTokens | None,
        line_break: int | None,
        call: int | None = None,
    ) -> None:
        """Create it from a compiled grammar; ``free`` is the mask of tokens allowed in a thought,
        ``call`` the token that begins a call.
        """
        self._matcher = matcher
        self._field = field
        self._free = free
        self._thinking = thinking
        self._line_break = line_break
        self._call = call
        self._phase = _Phase.CONTENT

    def copy(self) -> "Guide":
        """A copy for another answer, at the start of the grammar."""
        return Guide(
            self._matcher.deep_copy(),
            self._field,
            self._free,
            self._thinking,
            self._line_break,
            self._call,
        )

    def begin(self, prompt: Prompt, assistant: int | None) -> None:
        """Determine from the prompt whether the answer may have a thought, or is within one.

        Args:
            assistant: the token that begins the answer's turn.
        """
        if self._thinking is None or assistant is None:
            return
        turns = np.flatnonzero(prompt.input_ids == assistant)
        if not len(turns):
            return
        begun = prompt.input_ids[turns[-1] :]
        if self._thinking.end not in begun:
            is_open = self._thinking.begin in begun
            self._phase = _Phase.THOUGHT if is_open else _Phase.BEGINNING

    def fill(self, mask: npt.NDArray[np.int32], row: int) -> None:
        """Set the bits of the tokens that may come next.

        Args:
            mask: (rows, words) int32, one bit per token, lowest first.
        """
        if self._phase is _Phase.THOUGHT:
            mask[row] = self._free
            return
        fill_next_token_bitmask(self._matcher, mask, row)
        if self._phase is _Phase.BEGINNING and self._thinking is not None:
            _set(mask[row], self._thinking.begin)
        elif self._phase is _Phase.AFTER_THOUGHT and self._line_break is not None:
            _set(mask[row], self._line_break)

    def accept(self, token_id: int) -> None:
        """Advance by the sampled token.

        Raises:
            InvalidRequest: the grammar failed.
        """
        thinking = self._thinking
        if self._phase is _Phase.THOUGHT:
            if thinking is not None and token_id == thinking.end:
                self._phase = _Phase.AFTER_THOUGHT
            elif token_id == self._call and self._matcher.validate_tokens([token_id]):
                # GLM occasionally starts a call within a thought: treat it as the call.
                self._phase = _Phase.CONTENT
                self._matcher.consume_token(token_id)
            return
        phase, self._phase = self._phase, _Phase.CONTENT
        if phase is _Phase.BEGINNING and thinking is not None and token_id == thinking.begin:
            self._phase = _Phase.THOUGHT
        elif phase is not _Phase.AFTER_THOUGHT or token_id != self._line_break:
            self._matcher.consume_token(token_id)
            self.check()

    def check(self) -> None:
        """Check that the answer ended properly, after a token that ends it.

        Raises:
            InvalidRequest: it ended because the grammar failed, which allows no other token.
        """
        if self._matcher.is_error():
            dead_end = "NoExtension" in self._matcher.get_error()
            raise InvalidRequest(self._field, _DEAD_END if dead_end else _TOO_COMPLEX)

    @property
    def is_complete(self) -> bool:
        """Whether the grammar allows no further tokens."""
        return self._phase is _Phase.CONTENT and bool(self._matcher.is_stopped())


class Grammars:
    """Compiles and caches the grammars of requests. Thread-safe."""

    def __init__(
        self,
        tokenizer_json: Mapping[str, Any],
        num_tokens: int,
        eos_token_ids: frozenset[int],
        thinking: ThinkingTokens | None,
    ) -> None:
        """Create it for a vocabulary of ``num_tokens``."""
        added = tokenizer_json["added_tokens"]
        tokenizer = _without_tags(tokenizer_json)
        self._token_ids = {token["content"]: int(token["id"]) for token in added}
        self._tokenizer = llguidance.LLTokenizer(
            json.dumps(tokenizer), n_vocab=num_tokens, eos_token=sorted(eos_token_ids)
        )
        self._thinking = thinking
        line_break = self._tokenizer.tokenize_str("\n")
        self._line_break = line_break[0] if len(line_break) == 1 else None
        self._free = allocate_token_bitmask(1, num_tokens)[0]
        for token_id in eos_token_ids:
            _clear(self._free, token_id)
        self._num_tokens = num_tokens
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, Guide] = OrderedDict()

    def compile(
        self, params: SamplingParams, tools: Sequence[Mapping[str, Any]], prompt: Prompt
    ) -> Guide | None:
        """A guide for one answer; None if the request is unconstrained.

        Args:
            tools: of the prompt, in OpenAI's form.

        Raises:
            InvalidRequest: the grammar is invalid or too large.
        """
        structure, choice = params.structured_outputs, params.tool_choice
        is_strict = any(tool["function"].get("strict") for tool in tools)
        if structure is None and not choice.is_enforced and not is_strict:
            return None
        field, grammar = self._grammar(structure, choice, tools, params.parallel_tool_calls)
        if len(grammar) > MAX_GRAMMAR_BYTES:
            raise InvalidRequest(field, f"is larger than {MAX_GRAMMAR_BYTES} bytes as a grammar")
        with self._lock:
            known = self._compiled.get(grammar)
            if known is not None:
                self._compiled.move_to_end(grammar)
        if known is None:
            known = self._new_guide(grammar, field)
            with self._lock:
                self._compiled[grammar] = known
                if len(self._compiled) > _MAX_CACHED:
                    self._compiled.popitem(last=False)
        guide = known.copy()
        guide.begin(prompt, self._token_ids.get("<|assistant|>"))
        return guide

    def _new_guide(self, grammar: str, field: str) -> Guide:
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, limits=_LIMITS, log_level=0)
        call = self._token_ids.get(Tag.CALL)
        guide = Guide(matcher, field, self._free, self._thinking, self._line_break, call)
        if not matcher.is_error():  # many grammars fail in their first step only
            guide.fill(allocate_token_bitmask(1, self._num_tokens), 0)
        if matcher.is_error():
            raise InvalidRequest(field, f"cannot be enforced: {_reason(matcher.get_error())}")
        return guide

    def _grammar(
        self,
        structure: StructuredOutputs | None,
        choice: ToolChoice,
        tools: Sequence[Mapping[str, Any]],
        parallel: bool,
    ) -> tuple[str, str]:
        """The wire field of the grammar, and the grammar."""
        field, rules = "tools", list[str]()
        others: list[dict[str, str]] = []
        content = "free_text"
        if structure is not None:
            field = f"{_FIELD}.{structure.kind}"
            content, others = _content(structure, field)
        if choice.is_enforced or tools:
            if choice.name is not None:
                tools = [t for t in tools if t["function"]["name"] == choice.name]
            if not tools:
                raise InvalidRequest(
                    "sampling_parameters.tool_choice",
                    f"there is no tool {choice.name!r}" if choice.name else "requires tools",
                )
            calls = ToolGrammar(tools, self._token)
            rules += calls.rules
            any_call = f"({' | '.join(calls.names)})"
            one_only = choice.name is not None or not parallel
            rules.append(f"calls: {any_call}" + ("" if one_only else f" (LINE_BREAK? {any_call})*"))
        if content == "free_text":
            boxes = [self._token(tag) for tag in ("<|begin_of_box|>", "<|end_of_box|>")]
            rules.append("TEXT: /(?s:.+)/")
            rules.append(f"free_text: TEXT? (({' | '.join(boxes)}) TEXT?)*")
        if choice.is_enforced:
            start = "calls"
        elif not tools:
            start = content
        else:
            start = "free_text calls?" if structure is None else f"({content}) | calls"
        lark = "\n".join([f"start: {start}", *rules])
        grammars = [{"lark_grammar": lark}, *others]
        return field, json.dumps({"grammars": grammars})

    def _token(self, tag: str) -> str:
        """The rule for a tag's token."""
        token_id = self._token_ids.get(tag)
        if token_id is None:
            raise InvalidRequest("tools", f"are not supported: the checkpoint has no {tag}")
        return f"<[{token_id}]>"


def _content(structure: StructuredOutputs, field: str) -> tuple[str, list[dict[str, str]]]:
    """The rule for an answer's content, and further grammars that it needs."""
    value = structure.value
    match structure.kind:
        case "json" | "json_object":
            return json_rule(value), []
        case "choice":
            return " | ".join(literal(text) for text in value), []
        case "regex":
            return regex(value), []
        case "grammar":
            try:
                lark = any_to_lark(value)
            except Exception as error:  # the conversion raises various types
                raise InvalidRequest(field, f"is not a valid grammar ({error})") from None
            return "@content", [{"name": "content", "lark_grammar": lark}]
    raise AssertionError(structure.kind)


def token_masks(guides: Sequence[Guide], num_tokens: int) -> npt.NDArray[np.int32]:
    """(guides, num_tokens / 32) int32: which tokens may come next, by bits."""
    mask: npt.NDArray[np.int32] = allocate_token_bitmask(len(guides), num_tokens)
    for row, guide in enumerate(guides):
        guide.fill(mask, row)
    return mask


def allowed_tokens(guides: Sequence[Guide], num_tokens: int, device: torch.device) -> torch.Tensor:
    """(guides, num_tokens) bool: which tokens may come next."""
    octets = torch.from_numpy(token_masks(guides, num_tokens).view(np.uint8)).to(device)
    bits = torch.arange(8, dtype=torch.uint8, device=device)
    return (octets[:, :, None] >> bits & 1).bool().flatten(1)[:, :num_tokens]


def _reason(error: str) -> str:
    """The line of llguidance's error that is useful to a client."""
    regex_error = re.search(r"^error: (.+)$", error, re.MULTILINE)
    if regex_error:
        return regex_error[1]
    return error.partition("\n")[0].rpartition("failed to compile JSON schema: ")[2]


def _without_tags(tokenizer_json: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer in which tags are never text, so that only their own tokens produce them.

    Conversely, text that reads like a tag must not become its token, which llguidance would choose
    for forced text and then reject. So tags are renamed to strings that never occur in text.
    """
    names = {t["content"]: f"{_NO_TEXT}{t['content']}" for t in tokenizer_json["added_tokens"]}
    model = tokenizer_json["model"]
    return {
        **tokenizer_json,
        "added_tokens": [
            {**token, "special": True, "content": names[token["content"]]}
            for token in tokenizer_json["added_tokens"]
        ],
        "model": {
            **model,
            "vocab": {names.get(text, text): token_id for text, token_id in model["vocab"].items()},
        },
    }


def _set(words: npt.NDArray[np.int32], token_id: int) -> None:
    words.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)


def _clear(words: npt.NDArray[np.int32], token_id: int) -> None:
    words.view(np.uint32)[token_id // 32] &= ~np.uint32(1 << token_id % 32)
