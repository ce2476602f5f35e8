"""What an answer is to be held to: which fields say so, and what the model server is told."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from glm_client import InvalidRequestError
from glm_frontend.apis.shared.schema import closed
from unit.frontend.fakes import CHAT, MULTIMODAL, FakeBackend, chat

SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}}
CLOSED = {**SCHEMA, "additionalProperties": False}
NAMED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
LOOK = {"type": "function", "function": {"name": "look"}}

STRUCTURES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"response_format": {"type": "json_object"}}, {"json_object": True}, "response_format"),
    ({"response_format": NAMED}, {"json": CLOSED}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"json": {**SCHEMA, "x-guidance": {"lenient": True}}},
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "any"}}},
        {"json_object": True},
        "response_format",
    ),
    ({"structured_outputs": {"json": SCHEMA}}, {"json": SCHEMA}, "structured_outputs.json"),
    ({"structured_outputs": {"json": "{}"}}, {"json": "{}"}, "structured_outputs.json"),
    ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": ["a"]}}, {"choice": ["a"]}, "structured_outputs.choice"),
    (
        {"structured_outputs": {"grammar": 'start: "a"'}},
        {"grammar": 'start: "a"'},
        "structured_outputs.grammar",
    ),
    (
        {"structured_outputs": {"json_object": True}},
        {"json_object": True},
        "structured_outputs.json_object",
    ),
    ({"guided_json": SCHEMA}, {"json": SCHEMA}, "guided_json"),
    ({"guided_regex": "a+"}, {"regex": "a+"}, "guided_regex"),
    ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}, "guided_choice"),
    ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}, "guided_grammar"),
]


@pytest.mark.parametrize(("given", "sent", "path"), STRUCTURES)
def test_the_model_server_is_told_and_its_errors_name_the_clients_field(
    client: TestClient, backend: FakeBackend, given: dict[str, Any], sent: Any, path: str
) -> None:
    assert client.post(CHAT, json=chat(**given)).status_code == 200
    assert backend.requests[0].sampling_parameters == {"structured_outputs": sent}
    (kind,) = sent
    wire = f"sampling_parameters.structured_outputs.{kind}"
    backend.script = [InvalidRequestError("cannot be enforced", wire)]
    error = client.post(CHAT, json=chat(**given)).json()["error"]
    assert (error["param"], error["type"]) == (path, "invalid_request_error")


def test_the_same_by_two_names_is_one(client: TestClient, backend: FakeBackend) -> None:
    """guidance asks vLLM like this, for its older and its newer versions."""
    fields = {"guided_grammar": 'start: "a"', "structured_outputs": {"grammar": 'start: "a"'}}
    answer = client.post(CHAT, json=chat(**fields, guided_decoding_backend="guidance"))
    assert answer.status_code == 200 and "x-glm-ignored-fields" not in answer.headers
    wanted = {"structured_outputs": {"grammar": 'start: "a"'}}
    assert backend.requests[0].sampling_parameters == wanted


def test_text_asks_for_nothing(client: TestClient, backend: FakeBackend) -> None:
    assert client.post(CHAT, json=chat(response_format={"type": "text"})).status_code == 200
    assert backend.requests[0].sampling_parameters == {}


def test_the_multimodal_endpoint_has_them_too(client: TestClient, backend: FakeBackend) -> None:
    body = {"prompt": "hi", "guided_choice": ["a"]}
    assert client.post(MULTIMODAL, json=body).status_code == 200
    assert backend.requests[0].sampling_parameters == {"structured_outputs": {"choice": ["a"]}}


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "must be"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema"),
        (
            {"response_format": {"type": "json_object", "json_schema": NAMED["json_schema"]}},
            "response_format.json_schema",
            "only for the type json_schema",
        ),
        (
            {"response_format": NAMED, "guided_regex": "a"},
            "response_format",
            "cannot be combined with guided_regex",
        ),
        (
            {"guided_choice": ["a"], "structured_outputs": {"regex": "a"}},
            "guided_choice",
            "cannot be combined with structured_outputs",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one key"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "one key"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs.structural_tag", ""),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object", "True"),
        ({"guided_regex": 3}, "guided_regex", "string"),
    ],
)
def test_bad_fields_are_named(
    client: TestClient, fields: dict[str, Any], param: str, reason: str
) -> None:
    response = client.post(CHAT, json=chat(**fields))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param and reason in error["message"]


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"tool_choice": "auto"}, {}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        ({"tool_choice": LOOK}, {"tool_choice": LOOK}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            {"tool_choice": "required", "structured_outputs": {"json_object": True}},
        ),
    ],
)
def test_the_choice_of_tools_goes_through(
    client: TestClient, backend: FakeBackend, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert client.post(CHAT, json=chat(tools=[TOOL], **fields)).status_code == 200
    assert backend.requests[0].sampling_parameters == sent
    assert backend.requests[0].tools == [TOOL]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": LOOK}, "tool_choice"),
        ({"tool_choice": 3, "tools": [TOOL]}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "dig"}}, "tools": [TOOL]},
            "tool_choice",
        ),
        ({"tool_choice": {"type": "function"}, "tools": [TOOL]}, "tool_choice.function"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [TOOL]}, "tool_choice.allowed_tools"),
    ],
)
def test_bad_choices_of_tools_are_named(
    client: TestClient, fields: dict[str, Any], param: str
) -> None:
    response = client.post(CHAT, json=chat(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_strict_tools_are_told_as_such(client: TestClient, backend: FakeBackend) -> None:
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
    assert client.post(CHAT, json=chat(tools=[strict])).status_code == 200
    strict["function"]["parameters"] = CLOSED  # type: ignore[index]
    assert backend.requests[0].tools == [strict]


def test_strict_closes_all_objects_that_are_open() -> None:
    inner = {"type": "object", "properties": {"properties": {"enum": [{"properties": {}}]}}}
    schema = {
        "$defs": {"a": inner},
        "properties": {
            "b": {"type": "array", "items": inner},
            "c": {"anyOf": [inner, {"type": "null"}]},
            "d": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
            "e": {"type": "object"},
        },
    }
    shut = {**inner, "additionalProperties": False}
    assert closed(schema) == {
        "$defs": {"a": shut},
        "properties": {
            "b": {"type": "array", "items": shut},
            "c": {"anyOf": [shut, {"type": "null"}]},
            "d": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
            "e": {"type": "object"},
        },
        "additionalProperties": False,
    }


def test_strict_leaves_open_what_is_combined() -> None:
    """An object that is closed could not have the members that stand beside it."""
    branch = {"properties": {"a": {}}, "required": ["a"]}
    both = {"properties": {"t": {}}, "anyOf": [branch]}
    assert closed(both) == both
    assert closed({"allOf": [branch, branch]}) == {"allOf": [branch, branch]}
    assert closed({"anyOf": [branch]}) == {"anyOf": [{**branch, "additionalProperties": False}]}
