"""What the text of an argument stands for, by the schema of its tool."""

from typing import Any

import pytest

from glm_format.arguments import types_of, value_of

NULLABLE = ["string", "null"]


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": NULLABLE}, {"string", "null"}),
        ({"type": NULLABLE, "enum": ["None", "a"]}, {"string"}),
        ({"type": NULLABLE, "enum": ["a", None]}, {"string", "null"}),
        ({"type": NULLABLE, "const": "null"}, {"string"}),
        ({"enum": ["1", "true"]}, {"string"}),
        ({"enum": ["a", None]}, {"string", "null"}),
        ({"enum": [1, 2]}, {"integer", "number"}),
        ({"type": "number", "enum": [1, 2.5]}, {"number"}),
        ({"const": True}, {"boolean"}),
        ({"type": "integer", "enum": ["of another type"]}, {"integer"}),
        ({"anyOf": [{"const": "x"}, {"type": "null"}]}, {"string", "null"}),
        ({}, set()),
    ],
)
def test_values_tell_the_types(schema: dict[str, Any], types: set[str]) -> None:
    assert types_of({"properties": {"x": schema}}, "x") == types


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        # Where the schema says nothing, what is no string is read; a string's quotes are its own.
        ("'a' 'b'", (), "'a' 'b'"),
        ('"a"', (), '"a"'),
        ("(1, 2)", (), "(1, 2)"),
        ("123", (), 123),
        ("{'a': True}", (), {"a": True}),
        ("None", ("string",), "None"),
        ("'a' 'b'", NULLABLE, "'a' 'b'"),
        ('"a"', NULLABLE, '"a"'),
        ("5", NULLABLE, "5"),
        ("null", NULLABLE, None),
        ('"42"', ("integer",), 42),
    ],
)
def test_text_stays_text(text: str, types: tuple[str, ...], value: Any) -> None:
    assert value_of(text, set(types)) == value
