"""What the demo checkpoint has learnt, through the whole server: true calls, true JSON, true boxes.

The pictures were drawn by other means than those of its training.
"""

import json
from typing import Any

import openai
import pytest

from demo_model.tools import FIND_PICTURE, GET_TIME, GET_WEATHER, PAINT, SAVE_NUMBER, TOOLS
from e2e.calls import DESCRIPTIONS, MODEL, chat, content, data_uri, post
from tools.stack import Stack

THINKING = pytest.mark.parametrize("thinking", [True, False])

Calls = list[tuple[str, dict[str, Any]]]


def kwargs(thinking: bool) -> dict[str, Any]:
    return {"chat_template_kwargs": {"enable_thinking": thinking}}


CASES: list[tuple[str, list[str], list[Any], Calls]] = [
    ("Save the number in the picture.", ["plot-42.png"], [SAVE_NUMBER, GET_TIME],
     [("save_number", {"number": 42})]),
    ("Save the number in the picture.", ["browser-1207.jpg"], [PAINT, SAVE_NUMBER],
     [("save_number", {"number": 1207})]),
    ("Paint all shapes.", ["plot-circle-square.png"], [GET_WEATHER, PAINT],
     [("paint", {"colour": "red", "shape": "circle"}),
      ("paint", {"colour": "blue", "shape": "square"})]),
    ("Paint all shapes.", ["photo-star.jpg"], [PAINT],
     [("paint", {"colour": "orange", "shape": "star"})]),
    ("What time is it?", [], [GET_TIME, SAVE_NUMBER], [("get_time", {})]),
    ("What is the weather in Paris?", [], [GET_WEATHER], [("get_weather", {"city": "Paris"})]),
    ("东京的天气怎么样？", [], [GET_WEATHER], [("get_weather", {"city": "东京"})]),
    ("Find the picture cat and describe it.", [], [FIND_PICTURE, GET_TIME],
     [("find_picture", {"name": "cat"})]),
]  # fmt: skip


@THINKING
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[3][0][0])
def test_it_calls_the_right_tool(
    stack: Stack, case: tuple[str, list[str], list[Any], Calls], thinking: bool
) -> None:
    question, pictures, tools, expected = case
    client = openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0)
    body: Any = chat(question, *pictures, tools=tools)
    extra = kwargs(thinking)
    with client:
        whole = client.chat.completions.create(**body, extra_body=extra).choices[0]
        with client.chat.completions.stream(**body, extra_body=extra) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_completion().choices[0]
    for choice in (whole, streamed):
        calls = [
            (call.function.name, json.loads(call.function.arguments))
            for call in choice.message.tool_calls or []
            if call.type == "function"
        ]
        assert calls == expected
        assert choice.finish_reason == "tool_calls" and not choice.message.content
        assert bool(getattr(choice.message, "reasoning_content", None)) is thinking


def test_only_the_first_call_where_they_may_not_be_parallel(stack: Stack) -> None:
    body = chat("Paint all shapes.", "plot-circle-square.png", tools=[PAINT])
    message = post(stack, body | {"parallel_tool_calls": False}).json()["choices"][0]["message"]
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [
        {"colour": "red", "shape": "circle"}
    ]


@THINKING
def test_it_answers_where_no_tool_is_needed(stack: Stack, thinking: bool) -> None:
    body = chat("What is in this image?", "photo-square.jpg", tools=TOOLS[:4])
    choice = post(stack, body | kwargs(thinking)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("A red square.", "stop")
    assert "tool_calls" not in choice["message"]


RESULTS: list[tuple[str, Any, str, dict[str, Any], Any, str]] = [
    ("What is the weather in Paris?", GET_WEATHER, "get_weather", {"city": "Paris"},
     "18 degrees, sunny", "In Paris it is 18 degrees, sunny."),
    ("What time is it?", GET_TIME, "get_time", {}, "12:30", "It is 12:30."),
    *(
        ("Find the picture cat and describe it.", FIND_PICTURE, "find_picture", {"name": "cat"},
         [{"type": "image_url", "image_url": {"url": data_uri(name)}}], DESCRIPTIONS[name])
        for name in ("photo-square.jpg", "plot-42.png", "browser-star.png")
    ),
]  # fmt: skip


@THINKING
@pytest.mark.parametrize("case", RESULTS, ids=lambda case: case[5])
def test_it_answers_from_the_tools_result(stack: Stack, case: Any, thinking: bool) -> None:
    question, tool, name, arguments, result, answer = case
    body = chat(question, tools=[tool])
    function = {"name": name, "arguments": json.dumps(arguments)}
    body["messages"] += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    ]
    assert content(post(stack, body | kwargs(thinking))) == answer


SHAPE = {
    "type": "object",
    "properties": {
        "colour": {"type": "string"},
        "shape": {"enum": ["circle", "square", "triangle", "star"]},
    },
    "required": ["colour", "shape"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "shapes": {"type": "array", "items": SHAPE},
        "number": {"type": ["integer", "null"]},
    },
    "required": ["shapes", "number"],
    "additionalProperties": False,
}
DOCUMENTS: dict[str, tuple[list[tuple[str, str]], int | None]] = {
    "browser-1207.jpg": ([], 1207),
    "plot-42.png": ([], 42),
    "photo-star.jpg": ([("orange", "star")], None),
    "photo-circle.jpg": ([("blue", "circle")], None),
    "plot-circle-square.png": ([("red", "circle"), ("blue", "square")], None),
    "plot-three.jpg": (
        [("green", "triangle"), ("yellow", "star"), ("purple", "circle")], None,
    ),
}  # fmt: skip


@THINKING
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_schema_is_filled_with_what_is_there(stack: Stack, name: str, thinking: bool) -> None:
    response_format = {
        "type": "json_schema",
        "json_schema": {"name": "picture", "schema": SCHEMA, "strict": True},
    }
    body = chat("What is in this image?", name, response_format=response_format)
    shapes, number = DOCUMENTS[name]
    assert json.loads(content(post(stack, body | kwargs(thinking)))) == {
        "shapes": [{"colour": colour, "shape": shape} for colour, shape in shapes],
        "number": number,
    }


def test_json_without_a_grammar(stack: Stack) -> None:
    text = content(post(stack, chat("Describe the image as JSON.", "photo-square.jpg")))
    assert json.loads(text) == {
        "shapes": [{"colour": "red", "shape": "square"}],
        "number": None,
        "background": "white",
    }


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        # Of 64 x 64 pixels, by hand: the circle's centre is at (0.45, 0.5), its radius 0.25.
        ("hand-circle-64.png", (12.8, 16.0, 44.8, 48.0)),
    ],
)
def test_boxes_are_where_the_shapes_are(stack: Stack, name: str, truth: Any) -> None:
    body = chat("Give the boxes of all shapes.", name, return_boxes=True, model=MODEL)
    message = post(stack, body).json()["choices"][0]["message"]
    (box,) = message["boxes"]
    assert "<|" not in message["content"]
    assert _overlap(box["box"], truth) > 0.6


def _overlap(one: Any, other: Any) -> float:
    """Intersection over union."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, wide) * max(0.0, high)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(both / (sum(areas) - both))
