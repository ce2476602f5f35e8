"""All events of an answer as bytes, for a store; adjacent pieces of the same kind become one."""

import json
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from glm_client import CallDelta, CallStart, TextDelta, ThoughtDelta, TokenLogprob, TokenLogprobs
from glm_frontend.core.boxes import Box
from glm_frontend.core.events import AnswerEvent, Event, Finish, TokenUsage


def to_bytes(events: Sequence[AnswerEvent]) -> bytes:
    """The bytes of all events of an answer; there is at least one."""
    content = {
        "usage": astuple(events[-1].usage),
        "events": [[event.choice, *_fields(event.event)] for event in _joined(events)],
    }
    return json.dumps(content, separators=(",", ":")).encode()


def from_bytes(data: bytes) -> list[AnswerEvent]:
    """What :func:`to_bytes` was given, with the usage of the whole answer in each event.

    Raises:
        ValueError: another version has written it.
    """
    try:
        content = json.loads(data)
        usage = TokenUsage(*content["usage"])
        return [
            AnswerEvent(choice, _event(kind, fields), usage)
            for choice, kind, *fields in content["events"]
        ]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError("is not an answer of this version") from error


def _joined(events: Sequence[AnswerEvent]) -> list[AnswerEvent]:
    joined: list[AnswerEvent] = []
    for event in events:
        before = joined[-1] if joined else None
        both = None
        if before is not None and before.choice == event.choice:
            both = _join(before.event, event.event)
        if both is None:
            joined.append(event)
        else:
            joined[-1] = AnswerEvent(event.choice, both, event.usage)
    return joined


def _join(one: Event, other: Event) -> Event | None:
    match one, other:
        case ThoughtDelta(text, notes), ThoughtDelta(more, further):
            return ThoughtDelta(text + more, notes + further)
        case TextDelta(text, notes), TextDelta(more, further):
            return TextDelta(text + more, notes + further)
        case CallDelta(index, arguments), CallDelta(other_index, more) if index == other_index:
            return CallDelta(index, arguments + more)
    return None


def _fields(event: Event) -> tuple[Any, ...]:
    match event:
        case ThoughtDelta(text, notes):
            return "thought", text, [_of_token(note) for note in notes]
        case TextDelta(text, notes):
            return "text", text, [_of_token(note) for note in notes]
        case CallStart(index, name):
            return "call", index, name
        case CallDelta(index, arguments):
            return "arguments", index, arguments
        case Finish(reason, stop_reason, boxes):
            return "finish", reason, stop_reason, boxes and [astuple(box) for box in boxes]
    raise TypeError(event)


def _event(kind: str, fields: Sequence[Any]) -> Event:
    match kind, fields:
        case "thought" | "text", [text, notes]:
            make = ThoughtDelta if kind == "thought" else TextDelta
            return make(text, tuple(map(_token, notes)))
        case "call", [index, name]:
            return CallStart(index, name)
        case "arguments", [index, arguments]:
            return CallDelta(index, arguments)
        case "finish", [reason, stop_reason, boxes]:
            found = (
                None if boxes is None else [Box(tuple(pixels), label) for pixels, label in boxes]
            )
            return Finish(reason, stop_reason, found)
    raise ValueError(f"there is no event {kind!r} with {len(fields)} fields")


def _of_token(note: TokenLogprobs) -> list[Any]:
    return [_of_one(one) for one in (note.chosen, *note.top)]


def _of_one(one: TokenLogprob) -> list[Any]:
    return [one.token_id, one.text, one.data.hex(), one.logprob, one.rank]


def _token(fields: Sequence[Any]) -> TokenLogprobs:
    chosen, *top = (
        TokenLogprob(token_id, text, bytes.fromhex(data), logprob, rank)
        for token_id, text, data, logprob, rank in fields
    )
    return TokenLogprobs(chosen, tuple(top))
