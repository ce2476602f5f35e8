"""Find the boxes that GLM writes, and bring them into pixels of the client's picture.

GLM writes a place in a picture as ``[x1, y1, x2, y2]`` in thousandths of its width and height,
mostly between ``<|begin_of_box|>`` and ``<|end_of_box|>``, and sometimes in JSON with a label.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

_FULL = 1000
_NUMBER = r"\s*(\d{1,4}(?:\.\d+)?)\s*"
# Also with other brackets, or as two corners: ((x1, y1), (x2, y2)).
_BOX = re.compile(rf"[\[(<]{_NUMBER},{_NUMBER}(?:[\])>]\s*,\s*[\[(<]|,){_NUMBER},{_NUMBER}[\])>]")
# As Chinese text has them.
_WIDE = str.maketrans("（），【】", "(),[]")
_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class Box:
    """A place in a picture.

    Attributes:
        pixels: left, top, right, bottom, in pixels of the picture as it was sent, upright.
        label: what the model calls it, if it does.
    """

    pixels: tuple[int, int, int, int]
    label: str | None


def find_boxes(text: str, size: tuple[int, int]) -> list[Box]:
    """The boxes of an answer, in order.

    Args:
        text: the answer as the model writes it, without its thought.
        size: width and height of the picture in pixels.
    """
    boxes = []
    for match in _BOX.finditer(text.translate(_WIDE)):
        left, top, right, bottom = (float(number) / _FULL for number in match.groups())
        if max(left, top, right, bottom) > 1 or left > right or top > bottom:
            continue  # four numbers of another meaning
        width, height = size
        pixels = (left * width, top * height, right * width, bottom * height)
        boxes.append(Box(_rounded(pixels), _label(text, match.start(), match.end())))
    return boxes


def _rounded(pixels: Sequence[float]) -> tuple[int, int, int, int]:
    left, top, right, bottom = map(round, pixels)
    return left, top, right, bottom


def _label(text: str, start: int, end: int) -> str | None:
    """The label in the JSON object around a box."""
    begin, finish = text.rfind("{", 0, start), text.find("}", end)
    if begin < 0 or finish < 0 or "}" in text[begin:start]:
        return None
    found = _LABEL.search(text[begin:finish])
    try:
        return str(json.loads(found[1])) if found else None
    except ValueError:
        return None
