"""Find the tool calls in what GLM writes, while it comes in pieces.

GLM writes ``<tool_call>NAME``, a line break, and for each argument ``<arg_key>KEY</arg_key>`` and
``<arg_value>VALUE</arg_value>``, then ``</tool_call>``. Texts stand there as they are, everything
else as JSON; which is which follows from the tool's JSON schema.
"""

import ast
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

_MAX_REFERENCES = 32
# Of a JSON schema, looked at for one argument. What is larger does not say what it allows.
_MAX_OPTIONS = 1000

CALL, _CALL_END = "<tool_call>", "</tool_call>"
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"
# A value may hold any tag; where it really ends, the next argument or the end of the call follows.
_END_OF_VALUE = re.compile(rf"{_VALUE_END}\s*(?=({_KEY})|({_CALL_END}))")
# What could become that, or the beginning of it.
_MAYBE_END = re.compile(r"<(/(a|ar|arg|arg_|arg_v|arg_va|arg_val|arg_valu|arg_value)?)?$")


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The next piece of a call; the first one of each has id and name.

    Attributes:
        index: of the call, from 0.
        arguments: piece of the JSON text of its arguments.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class WholeCall:
    """A call; ``arguments`` is JSON text."""

    id: str
    name: str
    arguments: str


def joined(deltas: Sequence[ToolCallDelta]) -> list[WholeCall]:
    """The calls that these are all pieces of."""
    heads = [delta for delta in deltas if delta.name is not None]
    return [
        WholeCall(
            str(head.id),
            str(head.name),
            "".join(delta.arguments for delta in deltas if delta.index == head.index),
        )
        for head in heads
    ]


class _Part(Enum):
    TEXT = 1
    NAME = 2
    BETWEEN = 3  # arguments
    KEY = 4
    BEFORE_VALUE = 5
    VALUE = 6


class ToolCallParser:
    """Parses one answer, without its thought. What comes out does not depend on the pieces.

    White space around calls is dropped. A call that is cut off leaves its JSON incomplete.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool = True) -> None:
        """For tools in OpenAI's form; unless ``parallel``, calls after the first are dropped."""
        self._schemas = {
            tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools
        }
        self._parallel = parallel
        self._part = _Part.TEXT
        self._pending = ""
        self._space = ""  # of the text; dropped if a call follows
        self._follows_call = False  # whether nothing but space came after one
        self._name = self._key = ""
        self._num_arguments = 0
        self._streams_value = False
        self.num_calls = 0

    def feed(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        """What is certain after ``text``: content and pieces of calls."""
        self._pending += text
        return self._drain(final=False)

    def finish(self) -> tuple[str, list[ToolCallDelta]]:
        """What was held back. Call it once, after the last piece."""
        content, calls = self._drain(final=True)
        if not self.num_calls:
            content += self._space
        return content, calls

    def _drain(self, *, final: bool) -> tuple[str, list[ToolCallDelta]]:
        content = ""
        calls: list[ToolCallDelta] = []
        steps = {
            _Part.NAME: self._take_name,
            _Part.BETWEEN: self._take_between,
            _Part.KEY: self._take_key,
            _Part.BEFORE_VALUE: self._take_before_value,
            _Part.VALUE: self._take_value,
        }
        while True:
            if self._part is _Part.TEXT:
                content += self._take_text(final=final)
                if self._part is _Part.TEXT:
                    break
            elif not steps[self._part](calls, final):
                break
        if not self._parallel:
            calls = [call for call in calls if call.index == 0]
        return content, calls

    def _take_text(self, *, final: bool) -> str:
        before, tag, after = self._pending.partition(CALL)
        if tag:
            self._pending, self._part = after, _Part.NAME
        else:
            held = 0 if final else _overlap(before, CALL)
            before, self._pending = before[: len(before) - held], before[len(before) - held :]
        text = self._space + before
        if self._follows_call:
            text = text.lstrip()
        stripped = text.rstrip()
        self._space = "" if tag else text[len(stripped) :]
        self._follows_call = self._follows_call and not stripped
        return stripped

    def _take_name(self, calls: list[ToolCallDelta], final: bool) -> bool:
        text = self._pending.lstrip()
        found = re.search(rf"\n|{_KEY}|{_CALL_END}", text)
        if found is None:
            return False
        self._name = text[: found.start()].strip()
        self._pending = text[found.start() :]
        self._part, self._num_arguments = _Part.BETWEEN, 0
        calls.append(
            ToolCallDelta(self.num_calls, id=f"call_{uuid.uuid4().hex[:24]}", name=self._name)
        )
        self.num_calls += 1
        return True

    def _take_between(self, calls: list[ToolCallDelta], final: bool) -> bool:
        found = re.search(rf"{_KEY}|{_CALL_END}", self._pending)
        if found is None:
            return False
        self._pending = self._pending[found.end() :]
        if found[0] == _KEY:
            self._part = _Part.KEY
        else:
            self._part, self._follows_call = _Part.TEXT, True
            self._emit(calls, "}" if self._num_arguments else "{}")
        return True

    def _take_key(self, calls: list[ToolCallDelta], final: bool) -> bool:
        key, tag, after = self._pending.partition(_KEY_END)
        if not tag:
            return False
        self._key, self._pending, self._part = key.strip(), after, _Part.BEFORE_VALUE
        return True

    def _take_before_value(self, calls: list[ToolCallDelta], final: bool) -> bool:
        _, tag, after = self._pending.partition(_VALUE)
        if not tag:
            return False
        self._pending, self._part = after, _Part.VALUE
        self._streams_value = self._types_of_argument() == {"string"}
        name = json.dumps(self._key, ensure_ascii=False) + ": "
        self._emit(calls, (", " if self._num_arguments else "{") + name)
        self._num_arguments += 1
        if self._streams_value:
            self._emit(calls, '"')
        return True

    def _take_value(self, calls: list[ToolCallDelta], final: bool) -> bool:
        end = _END_OF_VALUE.search(self._pending)
        if self._streams_value:
            certain = end.start() if end else self._certain_of_value(final)
            self._emit(calls, json.dumps(self._pending[:certain], ensure_ascii=False)[1:-1])
            if end:
                self._emit(calls, '"')
            else:
                self._pending = self._pending[certain:]
        elif end:
            value = _typed(self._pending[: end.start()], self._types_of_argument())
            self._emit(calls, json.dumps(value, ensure_ascii=False))
        if end is None:
            return False
        self._pending, self._part = self._pending[end.end() :], _Part.BETWEEN
        return True

    def _types_of_argument(self) -> set[str]:
        root = self._schemas.get(self._name, {})
        properties = _resolved(root, root).get("properties")
        return _types(properties.get(self._key) if isinstance(properties, Mapping) else None, root)

    def _certain_of_value(self, final: bool) -> int:
        """How far the pending text is value, whatever follows."""
        if final:
            return len(self._pending)
        at = self._pending.find(_VALUE_END)
        while at >= 0:
            after = self._pending[at + len(_VALUE_END) :].lstrip()
            if any(tag.startswith(after) for tag in (_KEY, _CALL_END)):
                return at  # it may be the end
            at = self._pending.find(_VALUE_END, at + 1)
        maybe = _MAYBE_END.search(self._pending)
        return maybe.start() if maybe else len(self._pending)

    def _emit(self, calls: list[ToolCallDelta], arguments: str) -> None:
        if arguments:
            calls.append(ToolCallDelta(self.num_calls - 1, arguments))


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a chain of references (and of lone ``allOf``) leads to."""
    for _ in range(_MAX_REFERENCES):
        match schema:
            case {"$ref": str(path)}:
                schema = root
                for step in path.removeprefix("#").split("/", _MAX_REFERENCES)[1:]:
                    schema = schema.get(step) if isinstance(schema, Mapping) else None
            case {"allOf": [only]}:
                schema = only
            case _:
                return schema if isinstance(schema, Mapping) else {}
    return {}


def _types(schema: Any, root: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema within ``root`` allows; empty where it does not say."""
    types: set[str] = set()
    todo = [schema]
    # A small schema can refer to itself, or to parts twice that refer to parts twice.
    seen: set[int] = set()
    while todo:
        part = _resolved(todo.pop(), root)
        options = next((part[n] for n in ("anyOf", "oneOf") if isinstance(part.get(n), list)), None)
        if options is None:
            types |= _own_types(part)
            continue
        new = [option for option in options if id(option) not in seen]
        seen.update(map(id, new))
        if len(seen) > _MAX_OPTIONS:
            return set()
        todo += new
    return types


def _own_types(schema: Mapping[str, Any]) -> set[str]:
    """Of a schema that is no choice among others."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {one for one in kind if isinstance(one, str)}
    values = schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return {"string"}
    return set()


_PYTHON_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict,
    "array": list, "null": type(None),
}  # fmt: skip


def _typed(text: str, types: set[str]) -> Any:
    """What the model means by the text of an argument: a text where it may be nothing else."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
            json.dumps(value, allow_nan=False)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if not types or any(isinstance(value, _PYTHON_TYPES.get(kind, object)) for kind in types):
            return value
    return text


def _overlap(text: str, tag: str) -> int:
    """Length of the longest beginning of ``tag``, short of all of it, that ``text`` ends in."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
