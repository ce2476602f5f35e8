"""Tool calls of an answer, whole or in pieces."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from glm_client import CallDelta, CallStart


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


def call_piece(event: CallStart | CallDelta) -> ToolCallDelta:
    """The piece that the model server sent; the beginning of a call gets its id here."""
    if isinstance(event, CallStart):
        return ToolCallDelta(event.index, id=f"call_{uuid.uuid4().hex[:24]}", name=event.name)
    return ToolCallDelta(event.index, event.arguments)
