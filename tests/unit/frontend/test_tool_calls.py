"""Tool calls out of GLM's text: the same for every way to cut it into pieces."""

import json
from typing import Any

import pytest

from glm_frontend.chat.tool_calls import ToolCallParser

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "count": {"type": "integer"},
                    "share": {"type": "number"},
                    "on": {"type": "boolean"},
                    "list": {"type": "array"},
                    "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "either": {"type": ["string", "integer"]},
                    "word": {"enum": ["a", "1"]},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "g"}},
]


def call(name: str, **arguments: str) -> str:
    parts = [
        f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n"
        for key, value in arguments.items()
    ]
    return f"<tool_call>{name}\n{''.join(parts)}</tool_call>"


def parse(pieces: list[str], **options: Any) -> tuple[str, list[tuple[str, str]]]:
    """The content, and of each call the name and the text of its arguments."""
    parser = ToolCallParser(TOOLS, **options)
    content = ""
    names: list[str] = []
    arguments: list[str] = []
    for text, calls in [*map(parser.feed, pieces), parser.finish()]:
        content += text
        for delta in calls:
            if delta.name is not None:
                assert delta.id and delta.index == len(names)
                names.append(delta.name)
                arguments.append("")
            arguments[delta.index] += delta.arguments
    return content, list(zip(names, arguments, strict=True))


SAMPLES: dict[str, tuple[str, str, list[tuple[str, dict[str, Any]]]]] = {
    "no call": ("Just <text> \n", "Just <text> \n", []),
    "one": (call("f", text="hi there"), "", [("f", {"text": "hi there"})]),
    "text before": (
        "I look.\n" + call("f", count="3") + "\n", "I look.", [("f", {"count": 3})]
    ),
    "text after": ("I look.\n" + call("g") + "\n And here. \n", "I look.And here.", [("g", {})]),
    "no arguments": (call("g"), "", [("g", {})]),
    "no arguments, no line break": ("<tool_call>g</tool_call>", "", [("g", {})]),
    "no line break after the name": (
        "<tool_call>f<arg_key>count</arg_key><arg_value>3</arg_value></tool_call>",
        "",
        [("f", {"count": 3})],
    ),
    "several": (
        call("f", text="a") + "\n" + call("g") + call("f", text="b"),
        "",
        [("f", {"text": "a"}), ("g", {}), ("f", {"text": "b"})],
    ),
    "types": (
        call("f", text="1", count="2", share="0.5", on="true", list='[1, "x"]', maybe="null"),
        "",
        [("f", {"text": "1", "count": 2, "share": 0.5, "on": True, "list": [1, "x"],
                "maybe": None})],
    ),
    "python's way to write them": (
        call("f", on="True", list="['a', None]"), "", [("f", {"on": True, "list": ["a", None]})]
    ),
    "a type that does not fit": (call("f", count="many"), "", [("f", {"count": "many"})]),
    "one of two types": (call("f", either="12"), "", [("f", {"either": 12})]),
    "an enum of texts": (call("f", word="1"), "", [("f", {"word": "1"})]),
    "unknown arguments": (
        call("g", a="5", b="five", c='{"d": 1}'), "", [("g", {"a": 5, "b": "five", "c": {"d": 1}})]
    ),
    "an unknown tool": (call("h", a="5"), "", [("h", {"a": 5})]),
    "text with tags in it": (
        call("f", text="</arg_value> <arg_value>x</arg_key></tool_call> <tool_call>"),
        "",
        [("f", {"text": "</arg_value> <arg_value>x</arg_key></tool_call> <tool_call>"})],
    ),
    "text that needs escapes": (
        call("f", text='a "b" \\ \n\tc <d 红 😀'), "", [("f", {"text": 'a "b" \\ \n\tc <d 红 😀'})]
    ),
    "empty text": (call("f", text=""), "", [("f", {"text": ""})]),
    "JSON in a text": (call("f", text='{"x": [1]}'), "", [("f", {"text": '{"x": [1]}'})]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_every_way_to_cut_it_gives_the_same(name: str) -> None:
    text, content, calls = SAMPLES[name]
    whole = parse([text])
    assert whole[0] == content
    assert [(one, json.loads(arguments)) for one, arguments in whole[1]] == calls
    assert parse(list(text)) == whole
    for cut in range(len(text) + 1):
        assert parse([text[:cut], text[cut:]]) == whole


@pytest.mark.parametrize("cut", range(1, 72))
def test_a_cut_answer_gives_the_beginning(cut: int) -> None:
    text = call("f", text="abc", count="17")
    _, calls = parse([text])
    _, begun = parse(list(text[:cut]))
    for (name, arguments), (whole_name, whole) in zip(begun, calls, strict=False):
        assert name == whole_name
        assert whole.startswith(arguments.rstrip("<")) or "<" in arguments


def test_text_arguments_come_as_they_are_written() -> None:
    parser = ToolCallParser(TOOLS)
    head, tail = call("f", text="one two three").split("two")
    parser.feed(head)
    _, calls = parser.feed("two")
    assert "".join(delta.arguments for delta in calls) == "two"
    parser.feed(tail)


def test_only_the_first_call_where_they_are_not_to_be_parallel() -> None:
    text = call("f", text="a") + call("g")
    assert [name for name, _ in parse([text], parallel=False)[1]] == ["f"]


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$defs": {
                **{f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(60)},
                "a60": {"type": "integer"},
            },
            "properties": {"x": {"$ref": "#/$defs/a0"}},
        },
        {"properties": {"x": {"anyOf": [{"$ref": "#/properties/x"}, {"type": "integer"}]}}},
    ],
)
def test_schemas_that_are_endless_to_follow(schema: dict[str, Any]) -> None:
    parser = ToolCallParser([{"type": "function", "function": {"name": "f", "parameters": schema}}])
    _, calls = parser.feed(call("f", x="7"))
    assert "".join(delta.arguments for delta in calls) == '{"x": 7}'
