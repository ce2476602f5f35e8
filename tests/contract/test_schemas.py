"""What the frontend names as not enforced is what the engine and its grammar library leave out."""

import json
from typing import Any

import llguidance
import pytest

from glm_engine import tool_grammar
from glm_frontend.apis.shared.unenforced import (
    FORMATS,
    KEYWORDS,
    KEYWORDS_OF_ARGUMENTS,
    OF_NAMES,
    VALUES,
    unenforced,
    unenforced_arguments,
)

TOKENIZER = llguidance.LLTokenizer("byte")
TEXT: dict[str, Any] = {"type": "string"}
# Each keyword of JSON schema's drafts up to 2020-12, in a schema in which it means something.
SCHEMAS: dict[str, Any] = {
    "$dynamicRef": {"$dynamicRef": "#a"},
    "$recursiveRef": {"$recursiveRef": "#"},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": TEXT}},
    "additionalItems": {"type": "array", "items": [TEXT], "additionalItems": False},
    "additionalProperties": {"type": "object", "additionalProperties": TEXT},
    "allOf": {"allOf": [TEXT, {"minLength": 2}]},
    "anyOf": {"anyOf": [TEXT, {"type": "null"}]},
    "const": {"const": {"not": 1}},
    "contains": {"type": "array", "contains": TEXT},
    "dependencies": {"type": "object", "dependencies": {"a": ["b"]}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"type": "object", "dependentSchemas": {"a": {}}},
    "else": {"type": "string", "else": {"minLength": 1}},
    "enum": {"enum": [{"not": 1}, 2]},
    "exclusiveMaximum": {"type": "number", "exclusiveMaximum": 2},
    "exclusiveMinimum": {"type": "number", "exclusiveMinimum": 2},
    "if": {"type": "string", "if": {"minLength": 1}},
    "items": {"type": "array", "items": TEXT},
    "maxContains": {"type": "array", "maxContains": 1},
    "maxItems": {"type": "array", "maxItems": 1},
    "maxLength": {"type": "string", "maxLength": 1},
    "maxProperties": {"type": "object", "maxProperties": 1},
    "maximum": {"type": "integer", "maximum": 1},
    "minContains": {"type": "array", "minContains": 1},
    "minItems": {"type": "array", "minItems": 1},
    "minLength": {"type": "string", "minLength": 1},
    "minProperties": {"type": "object", "minProperties": 1},
    "minimum": {"type": "integer", "minimum": 1},
    "multipleOf": {"type": "integer", "multipleOf": 3},
    "not": {"type": "string", "not": {"enum": ["a"]}},
    "oneOf": {"oneOf": [TEXT, {"type": "null"}]},
    "pattern": {"type": "string", "pattern": "^a+$"},
    "patternProperties": {"type": "object", "patternProperties": {"^a": TEXT}},
    "prefixItems": {"type": "array", "prefixItems": [TEXT]},
    "properties": {"type": "object", "properties": {"not": TEXT, "uniqueItems": TEXT}},
    "propertyNames": {"type": "object", "propertyNames": TEXT},
    "required": {"type": "object", "properties": {"a": TEXT}, "required": ["a"]},
    "then": {"type": "string", "then": {"minLength": 1}},
    "type": {"type": ["string", "null"]},
    "unevaluatedItems": {"type": "array", "unevaluatedItems": False},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "no uniqueItems": {"type": "array", "uniqueItems": False},
}
OTHER_FORMATS = (
    *("binary", "byte", "float", "idn-email", "idn-hostname", "iri", "iri-reference"),
    *("json-pointer", "password", "regex", "relative-json-pointer", "uri-reference"),
    "uri-template",
)
# Whether each is enforced in JSON, and in a text without quotation marks.
PATTERNS = {
    "^a+$": (True, True),
    r"\d{3}|\w+?": (True, True),
    r"\p{L}[^\]b]": (True, True),
    r"a\$b\^": (True, True),
    "[$^]|[^$]": (True, True),
    "^(?P<x>a)(?<y>b)(?:c)$": (True, True),
    "": (True, True),
    "(^a$)|(^b$)": (True, False),
    "(?i)a": (True, True),
    "(?i)^a$": (True, False),
    "^(?!a)b": (False, False),
    "(?<=a)b": (False, False),
    r"(a)\1": (False, False),
    r"\bword\b": (False, False),
    r"\Aa\Z": (False, False),
    "(?>a)b": (False, False),
    "(?#c)a": (False, False),
}


def refusal(schema: Any, *, lenient: bool) -> str:
    """Why the library refuses a schema; empty if it takes it."""
    grammar = {"lark_grammar": f"start: {tool_grammar.json_rule(schema, lenient=lenient)}"}
    matcher = llguidance.LLMatcher(TOKENIZER, json.dumps({"grammars": [grammar]}), log_level=0)
    return matcher.get_error() if matcher.is_error() else ""


@pytest.mark.parametrize("keyword", SCHEMAS)
def test_a_keyword_is_named_where_the_library_refuses_it(keyword: str) -> None:
    schema = SCHEMAS[keyword]
    assert list(unenforced(schema, "x")) == ([f"x.{keyword}"] if keyword in KEYWORDS else [])
    assert bool(refusal(schema, lenient=False)) == (keyword in KEYWORDS)
    assert not refusal(schema, lenient=True)
    assert set(SCHEMAS) >= KEYWORDS


@pytest.mark.parametrize("name", [*sorted(FORMATS), *OTHER_FORMATS])
def test_a_format_is_named_where_the_library_refuses_it(name: str) -> None:
    schema = {"type": "string", "format": name}
    assert list(unenforced(schema, "x")) == ([] if name in FORMATS else ["x.format"])
    assert bool(refusal(schema, lenient=False)) == (name not in FORMATS)
    assert not refusal(schema, lenient=True)
    own = tool_grammar._FORMATS.keys() | {"unknown"}  # of texts without quotation marks
    assert own == FORMATS


@pytest.mark.parametrize(("pattern", "is_enforced"), PATTERNS.items())
def test_a_pattern_is_named_where_the_library_refuses_it(
    pattern: str, is_enforced: tuple[bool, bool]
) -> None:
    in_json, in_text = is_enforced
    schema = {"type": "string", "pattern": pattern}
    assert list(unenforced(schema, "x")) == ([] if in_json else ["x.pattern"])
    assert list(unenforced(schema, "x", is_text=True)) == ([] if in_text else ["x.pattern"])
    assert tool_grammar._is_regular(pattern, in_json=False) == in_text
    assert bool(refusal(schema, lenient=False)) != in_json
    assert not refusal(schema, lenient=True)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 3, "pattern": r"\b"},
        {"type": None, "format": "x"},
        {"type": {"a": 1}, "pattern": r"\b"},
        {"type": "string", "pattern": ["a"], "format": 3},
        {"properties": [1], "anyOf": {"a": 1}, "$defs": 3, "allOf": 4},
        [],
        3,
    ],
)
def test_what_is_no_schema_is_no_matter_here(schema: Any) -> None:
    assert list(unenforced(schema, "x")) == []
    named = {"x.anyOf", "x.allOf"}  # where a call cannot hold them, whatever they are
    assert set(unenforced_arguments(schema, "x")) <= named


def test_both_sides_read_a_schema_alike() -> None:
    assert tool_grammar._OF_NAMES == OF_NAMES and tool_grammar._VALUES == VALUES


@pytest.mark.parametrize("keyword", tool_grammar._NOT_OF_CALLS)
def test_a_keyword_that_no_call_can_hold_is_named(keyword: str) -> None:
    assert keyword in KEYWORDS | KEYWORDS_OF_ARGUMENTS
    assert set(tool_grammar._NOT_OF_CALLS) >= KEYWORDS_OF_ARGUMENTS
    parameters = {"properties": {"a": TEXT}, keyword: [{}, {}]}
    assert list(unenforced_arguments(parameters, "x")) == [f"x.{keyword}"]
    alone = {"allOf": [{"properties": {"a": {**TEXT, "format": "regex"}}}]}
    assert list(unenforced_arguments(alone, "x")) == ["x.allOf[0].properties.a.format"]
