"""The grammar of tool calls: GLM's format, with the JSON schema of each tool.

GLM writes ``<tool_call>NAME``, then for each argument ``<arg_key>KEY</arg_key>`` and
``<arg_value>VALUE</arg_value>``, then ``</tool_call>``. Strings are written verbatim, everything
else as JSON. Source: the chat template of GLM-4.6V, which writes earlier calls like this.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from llguidance import LLMatcher, regex_to_lark

from glm_engine.errors import InvalidRequest

TAGS = (
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
)
"""The tokens of the format."""

MAX_GRAMMAR_BYTES = 256 * 1024
_MAX_REFERENCES = 32
_MAX_STEPS = 32
# Of one schema that are tried one by one, a millisecond each.
_MAX_PATTERNS = 200
# Schema entries that are visited; real tools need a few thousand.
_MAX_WORK = 100_000
_DEFINITIONS = ("$defs", "definitions")
# Keywords that hold schemas by name, and keywords that hold values.
_OF_NAMES = frozenset({"properties", "patternProperties", *_DEFINITIONS})
_VALUES = frozenset({"const", "enum", "default", "examples", "required"})
# At the top of a tool's parameters: a grammar of calls knows single arguments only.
_NOT_OF_CALLS = (
    *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
    *("maxProperties", "minProperties", "patternProperties", "propertyNames"),
    *("dependencies", "dependentRequired", "dependentSchemas"),
)
# Beside the type of a text without quotation marks.
_NOT_OF_TEXTS = ("allOf", "not", "if", "then", "else")
_ANY_TEXT = "ANY_TEXT?"
_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
_WHITE_SPACE = " "
"""White space allowed between the parts of a JSON document: one space at most.

With unlimited white space a model could write nothing else until its tokens run out, and
indentation wastes tokens.
"""


def json_rule(schema: Any, *, lenient: bool = False) -> str:
    """A rule for documents of a JSON schema.

    Args:
        lenient: whether keywords that cannot be enforced are left out, instead of being refused;
            also where the schema says so itself, by ``"x-guidance": {"lenient": true}``.
    """
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        match schema.get("x-guidance"):
            case {"lenient": True}:
                lenient = True
        few = lenient and json.dumps(schema).count('"pattern"') <= _MAX_PATTERNS
        schema = _enforceable(schema, lenient=few)
        options = {"whitespace_pattern": _WHITE_SPACE, "lenient": lenient}
        schema = {**schema, "x-guidance": options}
    return f"%json {json.dumps(schema)}"


def _enforceable(schema: Any, *, lenient: bool) -> Any:
    """The schema without ``uniqueItems: false``, which asks for nothing, but which the library
    refuses; if lenient, also without patterns that look around, which no automaton can."""
    if isinstance(schema, list):
        return [_enforceable(one, lenient=lenient) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _VALUES:
            kept[key] = value
        elif key in _OF_NAMES and isinstance(value, dict):
            kept[key] = {k: _enforceable(one, lenient=lenient) for k, one in value.items()}
        elif key == "uniqueItems" and value is False:
            continue
        elif (
            not lenient
            or key != "pattern"
            or not isinstance(value, str)
            or _is_regular(value, in_json=True)
        ):
            kept[key] = _enforceable(value, lenient=lenient)
    return kept


@lru_cache(maxsize=1024)
def _is_regular(pattern: str, *, in_json: bool) -> bool:
    """Whether the library has an automaton for a pattern: for none that looks around, say.

    Also for what is no pattern at all, which is to be refused.

    Args:
        in_json: whether for a string of JSON, or for a text without quotation marks.
    """
    schema = {"type": "string", "pattern": pattern}
    rule = f"%json {json.dumps(schema)}" if in_json else regex(_searching(pattern))
    grammar = {"grammars": [{"lark_grammar": f"start: {rule}"}]}
    if not LLMatcher.validate_grammar(json.dumps(grammar)):
        return True
    try:
        re.compile(pattern)
    except re.error:
        return True
    return False


def literal(text: str) -> str:
    """A rule for exactly this text."""
    return json.dumps(text)


def regex(pattern: str) -> str:
    """A terminal for texts that match as a whole."""
    return f"/{regex_to_lark(pattern)}/"


class ToolGrammar:
    """Rules for calls of some tools, in llguidance's variant of Lark.

    Args:
        tools: in OpenAI's form, checked by stage 1.
        token: from a tag of ``TAGS`` to the rule that stands for its token.

    Raises:
        InvalidRequest: a tool's parameters cannot be converted to rules, or are too large or too
            complex; names the tool.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], token: Callable[[str], str]) -> None:
        (self._call, self._call_end, self._key, self._key_end, self._value, self._value_end) = map(
            token, TAGS
        )
        self._work = _Work()
        self._num_bytes = 0
        self.rules = ['LINE_BREAK: "\\n"', "ANY_TEXT: /(?s:.+)/"]
        self.names: list[str] = []
        """The rule of each tool's call."""
        for i, tool in enumerate(tools):
            field = f"tools[{i}].function.parameters"
            self._add_call(f"call_{i}", tool["function"], field)

    def _add_call(self, name: str, function: Mapping[str, Any], field: str) -> None:
        root = _with_local_references(function.get("parameters") or {})
        is_strict = bool(function.get("strict"))
        if not isinstance(root, dict):
            raise InvalidRequest(field, "must be a JSON schema of an object")
        schema = _resolved(root, root, field, self._work)
        types = _json_types(schema, root, field, self._work)
        if types and "object" not in types:
            raise InvalidRequest(field, "must be a JSON schema of an object")
        if is_strict:
            for key in _NOT_OF_CALLS:
                if key in schema:
                    raise InvalidRequest(f"{field}.{key}", "cannot be enforced in a call")
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise InvalidRequest(f"{field}.properties", "must be a JSON object")
        required = schema.get("required", [])
        if not isinstance(required, list):
            raise InvalidRequest(f"{field}.required", "must be a list")
        required = {key for key in required if isinstance(key, str)}
        arguments = []
        for i, (key, own) in enumerate(properties.items()):
            if own is False:  # allows no value
                if key in required:
                    raise InvalidRequest(f"{field}.{key}", "is required, but allows no value")
                continue
            rule = f"{name}_argument_{i}"
            value = self._value_of(own, root, f"{field}.{key}", rule, is_strict=is_strict)
            self._add_argument(rule, literal(key), value, field)
            arguments.append(rule if key in required else f"{rule}?")
        if not properties and schema.get("additionalProperties") is not False and root:
            self._add_argument(f"{name}_argument", "/[^<>\\n]+/", _ANY_TEXT, field)
            arguments.append(f"{name}_argument*")
        self.names.append(name)
        self._add(
            f"{name}: {self._call} {literal(function['name'])} LINE_BREAK? {' '.join(arguments)} "
            f"{self._call_end}",
            field,
        )

    def _add_argument(self, rule: str, key: str, value: str, field: str) -> None:
        self._add(
            f"{rule}: {self._key} {key} {self._key_end} LINE_BREAK? "
            f"{self._value} {rule}_value {self._value_end} LINE_BREAK?",
            field,
        )
        self._add(f"{rule}_value: {value}", field)

    def _add(self, rule: str, field: str) -> None:
        # Checked early: definitions are repeated in the rule of every argument.
        self._num_bytes += len(rule)
        if self._num_bytes > MAX_GRAMMAR_BYTES:
            raise InvalidRequest(field, f"is larger than {MAX_GRAMMAR_BYTES} bytes as a grammar")
        self.rules.append(rule)

    def _value_of(
        self, schema: Any, root: Mapping[str, Any], field: str, name: str, *, is_strict: bool
    ) -> str:
        """The rule for the value of an argument: one of those of its alternatives.

        Args:
            name: begins the names of further rules.
        """
        rules: dict[str, None] = {}
        for i, leaf in enumerate(_leaves(schema, root, field, self._work)):
            rule = self._leaf_of(leaf, root, field, f"{name}_{i}", is_strict=is_strict)
            if rule == _ANY_TEXT:
                return rule  # which includes all others
            rules[rule] = None
        return " | ".join(rules) or _ANY_TEXT

    def _leaf_of(
        self,
        leaf: dict[str, Any],
        root: Mapping[str, Any],
        field: str,
        name: str,
        *,
        is_strict: bool,
    ) -> str:
        values = [leaf["const"]] if "const" in leaf else leaf.get("enum")
        if isinstance(values, list) and values:
            texts = [v if isinstance(v, str) else json.dumps(v) for v in values]
            return " | ".join(literal(text) if text else '""' for text in texts)
        kind = leaf.get("type")
        if kind == "string":
            terminals = _text_of(leaf, field, is_strict=is_strict)
            if len(terminals) < 2:
                return terminals[0] if terminals else _ANY_TEXT
            terminal = f"{name}_text".upper()  # only terminals, in capitals, are intersected
            self._add(f"{terminal}: {' & '.join(terminals)}", field)
            return terminal
        if not isinstance(kind, str) or kind not in _TYPES:
            return _ANY_TEXT  # a text is one of the values that are allowed
        definitions = {name: root[name] for name in _DEFINITIONS if name in root}
        return json_rule({**definitions, **leaf}, lenient=not is_strict)


class _Work:
    """Limits the number of visited schema entries.

    A small schema can be recursive, or expand exponentially through repeated references.
    """

    def __init__(self) -> None:
        self._left = _MAX_WORK

    def spend(self, entries: int, field: str) -> None:
        """Count visited entries.

        Raises:
            InvalidRequest: the limit is exceeded.
        """
        self._left -= entries
        if self._left < 0:
            raise InvalidRequest(field, "is too complex: it expands to too many entries")


def _json_types(
    schema: Mapping[str, Any], root: Mapping[str, Any], field: str, work: _Work
) -> set[str]:
    """The JSON types that a schema allows; empty if it does not say."""
    types: set[str] = set()
    todo: list[Any] = [schema]
    # Parts of `root`; repeated ones add nothing.
    seen: set[int] = set()
    while todo:
        part = _resolved(todo.pop(), root, field, work)
        options = None if "type" in part else _options(part)
        if options is not None:
            new = [option for option in options if id(option) not in seen]
            work.spend(len(options), field)
            seen.update(map(id, new))
            todo += new
            continue
        own = _own_types(part)
        if not own:
            return set()
        types |= own
    return types


def _leaves(schema: Any, root: Mapping[str, Any], field: str, work: _Work) -> list[dict[str, Any]]:
    """The alternatives that a schema is, each with one type, or with none if it does not say.

    What stands beside ``anyOf``, ``oneOf`` or a list of types holds for each of them.
    """
    leaves: list[dict[str, Any]] = []
    todo: list[Any] = [schema]
    # Options, each with what stands beside it; repeated ones add nothing.
    seen: set[tuple[int, int]] = set()
    while todo:
        part = _resolved(todo.pop(0), root, field, work)
        options = _options(part)
        if options is not None:
            beside = {k: v for k, v in part.items() if k not in ("anyOf", "oneOf")}
            work.spend(len(options) * (1 + len(beside)), field)
            place = hash(json.dumps(beside, sort_keys=True, default=str))
            new = [option for option in options if (id(option), place) not in seen]
            seen.update((id(option), place) for option in new)
            todo += [_merged(beside, option) for option in new]
            continue
        kinds = _own_types(part)
        if len(kinds) < 2:
            leaves.append({**part, "type": next(iter(kinds))} if kinds else part)
            continue
        values = part.get("enum")
        if isinstance(values, list):  # the values tell all that the types would
            leaves.append(part)
        else:
            leaves += [{**part, "type": kind} for kind in sorted(kinds)]
    return leaves


def _merged(beside: Mapping[str, Any], option: Any) -> Any:
    return {**beside, **option} if isinstance(option, dict) else option


def _with_local_references(schema: Any) -> Any:
    """The schema with all references as JSON schema has them; some clients leave the ``#`` out."""
    if isinstance(schema, list):
        return [_with_local_references(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"#{value}"
        if key == "$ref" and isinstance(value, str) and value.startswith("/")
        else _with_local_references(value)
        for key, value in schema.items()
    }


def _options(schema: Mapping[str, Any]) -> list[Any] | None:
    lists = (schema.get(name) for name in ("anyOf", "oneOf"))
    return next((options for options in lists if isinstance(options, list)), None)


def _own_types(schema: Mapping[str, Any]) -> set[str]:
    """The types of a schema that is not a choice among others."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {one for one in kind if isinstance(one, str)}
    values = schema.get("enum")
    if isinstance(values, list) and any(isinstance(value, str) for value in values):
        return {"string"}
    return {"object"} if "properties" in schema else set()


def _resolved(schema: Any, root: Mapping[str, Any], field: str, work: _Work) -> dict[str, Any]:
    """The schema that a chain of references (and of lone ``allOf``) leads to."""
    for _ in range(_MAX_REFERENCES):
        if isinstance(schema, bool):
            schema = {}
        if not isinstance(schema, dict):
            raise InvalidRequest(field, "must be a JSON schema")
        alone = schema.get("allOf")
        path = schema.get("$ref")
        if isinstance(alone, list) and len(alone) == 1 and isinstance(alone[0], dict):
            found, name = alone[0], "allOf"
        elif path is None:
            return schema
        else:
            found, name = _found(path, root), "$ref"
            if not isinstance(found, dict):
                raise InvalidRequest(field, f"refers to {path!r}, which does not exist")
        work.spend(1 + len(found) + len(schema), field)
        schema = {**found, **{key: value for key, value in schema.items() if key != name}}
    raise InvalidRequest(field, f"is a chain of more than {_MAX_REFERENCES} references")


def _found(path: Any, root: Mapping[str, Any]) -> Any:
    if not isinstance(path, str) or not path.startswith("#"):
        return None
    steps = path.removeprefix("#").split("/", _MAX_STEPS + 1)[1:]
    place: Any = root if len(steps) <= _MAX_STEPS else None
    for step in steps:
        if not isinstance(place, dict):
            return None
        place = place.get(step.replace("~1", "/").replace("~0", "~"))
    return place


def _ipv6() -> str:
    """An IPv6 address: eight groups, or fewer around one ``::``."""
    group = "[0-9a-fA-F]{1,4}"
    forms = [f"{group}(:{group}){{7}}", f"::({group}(:{group}){{0,6}})?"]
    for before in range(1, 8):
        after = f"({group}(:{group}){{0,{6 - before}}})?" if before < 7 else ""
        forms.append(f"{group}(:{group}){{{before - 1}}}::{after}")
    return "|".join(forms)


# Of a string's ``format``, for texts without quotation marks.
_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "date": r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
        "time": r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
        "date-time": r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):"
        r"[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
        "duration": r"P([0-9]+[YMWD])*(T([0-9]+[HMS])+)?",
        "email": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+",
        "hostname": r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*",
        "ipv4": r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}"
        r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
        "ipv6": _ipv6(),
        "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"]+",
        "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    }
)


def _text_of(schema: Mapping[str, Any], field: str, *, is_strict: bool) -> list[str]:
    """Terminals that a string without quotation marks obeys, all of them; none for any text."""
    for key in _NOT_OF_TEXTS if is_strict else ():
        if key in schema:
            raise InvalidRequest(f"{field}.{key}", "cannot be enforced")
    pattern, low, high = schema.get("pattern"), schema.get("minLength"), schema.get("maxLength")
    terminals = []
    if pattern is not None:
        if not isinstance(pattern, str):
            raise InvalidRequest(f"{field}.pattern", "must be a string")
        if is_strict or _is_regular(pattern, in_json=False):
            terminals.append(regex(_searching(pattern)))
    if low is not None or high is not None:
        if not all(one is None or (isinstance(one, int) and one >= 0) for one in (low, high)):
            raise InvalidRequest(field, "has a length that is not a non-negative integer")
        terminals.append(f"/(?s:.{{{low or 0},{'' if high is None else high}}})/")
    wanted = str(schema.get("format", "unknown"))
    if (form := _FORMATS.get(wanted)) is not None:
        terminals.append(regex(form))
    elif is_strict and wanted != "unknown":
        raise InvalidRequest(f"{field}.format", f"{wanted!r} cannot be enforced")
    return terminals


def _searching(pattern: str) -> str:
    """Convert from searching, as in JSON schema, to matching the whole text."""
    begin, end = pattern.startswith("^"), re.search(r"(?<!\\)(\\\\)*\$$", pattern) is not None
    inner = pattern[1 if begin else 0 : -1 if end else None]
    return f"{'' if begin else '(?s:.*)'}(?:{inner}){'' if end else '(?s:.*)'}"
