"""Which keywords of a JSON schema the engine does not enforce.

Its grammar library, llguidance, has no automaton for some keywords. Where ``strict`` is not asked
for, the engine leaves them out, and they are named here, so that a client can check them itself.
``tests/contract/test_schemas.py`` holds these names against the engine and the library.
"""

import re
from collections.abc import Iterator
from typing import Any

KEYWORDS = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "minContains",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    }
)
"""Wherever they stand."""

KEYWORDS_OF_ARGUMENTS = frozenset(
    {"allOf", "anyOf", "maxProperties", "minProperties", "oneOf", "patternProperties"}
)
"""At the top of a tool's parameters: GLM writes each argument by itself, so that a grammar of calls
knows single arguments only."""

FORMATS = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "unknown",
        "uri",
        "uuid",
    }
)
"""Values of ``format`` that are enforced."""

# Keywords that hold schemas by name, and keywords that hold values.
OF_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions"})
VALUES = frozenset({"const", "enum", "default", "examples", "required"})
_CHOICES = frozenset({"allOf", "anyOf", "oneOf"})

# What looks around, refers back, or asks for a boundary, in a pattern without its character
# classes. The engine asks its library, pattern by pattern.
_NOT_REGULAR = re.compile(r"\(\?(?:<?[=!]|[>#(])|\\[1-9ABGZbz]")
# The same, and inner anchors, in a pattern for a text without quotation marks.
_NOT_OF_TEXTS = re.compile(rf"{_NOT_REGULAR.pattern}|(?<!\\)[\^$]")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_ENDS = re.compile(r"^\^|(?<!\\)\$$")


def unenforced(schema: Any, path: str, *, is_text: bool = False) -> Iterator[str]:
    """The paths of keywords that are left out.

    Args:
        path: of the schema itself.
        is_text: whether a string of this schema stands without quotation marks.
    """
    if isinstance(schema, list):
        for place, one in enumerate(schema):
            yield from unenforced(one, f"{path}[{place}]", is_text=is_text)
        return
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        where = f"{path}.{key}"
        if key in VALUES or (key == "uniqueItems" and value is False):
            continue
        if key in OF_NAMES and isinstance(value, dict):
            for name, one in value.items():
                yield from unenforced(one, f"{where}.{name}")
        elif key in KEYWORDS or _is_left_out(schema, key, is_text):
            yield where
        else:
            yield from unenforced(value, where, is_text=is_text and key in _CHOICES)


def unenforced_arguments(parameters: Any, path: str) -> Iterator[str]:
    """The same for the schema of a tool's parameters."""
    if isinstance(parameters, dict):
        left_out = {
            key
            for key, value in parameters.items()
            if key in KEYWORDS_OF_ARGUMENTS and not _is_alone(key, value)
        }
        yield from (f"{path}.{key}" for key in parameters if key in left_out)
        arguments = parameters.get("properties")
        if isinstance(arguments, dict):
            for name, one in arguments.items():
                yield from unenforced(one, f"{path}.properties.{name}", is_text=True)
            left_out.add("properties")
        parameters = {k: v for k, v in parameters.items() if k not in left_out}
    yield from unenforced(parameters, path)


def _is_left_out(schema: dict[str, Any], key: str, is_text: bool) -> bool:
    value, types = schema[key], schema.get("type", "string")
    if key not in ("format", "pattern") or not isinstance(value, str):
        return False
    if types != "string" and not (isinstance(types, list) and "string" in types):
        return False
    if key == "format":
        return value not in FORMATS
    pattern = _CLASS.sub("x", value)
    if is_text:
        return _NOT_OF_TEXTS.search(_ENDS.sub("", pattern)) is not None
    return _NOT_REGULAR.search(pattern) is not None


def _is_alone(key: str, value: Any) -> bool:
    """Whether it is an ``allOf`` of one schema, which is that schema."""
    return key == "allOf" and isinstance(value, list) and len(value) == 1
