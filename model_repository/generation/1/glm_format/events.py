"""What an answer consists of, in the order in which the model writes it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any


@dataclass(slots=True)
class ThoughtDelta:
    """The next piece of the thought.

    Attributes:
        notes: what was given with each of its tokens, tags left out.
    """

    text: str
    notes: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class TextDelta:
    """The next piece of the answer's text; attributes as in :class:`ThoughtDelta`."""

    text: str
    notes: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class TextWasThought:
    """``</think>`` came, and no ``<think>`` had: all the text before was a thought."""


@dataclass(slots=True)
class CallStart:
    """A tool is called.

    Attributes:
        index: of the call in the answer, from 0.
        name: one of those that the request offers.
    """

    index: int
    name: str


@dataclass(slots=True)
class CallDelta:
    """The next piece of the JSON text of a call's arguments."""

    index: int
    arguments: str


Event = ThoughtDelta | TextDelta | TextWasThought | CallStart | CallDelta


def merged(events: Iterable[Event], *, is_whole: bool) -> list[Event]:
    """The same events with neighbours of one kind joined, and none that says nothing.

    Args:
        is_whole: whether these are all events of an answer, so that text that turned out to be a
            thought can still become one; what has been sent before cannot.
    """
    found: list[Event] = []
    for event in events:
        if not isinstance(event, TextWasThought):
            found.append(event)
        elif is_whole:
            found = [_as_thought(one) if isinstance(one, TextDelta) else one for one in found]
    result: list[Event] = []
    for kind, group in groupby(found, key=type):
        run: list[Any] = list(group)
        if kind is CallStart:
            result += run
        elif kind is CallDelta:
            result.append(CallDelta(run[0].index, "".join(one.arguments for one in run)))
        else:
            text = "".join(one.text for one in run)
            notes = [note for one in run for note in one.notes]
            if text or notes:
                result.append(kind(text, notes))
    return result


def _as_thought(text: TextDelta) -> ThoughtDelta:
    return ThoughtDelta(text.text, text.notes)
