"""What the users of a load ask."""

import argparse
import base64
import io
import json
from typing import Any

from PIL import Image

from benchmarks.loadtest.mix import Mix, draw_all

OPTIONS: dict[str, Any] = {
    "seed": 1, "sides": "32,64", "text": 1.0, "picture": 1.0, "conversation": 1.0,
    "repeats": 0.0, "disconnects": 0.0,
}  # fmt: skip


def mix(user: str = "0.0", **changes: Any) -> Mix:
    return Mix(argparse.Namespace(**(OPTIONS | changes)), user)


def pictures(messages: Any) -> list[bytes]:
    return [
        base64.b64decode(part["image_url"]["url"].partition(",")[2])
        for message in messages
        for part in message["content"]
        if isinstance(part, dict) and part["type"] == "image_url"
    ]


def test_no_picture_comes_twice_unless_it_may() -> None:
    draw_all(argparse.Namespace(**OPTIONS))
    files = [
        file
        for one in (mix("0.0", text=0.0), mix("0.1", text=0.0))
        for _ in range(50)
        for file in pictures(one.next().messages)
    ]
    assert len(set(files)) == len(files) == 100
    assert {Image.open(io.BytesIO(file)).size for file in files} == {(32, 32), (64, 64)}
    repeated = mix(text=0.0, repeats=1.0)
    assert len({pictures(repeated.next().messages)[0] for _ in range(200)}) == 32


def test_weights_choose_the_kinds_and_the_seed_their_order() -> None:
    kinds = [one.kind for one in _draw(mix(), 300)]
    assert set(kinds) == {"text", "picture 32", "picture 64", "conversation, turn 1"}
    assert {one.kind for one in _draw(mix(picture=0.0, conversation=0.0), 50)} == {"text"}
    assert [one.kind for one in _draw(mix(), 50)] == [one.kind for one in _draw(mix(), 50)]
    assert [one.kind for one in _draw(mix(), 50)] != [one.kind for one in _draw(mix("0.1"), 50)]


def test_a_second_turn_has_the_history() -> None:
    drawn = mix(text=0.0, picture=0.0)
    first = drawn.next()
    second = drawn.next_turn(first, "A wave.")
    roles = [message["role"] for message in second.messages]
    assert roles == ["user", "assistant", "user"] and not second.follow_up
    assert second.messages[0] == first.messages[0] and pictures(second.messages)
    assert "A wave." in json.dumps(second.messages[1])


def test_share_of_users_disconnects_before_and_within_the_answer() -> None:
    asks = _draw(mix(disconnects=0.5, conversation=0.0), 1000)
    leaving = [one.leaving for one in asks if one.leaving]
    assert 400 < len(leaving) < 600
    before = [one for one in leaving if one.seconds < 1]
    assert 200 < len(before) < 400 and all(one.tokens >= 1 for one in leaving)
    assert not any(one.leaving for one in _draw(mix(), 100))


def _draw(source: Mix, count: int) -> list[Any]:
    return [source.next() for _ in range(count)]
