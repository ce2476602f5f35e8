"""What the users of a load ask."""

import argparse
import base64
import random
import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

from tools.load import QUESTION, picture_file

# Number drawn of each size; new ones get a unique suffix.
DRAWN = 16
FURTHER_QUESTION = "And what is in the background?"
WORDS = "Tell me about the colours of the sky in the morning, at noon and in the evening."

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Leaving:
    """When the client of a request leaves.

    Attributes:
        seconds: after which it does while there is no token; infinite for never.
        tokens: pieces of text after which it does; 0 for never.
    """

    seconds: float
    tokens: int


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        kind: its name in the tables.
        follow_up: the user's next turn in this conversation, if there is one.
        leaving: None when the client stays to the end.
    """

    kind: str
    messages: Messages
    follow_up: str = ""
    leaving: Leaving | None = None


class Mix:
    """Draws requests; no two users draw the same ones.

    Args:
        options: those of options.py.
        user: number of the user, distinct among all workers.
    """

    def __init__(self, options: argparse.Namespace, user: str) -> None:
        self._options = options
        self._random = random.Random(f"{options.seed} {user}")
        self._sides = [int(side) for side in options.sides.split(",")]
        self._weights = [options.text, options.picture, options.conversation]

    def next(self) -> Ask:
        """The next request, the first one of a conversation perhaps."""
        (kind,) = self._random.choices(("text", "picture", "conversation"), self._weights)
        if kind == "text":
            return Ask(kind, [_turn(f"{uuid.uuid4()}: {WORDS}")], leaving=self._leaving())
        side = self._random.choice(self._sides)
        messages = [_turn(QUESTION, self._picture(side))]
        if kind == "picture":
            return Ask(f"picture {side}", messages, leaving=self._leaving())
        return Ask("conversation, turn 1", messages, follow_up=FURTHER_QUESTION)

    def next_turn(self, ask: Ask, answer: str) -> Ask:
        """The same conversation with the answer that came, and the user's next turn."""
        history = [*ask.messages, {"role": "assistant", "content": answer}, _turn(ask.follow_up)]
        return Ask("conversation, turn 2", history, leaving=self._leaving())

    def _leaving(self) -> Leaving | None:
        if self._random.random() >= self._options.disconnects:
            return None
        if self._random.random() < 0.5:
            return Leaving(seconds=0.2 * self._random.random(), tokens=1)
        return Leaving(seconds=float("inf"), tokens=self._random.randint(1, 8))

    def _picture(self, side: int) -> str:
        file = _drawn(self._random.randrange(DRAWN) + DRAWN * self._options.seed, side)
        if self._random.random() >= self._options.repeats:
            file += uuid.uuid4().bytes  # the same work for the server, but none that it remembers
        return "data:image/png;base64," + base64.b64encode(file).decode()


@cache
def _drawn(seed: int, side: int) -> bytes:
    return picture_file(seed, side)


def draw_all(options: argparse.Namespace) -> None:
    """Draw the pictures now, rather than while something is measured."""
    for side in options.sides.split(","):
        for number in range(DRAWN):
            _drawn(number + DRAWN * options.seed, int(side))


def _turn(text: str, *uris: str) -> dict[str, Any]:
    pictures = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}
