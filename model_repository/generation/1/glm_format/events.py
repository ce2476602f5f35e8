"""The parts of an answer, in the order in which the model writes them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any


@dataclass(slots=True)
class ThoughtDelta:
    """The next piece of the thought.

    Attributes:
        notes: those of its tokens, excluding tags.
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
    """``</think>`` without a preceding ``<think>``: all earlier text was a thought."""


@dataclass(slots=True)
class CallStart:
    """A tool is called.

    Attributes:
        index: of the call in the answer, from 0.
        name: one of the request's tools.
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
    """Merge adjacent events of one kind, and drop empty ones.

    Args:
        is_whole: whether these are all events of an answer, so that text that turned out to be a
            thought can still be converted; text that has been sent cannot.
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
