"""Split what GLM writes into its thought and its answer, while it comes in pieces.

GLM writes ``<think>thought</think>`` and then the answer; ``<|begin_of_box|>`` and
``<|end_of_box|>`` may stand around the part of the answer that counts. All of these are ordinary
text on the wire.
"""

from dataclasses import dataclass
from enum import Enum

_OPEN, _CLOSE = "<think>", "</think>"
_BOXES = ("<|begin_of_box|>", "<|end_of_box|>")


@dataclass(frozen=True, slots=True)
class ThinkingText:
    """A piece of text, split: either part may be empty."""

    reasoning: str = ""
    content: str = ""

    def __add__(self, other: "ThinkingText") -> "ThinkingText":
        return ThinkingText(self.reasoning + other.reasoning, self.content + other.content)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content)


class _Part(Enum):
    START = 1  # nothing seen yet that tells thought from answer
    THOUGHT = 2
    ANSWER = 3


class ThinkingSplitter:
    """Splits one answer. The result does not depend on where the pieces are cut.

    Text that does not begin with ``<think>`` is all answer; a thought that never ends is all
    thought, and the end of a thought that never began is dropped. The box tags are dropped, and so
    are line breaks at the beginning and the end of a thought and at the beginning of the answer.

    Args:
        in_answer: whether the text goes on in the middle of an answer.
    """

    def __init__(self, *, in_answer: bool = False) -> None:
        self._part = _Part.ANSWER if in_answer else _Part.START
        self._quotes = False  # whether the answer has the beginning of a thought as text
        self._pending = ""
        self._skip_line_breaks = False
        self._line_breaks = ""  # of a thought; dropped if nothing of the thought follows them

    def feed(self, text: str) -> ThinkingText:
        """What is certain after ``text``; the beginning of a possible tag is held back."""
        self._pending += text
        return self._drain(final=False)

    def finish(self) -> ThinkingText:
        """What was held back. Call it once, after the last piece."""
        return self._drain(final=True)

    def _drain(self, *, final: bool) -> ThinkingText:
        if self._part is _Part.START and not self._leave_start(final=final):
            return ThinkingText()
        split = ThinkingText()
        while self._pending:
            text, tag = self._take(final=final)
            split += self._assign(text)
            if tag == _CLOSE and self._part is _Part.THOUGHT:
                self._enter(_Part.ANSWER)
            elif tag == _OPEN or (tag == _CLOSE and self._quotes):
                split += self._assign(tag)
                self._quotes = tag == _OPEN
            if tag is None:
                break
        return split

    def _leave_start(self, *, final: bool) -> bool:
        text = self._pending.lstrip()
        if text.startswith(_OPEN):
            self._pending = text.removeprefix(_OPEN)
            self._enter(_Part.THOUGHT)
        elif final or not _OPEN.startswith(text):
            self._enter(_Part.ANSWER)
        return self._part is not _Part.START

    def _enter(self, part: _Part) -> None:
        self._part = part
        self._skip_line_breaks = True

    def _take(self, *, final: bool) -> tuple[str, str | None]:
        """The pending text up to the first tag, and that tag; without one, all that is certain."""
        tags = (_CLOSE, *_BOXES) if self._part is _Part.THOUGHT else (_OPEN, _CLOSE, *_BOXES)
        found = [(index, tag) for tag in tags if (index := self._pending.find(tag)) >= 0]
        if found:
            cut, tag = min(found)
            text, self._pending = self._pending[:cut], self._pending[cut + len(tag) :]
            return text, tag
        held = 0 if final else max(_overlap(self._pending, tag) for tag in tags)
        cut = len(self._pending) - held
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text, None

    def _assign(self, text: str) -> ThinkingText:
        if self._skip_line_breaks:
            text = text.lstrip("\n")
            self._skip_line_breaks = not text
        if self._part is _Part.ANSWER:
            return ThinkingText(content=text)
        text = self._line_breaks + text
        thought = text.rstrip("\n")
        self._line_breaks = text[len(thought) :]
        return ThinkingText(reasoning=thought)


def split_thinking(text: str) -> ThinkingText:
    """Split a whole answer."""
    splitter = ThinkingSplitter()
    return splitter.feed(text) + splitter.finish()


def _overlap(text: str, tag: str) -> int:
    """Length of the longest beginning of ``tag``, short of all of it, that ``text`` ends in."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
