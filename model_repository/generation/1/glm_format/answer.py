"""Parses one answer token by token into its thought, its text and its calls."""

import codecs
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any

import numpy as np
import numpy.typing as npt

from glm_format.calls import CallReader
from glm_format.events import Event, TextDelta, TextWasThought, ThoughtDelta
from glm_format.tags import BOXES, Tag


class Channel(Enum):
    """What a token of an answer belongs to."""

    START = auto()  # undecided between thought and text
    THOUGHT = auto()
    TEXT = auto()
    CALL = auto()


class AnswerReader:
    """Reads one answer. The events do not depend on how its text falls into tokens.

    Line breaks at the beginning and the end of a thought and at the beginning of the text are
    dropped, and so are box tags, and space between calls. All other text stays as it is.

    Args:
        tags: from token ids to tags.
        token_bytes: from a token to its bytes; empty if it is not text.
        begins_in: the channel in which the prompt ends.
        functions: from the names of the tools that may be called to the JSON schemas of their
            parameters. Without any, a call is text.
        stop: strings that end the answer if they occur in its text.

    Attributes:
        channel: of the last token.
        stop_string: the entry of ``stop`` that was found; the answer ends before it.
        num_thought_tokens: number of thinking tokens so far, including tags.
    """

    def __init__(
        self,
        tags: Mapping[int, Tag],
        token_bytes: Callable[[int], bytes],
        *,
        begins_in: Channel = Channel.START,
        functions: Mapping[str, Any] | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        self._tags = tags
        self._token_bytes = token_bytes
        self._functions = functions or {}
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._events: list[Event] = []
        self._todo: deque[tuple[str | Tag, Any]] = (
            deque()
        )  # text and tags that are not processed yet
        self._space = ""  # of START
        self._notes: list[Any] = []  # of START
        self._line_breaks = ""  # of a thought; dropped if nothing of the thought follows them
        # Whether line breaks are those at the beginning of a part.
        self._is_new = begins_in is Channel.START
        self._quotes = False  # whether the text has <think> as text
        self._may_be_thought = begins_in is Channel.START
        # Of the text: space at its beginning and after a call, dropped if a call follows; and what
        # may turn out to be the beginning of a stop string.
        self._margin: str | None = ""
        self._held = ""
        # The template has a line break before a call, which is not the text's.
        self._line_break = ""
        self._space_notes: list[Any] = []  # of tokens that are nothing but such space
        self._call: CallReader | None = None
        self._call_pieces: list[tuple[str | Tag, Any]] = []  # until its name is known
        self._before_call = begins_in
        self._num_calls = 0
        self._num_tokens = 0
        self.channel = begins_in
        self.stop_string: str | None = None
        self.num_thought_tokens = 0

    @property
    def held(self) -> str:
        """The end of the text so far that may be the beginning of a stop string."""
        if not self._stop:
            return ""
        undecided = "".join(str(piece) for piece, _ in self._call_pieces) if self._call else ""
        return self._space + (self._margin or "") + self._held + self._line_break + undecided

    def push(self, token_id: int, note: Any = None) -> list[Event]:
        """Process a token.

        Args:
            note: returned with the text of the token; None for none.
        """
        if self.stop_string is not None:
            return []
        self._num_tokens += 1
        was_thought = self.channel is Channel.THOUGHT
        tag = self._tags.get(token_id)
        if tag is None:
            self._todo.append((self._decoder.decode(self._token_bytes(token_id)), note))
        else:
            self._flush_decoder()
            self._todo.append((tag, note))
        self._take_all()
        if self.channel is Channel.THOUGHT or (was_thought and self.channel is Channel.TEXT):
            self.num_thought_tokens = self._num_tokens
        return self._taken()

    def finish(self, *, is_cut: bool) -> list[Event]:
        """End the answer; returns the events that were held back.

        Args:
            is_cut: whether it was cut off by a length limit, so that a call may be incomplete.
        """
        if self.stop_string is None:
            self._flush_decoder()
            self._take_all()
            while self._call is not None:
                self._add_call_events(self._call.end(is_cut=is_cut))
                if self._call is None or not self._call.is_refused:
                    break
                self._refuse_call()  # what is now text may contain another call
                self._take_all()
        if self.stop_string is None:
            if self.channel is Channel.START:
                self._leave_start(Channel.TEXT)
            if self._margin and not self._num_calls:
                self._held, self._margin = self._margin, None
            self._release_text()
        return self._taken()

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _flush_decoder(self) -> None:
        """An unfinished character becomes U+FFFD."""
        if text := self._decoder.decode(b"", final=True):
            self._todo.append((text, None))

    def _take_all(self) -> None:
        """Process all pending pieces, up to a stop string."""
        while self._todo and self.stop_string is None:
            piece, note = self._todo.popleft()
            if isinstance(piece, Tag):
                self._take_tag(piece, note)
            else:
                self._take_text(piece, note)
        self._todo.clear()

    # ---- text ----

    def _take_text(self, text: str, note: Any) -> None:
        notes = [] if note is None else [note]
        match self.channel:
            case Channel.START:
                self._space += text
                self._notes += notes
                if self._space.strip():
                    self._leave_start(Channel.TEXT)
            case Channel.THOUGHT:
                self._add_thought(text, notes)
            case Channel.TEXT:
                self._add_text(text, notes)
            case Channel.CALL:
                self._add_to_call(text, note)

    def _leave_start(self, channel: Channel) -> None:
        self.channel = channel
        space, self._space = self._space, ""
        notes, self._notes = self._notes, []
        if channel is Channel.TEXT:
            self._add_text(space, notes)

    def _add_thought(self, text: str, notes: list[Any]) -> None:
        if self._is_new:
            text = text.lstrip("\n")
            self._is_new = not text
        text = self._line_breaks + text
        thought = text.rstrip("\n")
        self._line_breaks = text[len(thought) :]
        if thought or notes:
            self._events.append(ThoughtDelta(thought, notes))

    def _add_text(self, text: str, notes: list[Any]) -> None:
        if self._is_new:
            if text and not text.strip("\n"):
                return  # of the template
            text = text.lstrip("\n")
            self._is_new = not text
        notes, self._space_notes = self._space_notes + notes, []
        if self._margin is not None:
            text = self._margin + text
            if self._functions and not text.strip():
                self._margin, self._space_notes = text, notes
                return
            self._margin = None
        text, self._line_break = self._line_break + text, ""
        if self._functions and text.endswith("\n"):
            text, self._line_break = text[:-1], "\n"
            if not text:
                self._space_notes = notes
                return
        text = self._before_stop(self._held + text)
        if text or notes:
            self._events.append(TextDelta(text, notes))

    def _before_stop(self, text: str) -> str:
        """The text up to a stop string; what may be the beginning of one is held back."""
        if not self._stop:
            return text
        found = [stop for stop in self._stop if stop in text]
        if found:
            # As if the text had arrived character by character.
            self.stop_string = min(
                found, key=lambda stop: (text.find(stop) + len(stop), text.find(stop))
            )
            self._held = ""
            return text[: text.find(self.stop_string)]
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _release_text(self) -> None:
        """Release text that was held back, as it turned out to be plain text."""
        text = self._before_stop(self._held + self._line_break)
        if self.stop_string is None:
            text += self._held
        notes, self._space_notes = self._space_notes, []
        self._held = self._line_break = ""
        if text:
            self._events.append(TextDelta(text, notes))

    # ---- tags ----

    def _take_tag(self, tag: Tag, note: Any) -> None:
        if self.channel is Channel.CALL:
            self._add_to_call(tag, note)
        elif tag in BOXES:
            pass
        elif tag is Tag.CALL and self._functions:
            self._begin_call(note)
        elif tag is Tag.THINK and self.channel is Channel.START:
            self._leave_start(Channel.THOUGHT)
            self._may_be_thought = False
        elif tag is Tag.END_THINK and self.channel is Channel.THOUGHT:
            self._end_thought()
        elif tag is Tag.END_THINK and not self._quotes:
            self._leave_start_or_thought()
        else:
            self._quotes = tag is Tag.THINK or (self._quotes and tag is not Tag.END_THINK)
            self._take_text(str(tag), note)

    def _end_thought(self) -> None:
        self.channel, self._line_breaks, self._is_new = Channel.TEXT, "", True
        self._quotes = False

    def _leave_start_or_thought(self) -> None:
        """``</think>`` without a ``<think>`` before it."""
        if self.channel is Channel.START:
            self.channel, self._space, self._notes = Channel.TEXT, "", []  # nothing but space
        elif self._may_be_thought:
            self._release_text()
            self._margin = ""
            self._events.append(TextWasThought())
            self.num_thought_tokens = self._num_tokens
        self._may_be_thought, self._is_new = False, True

    # ---- calls ----

    def _begin_call(self, note: Any) -> None:
        self._call = CallReader(self._num_calls, self._functions)
        self._call_pieces = [(Tag.CALL, note)]
        self._before_call = self.channel
        self.channel = Channel.CALL

    def _add_to_call(self, piece: str | Tag, note: Any) -> None:
        call = self._call
        assert call is not None
        if piece is Tag.CALL and call.may_end:
            self._todo.appendleft((piece, note))  # once this one has ended
            self._add_call_events(call.tag(Tag.END_CALL))
            if call.is_refused:
                self._refuse_call()
            return
        if call.name is None:
            self._call_pieces.append((piece, note))
        if isinstance(piece, Tag):
            self._add_call_events(call.tag(piece))
        elif piece:
            self._add_call_events(call.text(piece))
        if call.is_refused:
            self._refuse_call()

    def _add_call_events(self, events: list[Event]) -> None:
        call = self._call
        assert call is not None
        if call.name is not None and self._call_pieces:  # its name is now known
            self._call_pieces = []
            self._num_calls += 1
            self._may_be_thought = False
            self._space, self._notes, self._line_breaks = "", [], ""
            self._line_break, self._space_notes = "", []
            self._release_text()
            self._margin, self._is_new = "", False
        self._events += events
        if call.is_done:
            self._call, self.channel = None, Channel.TEXT

    def _refuse_call(self) -> None:
        """Treat an apparent call as text, or as part of the thought."""
        pieces, self._call_pieces = self._call_pieces, []
        self._call, self.channel = None, self._before_call
        (tag, note), *rest = pieces
        self._todo.extendleft(reversed([(str(tag), note), *rest]))


def channel_after(
    prompt: Sequence[int] | npt.NDArray[np.int32], tags: Mapping[int, Tag], assistant: int | None
) -> Channel:
    """The channel in which an answer to this prompt continues; START if it begins anew.

    Args:
        assistant: the token that begins the answer's turn.
    """
    for place in range(len(prompt) - 1, -1, -1):
        token_id = int(prompt[place])
        tag = tags.get(token_id)
        if token_id == assistant or tag is Tag.END_THINK:
            # GLM has a line break after either; an answer may begin there.
            return Channel.START if place >= len(prompt) - 2 else Channel.TEXT
        if tag is Tag.THINK:
            return Channel.THOUGHT
    return Channel.START


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of ``text`` that is a prefix of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
