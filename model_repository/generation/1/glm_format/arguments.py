"""Converts the text of a call's argument by the JSON schema of its tool."""

import ast
import json
from collections.abc import Mapping
from typing import Any

_MAX_REFERENCES = 32
# Schema options visited for one argument; larger schemas are treated as unconstrained.
_MAX_OPTIONS = 1000

_PYTHON_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict,
    "array": list, "null": type(None),
}  # fmt: skip
# As Python writes them; a text that may be one of several types is not read as Python otherwise.
_PYTHON_WORDS = ("None", "True", "False")
# Keywords that determine the types of a value.
_TELLING = frozenset({"type", "properties", "enum", "const", "anyOf", "oneOf"})


def properties(parameters: Any) -> Mapping[str, Any]:
    """The properties of a tool's parameters; empty if the schema has none."""
    root = parameters if isinstance(parameters, Mapping) else {}
    found = _resolved(root, root).get("properties")
    return found if isinstance(found, Mapping) else {}


def types_of(parameters: Any, key: str) -> set[str]:
    """The JSON types that an argument may have; empty if the schema does not say."""
    root = parameters if isinstance(parameters, Mapping) else {}
    types: set[str] = set()
    todo = [properties(parameters).get(key)]
    # A small schema can be recursive, or expand exponentially.
    seen: set[int] = set()
    while todo:
        part = _resolved(todo.pop(), root)
        names = () if "type" in part else ("anyOf", "oneOf")
        options = next((part[name] for name in names if isinstance(part.get(name), list)), None)
        if options is None:
            types |= _own_types(part)
            continue
        new = [option for option in options if id(option) not in seen]
        seen.update(map(id, new))
        if len(seen) > _MAX_OPTIONS:
            return set()
        todo += new
    return types


def value_of(text: str, types: set[str]) -> Any:
    """Parse the text of an argument; it stays a string if it must be one.

    GLM writes strings verbatim, and everything else as JSON, or occasionally as Python literals.
    Where the schema does not say what it is, a string of JSON or Python is text like any other.
    """
    may_be_text = not types or "string" in types
    for read in (json.loads, ast.literal_eval):
        if "string" in types and read is ast.literal_eval and text.strip() not in _PYTHON_WORDS:
            continue
        try:
            value = read(text.strip())
            # An unpaired surrogate cannot be encoded as UTF-8.
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if read is ast.literal_eval and type(value) in (int, float, complex, tuple):
            continue  # 123_456 or 0x10, which JSON does not know
        if may_be_text and isinstance(value, str):
            return text
        if types == {"integer"} and isinstance(value, float) and value.is_integer():
            value = int(value)
        if types and isinstance(value, str):
            inner = _inner_value(value, types)
            if inner is not None:
                return inner
        if not types or any(_is_a(value, kind) for kind in types):
            return value
    return text


def _inner_value(text: str, types: set[str]) -> Any:
    """The number or word of JSON that a string holds, where no string is asked for."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if any(_is_a(value, kind) for kind in types) else None


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind in ("integer", "number"):
        return False
    return isinstance(value, _PYTHON_TYPES.get(kind, object))


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a chain of references (and of lone ``allOf``) leads to."""
    for _ in range(_MAX_REFERENCES):
        match schema:
            case {"$ref": str(path)}:
                schema = root
                for step in path.removeprefix("#").split("/", _MAX_REFERENCES)[1:]:
                    key = step.replace("~1", "/").replace("~0", "~")
                    schema = schema.get(key) if isinstance(schema, Mapping) else None
            case {"allOf": [only]} if not _TELLING & schema.keys():
                schema = only
            case _:
                return schema if isinstance(schema, Mapping) else {}
    return {}


def _own_types(schema: Mapping[str, Any]) -> set[str]:
    """The types of a schema that is not a choice among others; its values tell most."""
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else set()
    if isinstance(kind, list):
        kinds = {one for one in kind if isinstance(one, str)}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not values:
        return kinds
    possible = kinds or _PYTHON_TYPES.keys()
    return {one for one in possible if any(_is_a(value, one) for value in values)} or kinds
