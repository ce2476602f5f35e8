"""Answers held to a grammar: whatever tokens a model likes, they are what was asked for."""

import json
import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from glm_engine.checkpoint import Checkpoint
from glm_engine.detokenizer import TokenTable
from glm_engine.errors import InvalidRequest
from glm_engine.request import (
    Prompt,
    Request,
    SamplingParams,
    StructuredOutputs,
    ThinkingTokens,
    ToolChoice,
    parse_sampling_parameters,
)
from glm_engine.structured_output import Grammars, Guide, allowed_tokens
from glm_engine.tool_grammar import _FORMATS, MAX_GRAMMAR_BYTES
from unit.generation.conftest import Harness
from unit.paths import DEMO_CHECKPOINT

MakePrompt = Callable[..., Prompt]
CHECKPOINT = Checkpoint.load(str(DEMO_CHECKPOINT))
TABLE = TokenTable(CHECKPOINT.tokenizer)
EOS = CHECKPOINT.defaults.eos_token_ids


def token(tag: str) -> int:
    found = TABLE.find(tag)
    assert found is not None
    return found


THINKING = ThinkingTokens(token("<think>"), token("</think>"))
CLOSERS = {'"', "}", "]", "</arg_value>", "</tool_call>"}

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None, 3]}, "maxItems": 3},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["zip"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS: list[Any] = [
    PERSON,
    {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": "ja"}]},
    {"type": "string", "format": "date"},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(CHECKPOINT.tokenizer, len(TABLE), EOS, THINKING)


def prompt_of(*tags: str) -> Prompt:
    ids = np.array([token(tag) for tag in tags], np.int32)
    return Prompt("messages", ids, np.zeros((3, len(ids)), np.int32), 0)


# The answer's turn, with and without room for a thought.
THINKS = prompt_of("<|user|>", "<|assistant|>")
ANSWERS = prompt_of("<|user|>", "<|assistant|>", "<think>", "</think>")


def allowed(guide: Guide) -> list[int]:
    mask = allowed_tokens([guide], len(TABLE), torch.device("cpu"))
    return [int(token_id) for token_id in mask[0].nonzero()]


def walk(guide: Guide, rng: random.Random, limit: int = 400) -> str:
    """An answer of tokens chosen at random among those that may come."""
    text = b""
    for _ in range(limit):
        if guide.is_complete:
            return text.decode()
        choices = allowed(guide)
        assert choices, f"nothing may follow {text!r}"
        closing = [t for t in choices if t in EOS or TABLE.text(t) in CLOSERS]
        token_id = rng.choice(closing if closing and rng.random() < 0.5 else choices)
        if token_id in EOS:
            return text.decode()
        guide.accept(token_id)
        text += TABLE.token_bytes(token_id, skip_special_tokens=False)
    pytest.fail(f"no end after {limit} tokens: {text[:200]!r}")


def guide_for(grammars: Grammars, kind: Any, value: Any, prompt: Prompt = ANSWERS) -> Guide:
    params = SamplingParams(structured_outputs=StructuredOutputs(kind, value))
    guide = grammars.compile(params, [], prompt)
    assert guide is not None
    return guide


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_document_is_one_of_the_schema(grammars: Grammars, schema: Any) -> None:
    seen = set()
    for seed in range(25):
        text = walk(guide_for(grammars, "json", schema), random.Random(seed))
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
        seen.add(text)
    assert len(seen) > 3


@pytest.mark.parametrize("pattern", ["[0-9]{3}-[a-z]+", "(ja|nein)( doch)?", "a/b", "é+"])
def test_every_text_matches_the_whole_pattern(grammars: Grammars, pattern: str) -> None:
    for seed in range(10):
        text = walk(guide_for(grammars, "regex", pattern), random.Random(seed), limit=2000)
        assert re.fullmatch(pattern, text)


def test_every_text_is_one_of_the_choices(grammars: Grammars) -> None:
    choices = ("yes", "no", "nothing", 'say "hi"\n', "红色")
    texts = {walk(guide_for(grammars, "choice", choices), random.Random(i)) for i in range(60)}
    assert texts == set(choices)


@pytest.mark.parametrize(
    "grammar",
    ['start: "a" sum\nsum: /[0-9]/ ("+" /[0-9]/)~1..3', 'root ::= "a" [0-9] ("+" [0-9]){1,3}'],
)
def test_a_grammar_may_be_written_in_lark_or_gbnf(grammars: Grammars, grammar: str) -> None:
    for seed in range(10):
        text = walk(guide_for(grammars, "grammar", grammar), random.Random(seed))
        assert re.fullmatch(r"a[0-9](\+[0-9]){1,3}", text)


def test_an_object_has_no_endless_white_space(grammars: Grammars) -> None:
    guide = guide_for(grammars, "json_object", {"type": "object"})
    for token_id in (one for one in range(len(TABLE)) if TABLE.text(one) == "{"):
        guide.accept(token_id)
        break
    space = next(one for one in range(len(TABLE)) if TABLE.text(one) == " ")
    assert space in allowed(guide)
    guide.accept(space)
    assert not {" ", "\n"} & {TABLE.text(token_id) for token_id in allowed(guide)}


def test_a_thought_is_free_and_what_follows_is_not(grammars: Grammars) -> None:
    guide = guide_for(grammars, "choice", ("yes", "no"), THINKS)
    first = {TABLE.text(token_id) for token_id in allowed(guide)}
    assert "<think>" in first and first <= {"<think>", "y", "n", "ye", "yes", "no"}
    guide.accept(THINKING.begin)
    in_thought = set(allowed(guide))
    assert not in_thought & EOS and len(in_thought) == len(TABLE) - len(EOS)
    guide.accept(token("<tool_call>"))
    guide.accept(THINKING.end)
    after = {TABLE.text(token_id) for token_id in allowed(guide)}
    assert "\n" in after and after - {"\n"} <= {"y", "n", "ye", "yes", "no"}
    guide.accept(next(t for t in allowed(guide) if TABLE.text(t) == "\n"))
    assert "\n" not in {TABLE.text(token_id) for token_id in allowed(guide)}
    assert walk(guide, random.Random(0)) in ("yes", "no")


def test_a_prompt_that_ends_in_a_thought_is_free_until_its_end(grammars: Grammars) -> None:
    open_thought = prompt_of("<|user|>", "<|assistant|>", "<think>")
    guide = guide_for(grammars, "choice", ("yes", "no"), open_thought)
    assert len(allowed(guide)) == len(TABLE) - len(EOS)


def test_without_room_for_a_thought_none_begins(grammars: Grammars) -> None:
    assert THINKING.begin not in allowed(guide_for(grammars, "choice", ("yes", "no"), ANSWERS))


@pytest.mark.parametrize(
    "kind, value",
    [
        ("json", {"type": "object", "properties": {"a": {"type": "unknown"}}}),
        ("json", {"$ref": "https://example.com/schema.json"}),
        ("json", {"not": {"type": "string"}}),
        ("regex", "(unclosed"),
        ("regex", "(?=look)ahead"),
        ("grammar", "start: missing"),
        ("grammar", 'root ::= ("a"'),
        ("json", {"enum": ["x" * 100 + str(i) for i in range(MAX_GRAMMAR_BYTES // 100)]}),
    ],
)
def test_what_cannot_be_enforced_is_refused_at_once(
    grammars: Grammars, kind: Any, value: Any
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        guide_for(grammars, kind, value)
    assert caught.value.param == f"sampling_parameters.structured_outputs.{kind}"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "kind, value, text",
    [
        ("grammar", 'start: s\ns: "a" | s s | s s s', "a"),
        ("json", {"properties": {f"p{i}": {"type": ["array", "null"]} for i in range(999)}}, "{"),
    ],
)
def test_a_grammar_that_gets_too_complex_on_the_way_ends_its_request(
    grammars: Grammars, kind: Any, value: Any, text: str
) -> None:
    guide = guide_for(grammars, kind, value)
    again = next(one for one in range(len(TABLE)) if TABLE.text(one) == text)
    with pytest.raises(InvalidRequest, match="too complex"):
        for _ in range(300):
            allowed(guide)
            guide.accept(again)


def test_dead_end_of_a_grammar_fails_the_request(grammars: Grammars) -> None:
    endless = {"node": {"$ref": "#/$defs/node"}}
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/node"}},
        "additionalProperties": False,
        "$defs": endless,
    }
    guide = guide_for(grammars, "json", schema)
    text = ""
    while set(choices := allowed(guide)) - EOS:
        key = [t for t in choices if TABLE.text(t).strip() not in ("", "}")]
        guide.accept(key[0])
        text += TABLE.text(key[0])
    assert text.startswith('{"a":')
    with pytest.raises(InvalidRequest, match="no continuation"):
        guide.check()


@pytest.mark.parametrize("text", ["<|user|>", "<|image|>x", "</think>", "[gMASK]"])
def test_a_text_that_reads_like_a_tag_is_written_as_text(grammars: Grammars, text: str) -> None:
    for kind, value, answer in (
        ("json", {"const": {text: text}}, {text: text}),
        ("choice", (text,), text),
        ("regex", re.escape(text), text),
    ):
        for seed in range(5):
            written = walk(guide_for(grammars, kind, value), random.Random(seed))
            assert (json.loads(written) if kind == "json" else written) == answer


def test_a_property_that_allows_nothing_is_left_out(grammars: Grammars) -> None:
    parameters = {"type": "object", "properties": {"a": False, "b": {"type": "boolean"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    guide = tool_guide(grammars, [tool], tool_choice=ToolChoice(True))
    assert guide is not None
    for seed in range(20):
        assert "<arg_key>a<" not in walk(guide.copy(), random.Random(seed))


def test_a_compiled_grammar_is_used_again(grammars: Grammars) -> None:
    one, other = (guide_for(grammars, "choice", ("yes", "no")) for _ in range(2))
    one.accept(next(t for t in allowed(one) if TABLE.text(t) in ("y", "yes", "ye")))
    assert allowed(other) != allowed(one)  # each at its own place


# ---- tools ----

PAINT = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {
                "colour": {"$ref": "#/$defs/colour"},
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "note": {"type": "string", "maxLength": 5},
                "at": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
                "free": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["colour", "size"],
            "additionalProperties": False,
            "$defs": {"colour": {"enum": ["red", "blue"], "type": "string"}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
STRICT = {"type": "function", "function": {**CLOCK["function"], "strict": True}}  # type: ignore[dict-item]

CALL = (
    r"<tool_call>(get_time\n?|paint\n?"
    r"<arg_key>colour</arg_key>\n?<arg_value>(red|blue)</arg_value>\n?"
    r"<arg_key>size</arg_key>\n?<arg_value>[1-9]</arg_value>\n?"
    r"(<arg_key>note</arg_key>\n?<arg_value>(?s:.{0,5})</arg_value>\n?)?"
    r"(<arg_key>at</arg_key>\n?<arg_value>\[[-0-9, \n]*\]</arg_value>\n?)?"
    r"(<arg_key>free</arg_key>\n?<arg_value>(?s:.*?)</arg_value>\n?)?)</tool_call>"
)


def tool_guide(grammars: Grammars, tools: Sequence[dict[str, Any]], **params: Any) -> Guide | None:
    return grammars.compile(SamplingParams(**params), tools, ANSWERS)


def test_enforced_calls_are_calls_of_the_tools(grammars: Grammars) -> None:
    names, most = set(), 0
    for seed in range(60):
        guide = tool_guide(grammars, [PAINT, CLOCK], tool_choice=ToolChoice(True))
        assert guide is not None
        text = walk(guide, random.Random(seed), limit=3000)
        assert re.fullmatch(rf"{CALL}(\n?{CALL})*", text), text
        calls = re.findall(r"<tool_call>([a-z_]+)", text)
        names.update(calls)
        most = max(most, len(calls))
    assert names == {"paint", "get_time"} and most > 1


def test_a_call_out_of_an_open_thought_is_held_to_the_tools(grammars: Grammars) -> None:
    params = SamplingParams(tool_choice=ToolChoice(True))
    for seed in range(20):
        guide = grammars.compile(params, [PAINT], THINKS)
        assert guide is not None
        for tag in ("<think>", "<|begin_of_box|>", "<tool_call>"):
            guide.accept(token(tag))
        rest = walk(guide, random.Random(seed), limit=3000)
        assert re.fullmatch(rf"{CALL}(\n?{CALL})*", f"<tool_call>{rest}"), rest


@pytest.mark.parametrize(
    "params, names",
    [
        (
            {"tool_choice": ToolChoice(True), "parallel_tool_calls": False},
            {"<tool_call>paint", "<tool_call>get_time"},
        ),
        ({"tool_choice": ToolChoice(True, "paint")}, {"<tool_call>paint"}),
    ],
)
def test_one_call_only(grammars: Grammars, params: dict[str, Any], names: set[str]) -> None:
    seen = set()
    for seed in range(20):
        guide = tool_guide(grammars, [PAINT, CLOCK], **params)
        assert guide is not None
        text = walk(guide, random.Random(seed), limit=3000)
        assert re.fullmatch(CALL, text)
        seen.update(re.findall("<tool_call>[a-z_]+", text))
    assert seen == names


def test_a_strict_tool_is_held_to_its_schema_where_the_model_calls_it(grammars: Grammars) -> None:
    assert tool_guide(grammars, [PAINT, CLOCK]) is None
    guide = tool_guide(grammars, [STRICT])
    assert guide is not None
    may = allowed(guide)
    assert token("<tool_call>") in may and set(may) >= EOS and len(may) > 500
    guide.accept(token("<tool_call>"))
    assert {TABLE.text(t) for t in allowed(guide)} <= {"g", "get", "ge", "get_"}


def test_with_a_schema_the_model_may_still_call(grammars: Grammars) -> None:
    structure = StructuredOutputs("choice", ("yes", "no"))
    guide = tool_guide(grammars, [CLOCK], structured_outputs=structure)
    assert guide is not None
    texts = {TABLE.text(t) for t in allowed(guide)}
    assert "<tool_call>" in texts and texts - {"<tool_call>"} <= {"y", "n", "ye", "yes", "no"}


@pytest.mark.parametrize(
    "choice, tools, reason",
    [
        (ToolChoice(True, "nobody"), [CLOCK], "no tool 'nobody'"),
        (ToolChoice(True), [], "requires tools"),
    ],
)
def test_a_call_of_no_tool_cannot_be_enforced(
    grammars: Grammars, choice: ToolChoice, tools: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        tool_guide(grammars, tools, tool_choice=choice)
    assert caught.value.param == "sampling_parameters.tool_choice"


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": {"$ref": "#/$defs/none"}}},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": []},
        {"properties": {"a": 3}},
        {"type": "string"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": ["array", "null"]}}},
        {"properties": {"a": False}, "required": ["a"]},
        {"properties": {"a": {"type": "string", "pattern": "("}}},
    ],
)
def test_bad_parameters_of_a_tool_are_refused(grammars: Grammars, parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(InvalidRequest) as caught:
        tool_guide(grammars, [tool], tool_choice=ToolChoice(True))
    assert (caught.value.param or "").startswith("tools")


NULLABLE = {"anyOf": [{"type": "string", "enum": ["celsius", "fahrenheit"]}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        (NULLABLE, "celsius|fahrenheit|null"),
        ({"type": ["string", "null"], "maxLength": 3}, r"(?s:.{0,3})|null"),
        ({"type": ["integer", "null"], "minimum": 0, "maximum": 9}, "[0-9]|null"),
        (
            {"anyOf": [{"type": "string", "pattern": "^[a-c]{2}$"}, {"type": "boolean"}]},
            "[a-c]{2}|true|false",
        ),
        ({"oneOf": [NULLABLE, {"const": 7}]}, "celsius|fahrenheit|null|7"),
        ({"const": None}, "null"),
        ({"anyOf": []}, r"(?s:.*)"),
        ({"anyOf": [{"$ref": "#/properties/x"}]}, r"(?s:.*)"),
        ({"type": []}, r"(?s:.*)"),
        ({"type": {"a": 1}}, r"(?s:.*)"),
        (
            {
                "anyOf": [
                    {"$ref": "#/$defs/n", "minimum": 1, "maximum": 1},
                    {"$ref": "#/$defs/n", "minimum": 5, "maximum": 5},
                ]
            },
            "1|5|1.0|5.0|null",
        ),
        ({"enum": ["a", None, 2]}, "a|null|2"),
        ({"type": "string", "format": "date"}, r"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
        ({"type": "string", "format": "of no standard", "maxLength": 2}, r"(?s:.{0,2})"),
        ({"$ref": "/$defs/a~1b"}, "x"),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [1]}, "maxItems": 1}, r"\[1?\]"),
        (
            {
                "type": "object",
                "propertyNames": {"type": "string"},
                "additionalProperties": {"enum": [1]},
                "maxProperties": 0,
            },
            r"\{\}",
        ),
        ({"type": "string", "pattern": "^(?=a)b$", "maxLength": 2}, r"(?s:.{0,2})"),
    ],
)
def test_the_value_of_an_argument_follows_its_schema(
    grammars: Grammars, schema: Any, pattern: str
) -> None:
    parameters = {
        "type": "object",
        "properties": {"x": schema},
        "required": ["x"],
        "$defs": {"a/b": {"enum": ["x"]}, "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    for seed in range(15):
        guide = tool_guide(
            grammars, [tool], tool_choice=ToolChoice(True), parallel_tool_calls=False
        )
        assert guide is not None
        text = walk(guide, random.Random(seed), limit=3000)
        value = re.search(r"<arg_value>((?s:.*))</arg_value>", text)
        assert value is not None
        # JSON may have a space between its parts.
        told = (value[1], value[1].replace(" ", ""))
        assert any(re.fullmatch(pattern, one) for one in told), text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(?=a)b$"},
        {"type": "array", "uniqueItems": True},
        {"type": "object", "propertyNames": {"maxLength": 2}},
        {"type": "string", "format": "of no standard"},
    ],
)
def test_a_strict_tool_that_cannot_be_enforced_is_refused(grammars: Grammars, schema: Any) -> None:
    parameters = {"type": "object", "properties": {"x": schema}}
    function = {"name": "f", "parameters": parameters, "strict": True}
    with pytest.raises(InvalidRequest) as caught:
        tool_guide(grammars, [{"type": "function", "function": function}])
    assert (caught.value.param or "").startswith("tools")


@pytest.mark.parametrize("keyword", ["minProperties", "anyOf", "not", "dependentRequired"])
def test_a_strict_tool_has_no_keyword_that_no_call_can_hold(
    grammars: Grammars, keyword: str
) -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}, keyword: {}}
    function: dict[str, Any] = {"name": "f", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    assert tool_guide(grammars, tools, tool_choice=ToolChoice(True)) is not None
    function["strict"] = True
    with pytest.raises(InvalidRequest) as caught:
        tool_guide(grammars, tools)
    assert caught.value.param == f"tools[0].function.parameters.{keyword}"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "uniqueItems": True, "items": {"enum": [1]}, "maxItems": 1},
        {"type": "array", "items": {"type": "string", "pattern": r"\bx"}, "maxItems": 0},
        {"oneOf": [{"type": "array", "maxItems": 0}, {"type": "array", "maxItems": 0}]},
    ],
)
def test_a_schema_that_says_so_is_enforced_as_far_as_it_can_be(
    grammars: Grammars, schema: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        guide_for(grammars, "json", schema)
    guide = guide_for(grammars, "json", {**schema, "x-guidance": {"lenient": True}})
    assert re.fullmatch(r"\[ ?1? ?\]", walk(guide, random.Random(1)))


def test_unique_items_that_are_not_asked_for_are_no_matter(grammars: Grammars) -> None:
    schema = {"type": "array", "uniqueItems": False, "items": {"enum": [1]}, "maxItems": 1}
    assert guide_for(grammars, "json", schema) is not None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("::", True),
        ("::1", True),
        ("fe80::1", True),
        ("1:2:3:4:5:6:7:8", True),
        ("1:2:3:4:5:6:7::", True),
        ("1:2:3::4:5:6:7", True),
        ("1:2:3:4:5:6:7", False),
        ("1:2:3:4::5:6:7:8", False),
        ("12345::", False),
        ("1::2::3", False),
    ],
)
def test_an_address_of_version_six(text: str, is_one: bool) -> None:
    assert (re.fullmatch(_FORMATS["ipv6"], text) is not None) == is_one


# ---- sampling parameters ----


def _doubling(depth: int) -> dict[str, Any]:
    """A schema whose parts refer twice to the next: small, but endless to follow."""
    parts = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**parts, f"a{depth}": {"type": "integer"}}}


@pytest.mark.parametrize(
    "schema",
    [
        _doubling(60) | {"properties": {"x": {"$ref": "#/$defs/a0"}}},
        {"properties": {"x": {"anyOf": [{"$ref": "#/properties/x"}, {"type": "integer"}]}}},
        {"properties": {"x": {"$ref": "#/" + "/".join(["a"] * 100_000)}}},
        {  # the definitions would stand in the rule of each argument
            "$defs": {f"d{i}": {"type": "integer", "maximum": i} for i in range(500)},
            "properties": {f"p{i}": {"type": "array"} for i in range(500)},
        },
        {  # each of the options is a large one
            "$defs": {"d": {f"x{i}": i for i in range(5000)}},
            "properties": {"x": {"anyOf": [{"$ref": "#/$defs/d"} for _ in range(5000)]}},
        },
        {
            "properties": {f"p{i}": {"type": "string"} for i in range(20_000)},
            "required": [f"p{i}" for i in reversed(range(20_000))],
        },
    ],
)
@pytest.mark.timeout(120)  # they took minutes, or gigabytes
def test_no_schema_of_a_tool_takes_long(grammars: Grammars, schema: dict[str, Any]) -> None:
    function = {"name": "f", "parameters": {"type": "object", **schema}}
    tool = {"type": "function", "function": function}
    with suppress(InvalidRequest):
        assert tool_guide(grammars, [tool], tool_choice=ToolChoice(True)) is not None


@pytest.mark.parametrize(
    "given, reason",
    [
        ([], "must be an object"),
        ({}, "exactly one of"),
        ({"json": {}, "regex": "a"}, "exactly one of"),
        ({"xml": "a"}, "xml: is not supported"),
        ({"json": 3}, "json: must be a JSON schema"),
        ({"json": "{"}, "json: is not valid JSON"),
        ({"json_object": False}, "json_object: must be true"),
        ({"regex": ""}, "regex: must be a string"),
        ({"choice": []}, "choice: must be a list"),
        ({"choice": ["a", 1]}, "choice: must be a list"),
        ({"grammar": 1}, "grammar: must be a string"),
    ],
)
def test_bad_structures_are_named(given: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_sampling_parameters(json.dumps({"structured_outputs": given}), CHECKPOINT.defaults)


@pytest.mark.parametrize("choice", ["any", 1, {"type": "function"}, {"name": "f"}])
def test_bad_tool_choices_are_named(choice: Any) -> None:
    with pytest.raises(InvalidRequest, match="tool_choice"):
        parse_sampling_parameters(json.dumps({"tool_choice": choice}), CHECKPOINT.defaults)


# ---- in the engine ----


def add(harness: Harness, prompt: Prompt, **params: Any) -> Request:
    sampling = SamplingParams(**params)
    guide = harness.engine.grammars.compile(sampling, [], prompt)
    request = Request(f"guided-{id(guide):x}", prompt, sampling, guide=guide)
    harness.engine.add(request)
    return request


def test_guided_and_free_requests_share_steps(harness: Harness, make_prompt: MakePrompt) -> None:
    prompt = make_prompt("What is in this image?", [1], thinking=False)
    alone = harness.text(harness.add(prompt))
    structure = StructuredOutputs("json", PERSON)
    guided = [
        add(harness, prompt, structured_outputs=structure, temperature=t, seed=i, max_tokens=600)
        for i, t in enumerate((0.0, 0.7, 1.5, 2.0))
    ]
    free = [harness.add(prompt) for _ in range(3)]
    for request in guided:
        text = harness.text(request)
        if harness.wait(request)[-1].finish_reason == "stop":
            jsonschema.validate(json.loads(text), PERSON)
    assert any(harness.wait(request)[-1].finish_reason == "stop" for request in guided)
    assert [harness.text(request) for request in free] == [alone] * 3


def test_an_answer_ends_with_its_grammar(harness: Harness, make_prompt: MakePrompt) -> None:
    """Neither min_tokens nor ignore_eos nor a bias can make it go on, or be nothing."""
    prompt = make_prompt("hello", thinking=False)
    request = add(
        harness,
        prompt,
        structured_outputs=StructuredOutputs("regex", "(ab)?"),
        min_tokens=20,
        max_tokens=30,
        ignore_eos=True,
        repetition_penalty=1.5,
    )
    assert harness.text(request) in ("", "ab")
    assert harness.wait(request)[-1].finish_reason == "stop"


def test_a_guided_answer_is_the_likeliest_that_the_grammar_allows(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    """Where the free answer obeys the grammar already, the grammar changes nothing."""
    for thinking in (False, True):
        prompt = make_prompt("What is in this image?", [1], thinking=thinking)
        free = harness.add(prompt, max_tokens=80)
        text = harness.text(free)
        request = add(
            harness,
            prompt,
            temperature=0.0,
            max_tokens=80,
            structured_outputs=StructuredOutputs("regex", r"[A-Za-z ,.]*"),
        )
        assert harness.text(request) == text
