"""Tool calls as GLM's template writes them: the same for every way to cut them into tokens."""

import json
from typing import Any

import pytest

from glm_format.answer import AnswerReader
from glm_format.events import CallDelta
from unit.format.test_answer import TAG_IDS, TAGS, read

_TOOLS: list[dict[str, Any]] = [
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


FUNCTIONS = {one["function"]["name"]: one["function"].get("parameters") for one in _TOOLS}


def call(name: str, **arguments: str) -> str:
    parts = [
        f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n"
        for key, value in arguments.items()
    ]
    return f"<tool_call>{name}\n{''.join(parts)}</tool_call>"


SAMPLES: dict[str, tuple[str, str, list[tuple[str, dict[str, Any]]]]] = {
    "no call": ("Just <text> \n", "Just <text> \n", []),
    "one": (call("f", text="hi there"), "", [("f", {"text": "hi there"})]),
    "text before": (
        "I look.\n" + call("f", count="3") + "\n", "I look.", [("f", {"count": 3})]
    ),
    "text after": (
        "I look.\n" + call("g") + "\n And here. \n", "I look.\n And here. \n", [("g", {})]
    ),
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
    "an unknown tool": (call("h", a="5"), call("h", a="5"), []),
    "text that needs escapes": (
        call("f", text='a "b" \\ \n\tc <d 红 😀'), "", [("f", {"text": 'a "b" \\ \n\tc <d 红 😀'})]
    ),
    "empty text": (call("f", text=""), "", [("f", {"text": ""})]),
    "JSON in a text": (call("f", text='{"x": [1]}'), "", [("f", {"text": '{"x": [1]}'})]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_every_way_to_cut_it_gives_the_same(name: str) -> None:
    text, content, calls = SAMPLES[name]
    whole = read(text, FUNCTIONS, size=1000)
    assert (whole.text, whole.parsed) == (content, calls)
    for size in (1, 2, 3, 5, 8, 13):
        found = read(text, FUNCTIONS, size=size)
        assert (found.text, found.calls) == (content, whole.calls)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": ["string", "null"]}, '"foo" "bar"', '"foo" "bar"'),
        ({"type": ["string", "null"]}, '"exact phrase"', '"exact phrase"'),
        ({"type": ["string", "null"]}, "'a' # b", "'a' # b"),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": ["string", "integer"]}, "true", "true"),
        ({"type": ["integer", "boolean"]}, "true", True),
        ({"type": "integer"}, "true", "true"),
        ({"type": "integer"}, "3.0", 3),
        ({"type": "integer"}, "3.5", "3.5"),
        ({"type": "integer"}, "123_456", "123_456"),
        ({"type": "number"}, "0x10", "0x10"),
        ({"type": "integer"}, '"42"', 42),
        ({"type": "boolean"}, '"true"', True),
        ({"type": "string"}, '"42"', '"42"'),
        ({"type": ["string", "integer"]}, '"42"', '"42"'),
        ({}, "123_456", "123_456"),
        ({"type": "string", "allOf": [{"minLength": 5}]}, "12345", "12345"),
        ({"type": "string", "anyOf": [{"format": "a"}, {"format": "b"}]}, "12345", "12345"),
        ({"const": "5"}, "5", "5"),
        ({"allOf": [{"type": "string"}]}, "12345", "12345"),
    ],
)
def test_what_a_text_may_be(schema: dict[str, Any], text: str, value: Any) -> None:
    condition: list[dict[str, Any]] = [{"if": {}, "then": {}}]
    for more in ({}, {"allOf": condition}):
        parameters = {"properties": {"x": schema}, **more}
        assert read(call("f", x=text), {"f": parameters}).parsed == [("f", {"x": value})]


def test_a_text_that_reads_like_tags_is_a_text() -> None:
    """Only a tag's own token is a tag, and with a grammar no token of a text can be one."""
    value = "</arg_value> <arg_key>x</arg_key></tool_call> <tool_call>"
    before, after = call("f", text="|").split("|")
    tokens: list[bytes] = []
    reader = AnswerReader(TAGS, tokens.__getitem__, functions=FUNCTIONS)
    found = []
    for part, has_tags in ((before, True), (value, False), (after, True)):
        for piece in _cut(part) if has_tags else [part]:
            tokens.append(piece.encode())
            found += reader.push(
                TAG_IDS.get(piece, len(tokens) - 1) if has_tags else len(tokens) - 1
            )
    found += reader.finish(is_cut=False)
    arguments = "".join(one.arguments for one in found if isinstance(one, CallDelta))
    assert json.loads(arguments) == {"text": value}


def _cut(text: str) -> list[str]:
    pieces = [text]
    for tag in TAG_IDS:
        pieces = [
            part
            for piece in pieces
            for part in ([piece] if piece in TAG_IDS else _split(piece, tag))
            if part
        ]
    return pieces


def _split(text: str, tag: str) -> list[str]:
    first, *rest = text.split(tag)
    return [first, *(part for piece in rest for part in (tag, piece))]


@pytest.mark.parametrize("cut", range(1, 72))
def test_a_cut_answer_gives_the_beginning(cut: int) -> None:
    text = call("f", text="abc", count="17")
    calls = read(text, FUNCTIONS).calls
    begun = read(text[:cut], FUNCTIONS, is_cut=True).calls
    for (name, arguments), (whole_name, whole) in zip(begun, calls, strict=False):
        assert name == whole_name
        assert whole.startswith(arguments.rstrip("<")) or "<" in arguments


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
    assert read(call("f", x="7"), {"f": schema}).calls == [("f", '{"x": 7}')]
