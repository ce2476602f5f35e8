"""Each field of a chat completion: what is taken, what is refused, and under which name."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from unit.frontend.fakes import CHAT, FakeBackend, chat, picture

TEXT = {"type": "text", "text": "hi"}


def refused(client: TestClient, body: Any) -> dict[str, Any]:
    response = client.post(CHAT, json=body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 1),
        ("max_tokens", 100_000),
        ("temperature", 0),
        ("temperature", 0.7),
        ("temperature", 2),
        ("top_p", 0.001),
        ("top_p", 1),
        ("top_k", -1),
        ("top_k", 0),
        ("top_k", 50),
        ("min_p", 0),
        ("min_p", 1),
        ("seed", -(2**63)),
        ("seed", 2**63 - 1),
        ("stop_token_ids", [0, 5]),
        ("presence_penalty", -2),
        ("frequency_penalty", 2),
        ("repetition_penalty", 0.01),
        ("logit_bias", {"7": -100, "8": 100}),
        ("min_tokens", 0),
        ("ignore_eos", True),
    ],
)
def test_sampling_fields_go_through(
    client: TestClient, backend: FakeBackend, field: str, value: Any
) -> None:
    assert client.post(CHAT, json=chat(**{field: value})).status_code == 200
    assert backend.requests[0].sampling_parameters == {field: value}


@pytest.mark.parametrize(
    ("given", "sent"), [("END", ["END"]), (["a", "b"], ["a", "b"]), (["x"] * 16, ["x"] * 16)]
)
def test_stop(client: TestClient, backend: FakeBackend, given: Any, sent: list[str]) -> None:
    assert client.post(CHAT, json=chat(stop=given)).status_code == 200
    assert backend.requests[0].sampling_parameters == {"stop": sent}


def test_what_is_absent_or_null_is_not_sent(client: TestClient, backend: FakeBackend) -> None:
    body = chat(max_tokens=None, temperature=None, stop=None, seed=None, stream=None, n=None)
    assert client.post(CHAT, json=body).status_code == 200
    assert backend.requests[0].sampling_parameters == {}
    assert backend.requests[0].chat_template_kwargs is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_tokens", 1.5),
        ("max_tokens", "12"),
        ("max_tokens", True),
        ("max_completion_tokens", 0),
        ("temperature", -0.1),
        ("temperature", 3),
        ("temperature", "hot"),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", 2),
        ("seed", 2**63),
        ("seed", 0.5),
        ("stop_token_ids", 5),
        ("presence_penalty", -2.1),
        ("frequency_penalty", 2.1),
        ("repetition_penalty", 0),
        ("logit_bias", [1]),
        ("min_tokens", -1),
        ("ignore_eos", "yes"),
        ("n", 17),
        ("n", 0),
        ("logprobs", 5),
        ("top_logprobs", 3),
        ("top_logprobs", 21),
        ("thinking_token_budget", -1),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("parallel_tool_calls", "no"),
        ("tools", {}),
        ("stream", "true"),
        ("stop", 5),
        ("stop", ["x"] * 17),
        ("stop_token_ids", list(range(1025))),
        ("logit_bias", {str(i): 0 for i in range(1025)}),
        ("messages", [1] * 4097),
        ("tools", [1] * 129),
        ("structured_outputs", {"choice": ["a"] * 1001}),
        ("messages", []),
        ("messages", "hi"),
        ("messages", None),
        ("model", 5),
        ("model", None),
        ("stream_options", True),
    ],
)
def test_bad_values_are_named(client: TestClient, field: str, value: Any) -> None:
    error = refused(client, chat() | {field: value})
    assert error["param"].partition(".")[0] == field
    assert error["message"].startswith(f"{error['param']}: ")
    assert error["code"] in ("invalid_value", "unknown_field")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"chat_template_kwargs": {"enable_thinking": 1}}, "chat_template_kwargs.enable_thinking"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
    ],
)
def test_bad_parts_are_named(client: TestClient, changes: dict[str, Any], param: str) -> None:
    assert refused(client, chat() | changes)["param"] == param


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        (chat(messages=[1] * 1_000_000), None, "more than 1000000 values"),
        (chat(messages=[1] * 900_000), "messages", "has 900000 entries, and 4096 are allowed"),
        (
            chat(messages=[{"role": "user", "content": [1] * 900_000}]),
            "messages[0].content",
            "has 900000 entries, and 1024 are allowed",
        ),
        (chat(**{f"x{i}": 1 for i in range(300)}), None, "has more than 256 fields"),
    ],
)
def test_what_is_far_too_much_is_not_looked_at_one_by_one(
    client: TestClient, body: Any, param: str | None, reason: str
) -> None:
    error = refused(client, body)
    assert error["param"] == param
    assert reason in error["message"]
    assert len(error["message"]) < 200  # pydantic would name each


@pytest.mark.parametrize("field", ["model", "messages"])
def test_required_fields(client: TestClient, field: str) -> None:
    body = chat()
    del body[field]
    error = refused(client, body)
    assert (error["param"], error["code"]) == (field, "missing_field")
    assert error["message"] == f"{field}: is required"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "king", "content": "hi"}, "messages[0].role"),
        (
            {"role": "tool", "content": "hi", "tool_calls": [{}]},
            "messages[0].tool_calls[0].function",
        ),
        (
            {
                "role": "user",
                "content": "hi",
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
            },
            "messages[0].tool_calls",
        ),
        ({"content": "hi"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [5]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [TEXT, {"type": "audio"}]}, "messages[0].content[1].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": {"type": "text"}}, "messages[0].content.text"),
        ({"role": "user", "content": {"type": "audio"}}, "messages[0].content.type"),
        (
            {"role": "user", "content": [{"type": "text", "text": None}]},
            "messages[0].content[0].text",
        ),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "messages[0].content[0].image_url",
        ),
        (
            {"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {}}]},
            "messages[0].content[1].image_url.url",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"role": "user", "content": [TEXT, {"type": "video_url", "video_url": {}}]},
            "messages[0].content[1].video_url.url",
        ),
        (
            {"role": "user", "content": "hi", "reasoning_content": "x"},
            "messages[0].reasoning_content",
        ),
        ("hi", "messages[0]"),
    ],
)
def test_bad_messages_are_named(client: TestClient, message: Any, param: str) -> None:
    error = refused(client, chat() | {"messages": [message]})
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "alloy"}),
        ("modalities", ["text", "audio"]),
        ("functions", [{}]),
        ("web_search_options", {}),
    ],
)
def test_fields_of_openai_that_are_not_supported(
    client: TestClient, field: str, value: Any
) -> None:
    error = refused(client, chat(**{field: value}))
    assert (error["param"], error["code"]) == (field, "unsupported_field")
    assert error["message"] == f"{field}: is not supported by this server"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", []),
        ("tools", None),
        ("tool_choice", "auto"),
        ("response_format", {"type": "text"}),
        ("logprobs", False),
        ("store", False),
        ("n", 1),
        ("user", "me"),
        ("metadata", {"a": "b"}),
    ],
)
def test_fields_that_ask_for_nothing_pass(client: TestClient, field: str, value: Any) -> None:
    assert client.post(CHAT, json=chat(**{field: value})).status_code == 200


def test_several_errors_are_told_together(client: TestClient) -> None:
    error = refused(client, chat(max_tokens=0, temperature=3, top_p=2, min_p=2, seed="x"))
    assert error["param"] == "max_tokens"
    assert "; temperature: " in error["message"]
    assert error["message"].endswith("; and 2 more")


def test_values_are_shown_but_not_long_ones(client: TestClient) -> None:
    assert refused(client, chat(max_tokens=0))["message"].endswith(", not 0")
    message = refused(client, chat(max_tokens="secret " * 20))["message"]
    assert "secret" not in message


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1,", b'{"a": NaN}', b"\xff\xfe", b'"\\ud800"', b"[" * 100_000, b"null", b"[]"],
)
def test_bad_json(client: TestClient, content: bytes) -> None:
    response = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types(client: TestClient, content_type: str) -> None:
    response = client.post(CHAT, content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]["message"]


def test_a_charset_is_no_other_type(client: TestClient) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    response = client.post(CHAT, json=chat([TEXT, picture()]), headers=headers)
    assert response.status_code == 200
