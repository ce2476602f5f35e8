"""Places in a picture, in its own pixels, over the real server."""

import re
from typing import Any

from e2e.calls import chat, post
from tools.stack import Stack

BOX = r"\[\[[0-4][0-9]{2},[0-4][0-9]{2},[5-9][0-9]{2},[5-9][0-9]{2}\]\]"


def test_boxes_are_in_pixels_of_the_picture_as_it_was_sent(stack: Stack) -> None:
    """The answer is held to the form of a box, so that there is one."""
    body = chat(
        "Where is the circle?",
        "photo-circle.jpg",  # a photograph that is larger than what the model sees of it
        return_boxes=True,
        guided_regex=BOX,
        chat_template_kwargs={"enable_thinking": False},
    )
    message: Any = post(stack, body).json()["choices"][0]["message"]
    written = [int(number) for number in re.findall("[0-9]+", message["content"])]
    (box,) = message["boxes"]
    width, height = 1200, 900
    expected = [n * side / 1000 for n, side in zip(written, [width, height] * 2, strict=True)]
    assert [abs(a - b) <= 0.5 for a, b in zip(box["box"], expected, strict=True)] == [True] * 4
