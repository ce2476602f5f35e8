"""Places in a picture: found in what the model writes, and told in pixels."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from glm_frontend.core.boxes import Box, find_boxes
from unit.frontend.fakes import CHAT, FakeBackend, chat, delta, events, picture

TEXT = "It is <|begin_of_box|>[[100, 200,500,1000]]<|end_of_box|>."
BOXES = [{"box": [20, 20, 100, 100], "label": None}]  # of 200 x 100 pixels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|begin_of_box|>[[0,0,1000,1000]]<|end_of_box|>", [((0, 0, 640, 480), None)]),
        ("[100,200,300,400]", [((64, 96, 192, 192), None)]),
        ("[[1,1,2,2],[500, 500, 500, 500]]", [((1, 0, 1, 1), None), ((320, 240, 320, 240), None)]),
        ("[0.5,0,999.5,1000]", [((0, 0, 640, 480), None)]),
        (
            '```json\n[{"bbox_2d": [0, 0, 500, 500], "label": "a \\"red\\" disc"}]\n```',
            [((0, 0, 320, 240), 'a "red" disc')],
        ),
        ('[{"label": "x", "box": [0, 0, 10, 10]}, [0,0,10,10]]',
         [((0, 0, 6, 5), "x"), ((0, 0, 6, 5), None)]),
        ("(100,200,300,400)", [((64, 96, 192, 192), None)]),
        ("((100,200),(300,400))", [((64, 96, 192, 192), None)]),
        ("<100, 200, 300, 400>", [((64, 96, 192, 192), None)]),
        ("[[100,200],[300,400]]", [((64, 96, 192, 192), None)]),
        ("（100，200），（300，400）", [((64, 96, 192, 192), None)]),
        ("【100，200，300，400】", [((64, 96, 192, 192), None)]),
        ("[1,2,3]", []),
        ("[1,2,3,4,5]", []),
        ("[0,0,1001,5]", []),
        ("[500,0,100,5]", []),
        ("[-1,0,1,5]", []),
        ("no box", []),
    ],
)  # fmt: skip
def test_boxes_of_a_text(text: str, expected: list[Any]) -> None:
    assert find_boxes(text, (640, 480)) == [Box(pixels, label) for pixels, label in expected]


def body(**fields: Any) -> dict[str, Any]:
    return chat(**fields) | {"messages": [{"role": "user", "content": [picture()]}]}


@pytest.mark.parametrize("size", [1, 4, 100])
def test_boxes_are_told_where_they_are_asked_for(
    client: TestClient, backend: FakeBackend, size: int
) -> None:
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    backend.script = [*map(delta, pieces[:-1]), delta(pieces[-1], finish_reason="stop")]
    message = client.post(CHAT, json=body(return_boxes=True)).json()["choices"][0]["message"]
    assert message["content"] == "It is [[100, 200,500,1000]]."
    assert message["boxes"] == BOXES
    assert len(backend.requests) == 1  # the picture's size comes with the answer
    chunks = events(client.post(CHAT, json=body(return_boxes=True, stream=True)).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta["boxes"] for delta in deltas if "boxes" in delta] == [BOXES]
    assert deltas[-1] == {} and "boxes" in deltas[-2]
    plain = client.post(CHAT, json=body()).json()["choices"][0]["message"]
    assert "boxes" not in plain and plain["content"] == message["content"]


def test_boxes_need_a_picture(client: TestClient) -> None:
    error = client.post(CHAT, json=chat(return_boxes=True)).json()["error"]
    assert (error["param"], error["code"]) == ("return_boxes", "invalid_value")
