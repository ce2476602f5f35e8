"""Text with tags as the events that stage 2 makes of it, where each tag is one token."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glm_client import CallDelta, CallStart, Event, TextDelta, ThoughtDelta, TokenLogprobs
from glm_format import events as format_events
from glm_format.answer import AnswerReader, Channel
from glm_format.tags import Tag

_TAG_IDS = {str(tag): number for number, tag in enumerate(Tag)}
_TAG = re.compile("|".join(map(re.escape, _TAG_IDS)))
_EVENTS: dict[type, Callable[[Any], Event]] = {
    format_events.ThoughtDelta: lambda event: ThoughtDelta(event.text, tuple(event.notes)),
    format_events.TextDelta: lambda event: TextDelta(event.text, tuple(event.notes)),
    format_events.CallStart: lambda event: CallStart(event.index, event.name),
    format_events.CallDelta: lambda event: CallDelta(event.index, event.arguments),
}


class Teller:
    """Makes the events of one answer.

    Args:
        tools: in OpenAI's form.
        goes_on: whether the answer goes on in the middle of a text.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] = (), *, goes_on: bool = False) -> None:
        self._texts: list[str] = []
        self._held = ""
        self._reader = AnswerReader(
            {number: Tag(text) for text, number in _TAG_IDS.items()},
            lambda token_id: self._texts[token_id - len(_TAG_IDS)].encode(),
            begins_in=Channel.TEXT if goes_on else Channel.START,
            functions={
                tool["function"]["name"]: tool["function"].get("parameters") for tool in tools
            },
        )

    def events(
        self, text: str, finish_reason: str | None = None, logprobs: Sequence[TokenLogprobs] = ()
    ) -> tuple[Event, ...]:
        """Of the next piece; without ``logprobs`` all text between two tags is one token."""
        tokens: list[tuple[str, Any]] = [(one.chosen.text, one) for one in logprobs if text]
        if not tokens:
            text = self._held + text
            cut = len(text) if finish_reason else len(text) - _begun_tag(text)
            text, self._held = text[:cut], text[cut:]
            tokens = [(piece, None) for piece in re.split(f"({_TAG.pattern})", text) if piece]
        found: list[format_events.Event] = []
        for token, note in tokens:
            self._texts.append(token)
            number = _TAG_IDS.get(token, len(_TAG_IDS) + len(self._texts) - 1)
            found += self._reader.push(number, note)
        if finish_reason:
            found += self._reader.finish(is_cut=finish_reason == "length")
        merged = format_events.merged(found, is_whole=False)
        return tuple(_EVENTS[type(event)](event) for event in merged)


def _begun_tag(text: str) -> int:
    """How many characters at the end of a text are the beginning of a tag."""
    longest = max(map(len, _TAG_IDS))
    for length in range(min(len(text), longest - 1), 0, -1):
        if any(tag.startswith(text[-length:]) for tag in _TAG_IDS):
            return length
    return 0
