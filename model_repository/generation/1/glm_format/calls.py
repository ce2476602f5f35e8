"""Parses one tool call, after ``<tool_call>``.

A model does not always follow its template, so there is one general rule: the next tag determines
where the part before it ends. ``</tool_call>`` or the end of the turn closes a call, a
missing tag of a key or a value is inferred from the one that follows it, and JSON in the place of
keys and values is read. A ``</arg_value>`` ends a value only where another argument or the end of
the call follows; anywhere else it belongs to the value.
"""

import json
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from glm_format.arguments import properties, types_of, value_of
from glm_format.events import CallDelta, CallStart, Event
from glm_format.tags import Tag

# Maximum length of a name, including a key that follows it without a tag, that is held back.
_MAX_NAME = 512


class _Part(Enum):
    NAME = auto()
    BETWEEN = auto()  # arguments
    KEY = auto()
    BEFORE_VALUE = auto()
    VALUE = auto()


class CallReader:
    """Parses one call. ``text`` and ``tag`` process its pieces, ``end`` the end of the answer.

    Args:
        index: of the call in the answer, from 0.
        functions: from the names that the request offers to the JSON schemas of their parameters.

    Attributes:
        name: one of ``functions``; None until it is known.
        is_refused: it names no available function, so it is not a call; ``name`` stays None.
        is_done: it is complete.
    """

    def __init__(self, index: int, functions: Mapping[str, Any]) -> None:
        self._index = index
        self._functions = functions
        self._part = _Part.NAME
        self._text = ""  # of the part, as far as it is not certain
        self._maybe_end: str | None = None  # </arg_value> and the space after it
        self._key: str | None = None
        self._is_streamed = False
        self._num_arguments = 0
        self._events: list[Event] = []
        self.name: str | None = None
        self.is_refused = False
        self.is_done = False

    @property
    def may_end(self) -> bool:
        """Whether another call may begin here, as if this one had been closed."""
        if self._part is _Part.NAME:
            return self._is_json() and _json_object(self._text) is not None
        return self._part is _Part.BETWEEN or self._maybe_end is not None

    def text(self, text: str) -> list[Event]:
        """Process text."""
        if self._maybe_end is not None and not text.isspace():
            self._text += self._maybe_end + text
            self._maybe_end = None
        elif self._maybe_end is not None:
            self._maybe_end += text
        else:
            self._text += text
        if self._part is _Part.NAME and not self._is_json():
            name, line_break, rest = self._text.lstrip().partition("\n")
            before, brace, after = name.partition("{")
            if brace and before.strip() in self._functions:  # its arguments follow as JSON
                name, line_break, rest = before, brace, f"{brace}{after}{line_break}{rest}"
            if not line_break:
                self.is_refused = not self._may_be_name(name.rstrip())
            elif self._begin(name.strip()):
                self._text = rest
        elif self._part is _Part.VALUE:
            self._stream_value()
        return self._taken()

    def tag(self, tag: Tag) -> list[Event]:
        """Process a tag."""
        {
            _Part.NAME: self._tag_in_name,
            _Part.BETWEEN: self._tag_between,
            _Part.KEY: self._tag_in_key,
            _Part.BEFORE_VALUE: self._tag_before_value,
            _Part.VALUE: self._tag_in_value,
        }[self._part](tag)
        return self._taken()

    def end(self, *, is_cut: bool) -> list[Event]:
        """End the answer; ``is_cut``: by a length limit, so that the call stays incomplete."""
        if not is_cut:
            return self.tag(Tag.END_CALL)
        if self._part is _Part.VALUE and self._maybe_end is not None:
            self._end_value()
        elif self._part is _Part.VALUE and self._is_streamed:
            self._emit(_quoted(self._text))
        return self._taken()

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _emit(self, arguments: str) -> None:
        if arguments:
            self._events.append(CallDelta(self._index, arguments))

    def _is_json(self) -> bool:
        return self._text.lstrip().startswith("{")

    def _may_be_name(self, text: str) -> bool:
        """Whether it may be the beginning of a name, or of a name and a key."""
        return len(text) < _MAX_NAME and any(
            name.startswith(text) or text.startswith(name) for name in self._functions
        )

    def _begin(self, name: str) -> bool:
        """The name is complete."""
        if name not in self._functions:
            self.is_refused = True
            return False
        self.name, self._part, self._text = name, _Part.BETWEEN, ""
        self._events.append(CallStart(self._index, name))
        return True

    def _close(self) -> None:
        self._emit("}" if self._num_arguments else "{}")
        self.is_done = True

    # ---- tags ----

    def _tag_in_name(self, tag: Tag) -> None:
        if self._is_json():
            if tag is Tag.END_CALL:
                self._read_call_of_json()
            elif tag is Tag.CALL:  # the JSON is incomplete, so it is none
                self.is_refused = True
            else:
                self._text += tag
            return
        name = self._text.strip()
        if tag in (Tag.KEY, Tag.END_CALL):
            if self._begin(name):
                self._tag_between(tag)
        elif tag is Tag.END_KEY:
            self._begin_with_key(name)
        else:
            self.is_refused = True

    def _begin_with_key(self, text: str) -> None:
        """A name and a key without a tag between them."""
        for name in sorted(self._functions, key=len, reverse=True):
            key = text.removeprefix(name).strip()
            if text.startswith(name) and key in properties(self._functions[name]):
                self._begin(name)
                self._key, self._part = key, _Part.BEFORE_VALUE
                return
        self.is_refused = True

    def _tag_between(self, tag: Tag) -> None:
        text, self._text = self._text.strip(), ""
        match tag:
            case Tag.KEY:
                self._part = _Part.KEY
            case Tag.END_CALL:
                if not self._num_arguments and (given := _json_object(text)) is not None:
                    self._emit(json.dumps(given, ensure_ascii=False))
                    self.is_done = True
                else:
                    self._close()
            case Tag.END_KEY if text:
                self._key, self._part = text, _Part.BEFORE_VALUE
            case Tag.VALUE if text:
                self._key = text
                self._begin_value()
            case _:
                self._text = text + tag

    def _tag_in_key(self, tag: Tag) -> None:
        text, self._text = self._text.strip(), ""
        match tag:
            case Tag.END_KEY if text:
                self._key, self._part = text, _Part.BEFORE_VALUE
            case Tag.VALUE if text:
                self._key = text
                self._begin_value()
            case Tag.KEY:
                pass
            case Tag.END_CALL:
                self._close()
            case _:
                self._part = _Part.BETWEEN  # an unusable key

    def _tag_before_value(self, tag: Tag) -> None:
        match tag:
            case Tag.VALUE:
                self._text = ""
                self._begin_value()
            case Tag.END_VALUE | Tag.KEY | Tag.END_CALL:
                text = self._text.strip()
                self._text = ""
                if text or tag is Tag.END_VALUE:
                    self._begin_value()
                    self._text = text
                    self._end_value()
                else:
                    self._part = _Part.BETWEEN
                if tag is not Tag.END_VALUE:
                    self._tag_between(tag)
            case _:
                self._text += tag

    def _tag_in_value(self, tag: Tag) -> None:
        if tag in (Tag.KEY, Tag.END_CALL):
            self._end_value()
            self._tag_between(tag)
            return
        if self._maybe_end is not None:
            self._text += self._maybe_end
            self._maybe_end = None
        if tag is Tag.END_VALUE:
            self._maybe_end = str(tag)
        else:
            self._text += tag
        self._stream_value()

    # ---- values ----

    def _begin_value(self) -> None:
        assert self.name is not None and self._key is not None
        self._part = _Part.VALUE
        self._is_streamed = types_of(self._functions[self.name], self._key) == {"string"}
        key = json.dumps(self._key, ensure_ascii=False) + ": "
        self._emit((", " if self._num_arguments else "{") + key + '"' * self._is_streamed)
        self._num_arguments += 1

    def _stream_value(self) -> None:
        """Emit the part of a string that is certain."""
        if not self._is_streamed:
            return
        # A line break at the end belongs to the text only if its closing tag follows.
        held = 0 if self._maybe_end is not None else len(self._text) - len(self._text.rstrip("\n"))
        certain = len(self._text) - held
        self._emit(_quoted(self._text[:certain]))
        self._text = self._text[certain:]

    def _end_value(self) -> None:
        text, self._text = self._text, ""
        if self._maybe_end is None:
            text = text.removesuffix("\n")
        self._maybe_end = None
        if self._is_streamed:
            self._emit(_quoted(text) + '"')
        else:
            assert self.name is not None and self._key is not None
            value = value_of(text, types_of(self._functions[self.name], self._key))
            self._emit(json.dumps(value, ensure_ascii=False))
        self._key, self._part = None, _Part.BETWEEN

    def _read_call_of_json(self) -> None:
        """``{"name": ..., "arguments": {...}}``, as other models write calls."""
        call = _json_object(self._text) or {}
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = _json_object(arguments)
        name = call.get("name")
        if not isinstance(name, str) or not isinstance(arguments, dict):
            self.is_refused = True
        elif self._begin(name):
            self._emit(json.dumps(arguments, ensure_ascii=False))
            self.is_done = True


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _quoted(text: str) -> str:
    """The text as the content of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
