"""Every error has OpenAI's shape, and the status that tells a client what to do."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from glm_client import (
    DeadlineExceededError,
    GLMError,
    InternalError,
    InvalidRequestError,
    OutOfMemoryError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
)
from glm_client.errors import error_from_text
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError
from unit.frontend.fakes import (
    ANSWER,
    CHAT,
    COUNT_TOKENS,
    DECISIONS,
    MESSAGES,
    MODEL,
    MULTIMODAL,
    RESPONSES,
    FakeBackend,
    chat,
    events,
    picture,
)

ERRORS: list[tuple[GLMError, int, str, str | None]] = [
    (InvalidRequestError("damaged", "image[0]"), 400, "invalid_request_error", "invalid_value"),
    (OverloadedError("queue full: 8"), 429, "rate_limit_error", "overloaded"),
    (UnavailableError("Stub process 'x'"), 503, "server_error", "unavailable"),
    (OutOfMemoryError("out of memory: less"), 503, "server_error", "out_of_memory"),
    (RequestCancelledError("gone"), 503, "server_error", "cancelled"),
    (DeadlineExceededError("late"), 504, "server_error", "timeout"),
    (InternalError("secret"), 500, "server_error", "internal_error"),
]
BODY = chat([picture()])


def assert_shape(body: Any) -> None:
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code", "request_id"}
    assert body["error"]["message"]


def test_every_kind_is_covered() -> None:
    assert {type(error) for error, *_ in ERRORS} == set(GLMError.__subclasses__())


@pytest.mark.parametrize(("error", "status", "kind", "code"), ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_first_byte(
    client: TestClient,
    backend: FakeBackend,
    error: GLMError,
    status: int,
    kind: str,
    code: str | None,
    stream: bool,
) -> None:
    backend.script = [error]
    response = client.post(CHAT, json=BODY | {"stream": stream})
    assert response.status_code == status
    assert_shape(response.json())
    assert (response.json()["error"]["type"], response.json()["error"]["code"]) == (kind, code)
    assert ("retry-after" in response.headers) == (status in (429, 503))
    assert "secret" not in response.text


@pytest.mark.parametrize(("error", "status", "kind", "code"), ERRORS)
def test_errors_in_a_stream(
    client: TestClient,
    backend: FakeBackend,
    error: GLMError,
    status: int,
    kind: str,
    code: str | None,
) -> None:
    backend.script = [ANSWER[0], error]
    response = client.post(CHAT, json=BODY | {"stream": True})
    assert response.status_code == 200
    *chunks, last = events(response.text)
    assert chunks[1]["choices"][0]["delta"]["reasoning_content"] == "a "
    assert_shape(last)
    assert (last["error"]["type"], last["error"]["code"]) == (kind, code)


@pytest.mark.parametrize(
    ("wire", "param"),
    [
        ("sampling_parameters.temperature", "temperature"),
        ("sampling_parameters.max_tokens", "max_tokens"),
        ("sampling_parameters.logit_bias.7", "logit_bias.7"),
        ("messages[0].content[0].text", "messages[0].content[0].text"),
        ("messages[2].content[0].text", "messages[2].content.text"),
        ("messages[1].role", "messages[1].role"),
        ("messages", "messages"),
        ("chat_template_kwargs", "chat_template_kwargs"),
        ("image[0]", "messages[0].content[1].image_url.url"),
        ("image[1]", "messages[0].content[2].image_url.url"),
        ("image[2]", "messages[3].content.image_url.url"),
    ],
)
def test_wire_names_become_those_of_the_request(
    client: TestClient, backend: FakeBackend, wire: str, param: str
) -> None:
    backend.script = [InvalidRequestError("is wrong", wire)]
    text = {"type": "text", "text": "hi"}
    body = chat() | {
        "messages": [
            {"role": "user", "content": [text, picture(), picture()]},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": text},
            {"role": "user", "content": picture()},
        ]
    }
    error = client.post(CHAT, json=body).json()["error"]
    assert (error["param"], error["message"]) == (param, f"{param}: is wrong")


def test_max_completion_tokens_keeps_its_name(client: TestClient, backend: FakeBackend) -> None:
    backend.script = [InvalidRequestError("is too much", "sampling_parameters.max_tokens")]
    error = client.post(CHAT, json=chat(max_completion_tokens=9)).json()["error"]
    assert error["param"] == "max_completion_tokens"


BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat("hi"),
    "/v1/completions": {"model": MODEL, "prompt": "hi"},
    RESPONSES: {"model": MODEL, "input": "hi"},
    MESSAGES: chat("hi", max_tokens=9),
    MULTIMODAL: {"prompt": "hi"},
    COUNT_TOKENS: chat("hi"),
    "/tokenize": {"prompt": "hi"},
    DECISIONS: {
        "model": MODEL,
        "input": "hi",
        "questions": [{"type": "predicate", "instructions": "It is."}],
    },
}
"""A request of every API."""
WITHOUT_A_STREAM = (COUNT_TOKENS, DECISIONS, "/tokenize")


def told(path: str, body: Any) -> tuple[str | None, str]:
    """The code, which Anthropic's errors have none of, and the type of an error."""
    if path in (MESSAGES, COUNT_TOKENS):
        assert set(body) >= {"type", "error"} and body["type"] == "error"
        return None, body["error"]["type"]
    if path == RESPONSES and "error" not in body:  # an event of a stream
        assert body["type"] == "error"
        return body["code"], ErrorCode[body["code"].upper()].type
    assert_shape(body)
    return body["error"]["code"], body["error"]["type"]


def expected(path: str, code: ErrorCode) -> tuple[str | None, str]:
    if path in (MESSAGES, COUNT_TOKENS):
        return None, code.anthropic_type
    return code, code.type


@pytest.mark.parametrize("path", BODIES)
def test_every_code_in_every_api(client: TestClient, backend: FakeBackend, path: str) -> None:
    for code in ErrorCode:
        error = APIError(code, "A sentence.", param="messages")
        for stream in (False, True)[: 1 if path in WITHOUT_A_STREAM else 2]:
            backend.script = [error]
            body = BODIES[path] | ({"stream": True} if stream else {})
            response = client.post(path, json=body)
            assert response.status_code == code.status
            assert told(path, response.json()) == expected(path, code)
            assert ("retry-after" in response.headers) == code.is_temporary
        if path not in WITHOUT_A_STREAM:
            backend.script = [*ANSWER[:3], error]
            response = client.post(path, json=BODIES[path] | {"stream": True})
            assert response.status_code == 200
            lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
            failures = [one for one in map(json.loads, lines) if is_error(one)]
            assert [told(path, one) for one in failures] == [expected(path, code)]


def is_error(event: Any) -> bool:
    return "choices" not in event and (event.get("type") == "error" or ("type" not in event and
                                       set(event) == {"error"}))  # fmt: skip


@pytest.mark.parametrize("code", [code for code in ErrorCode if code.triton])
def test_every_code_of_the_model_server(
    client: TestClient, backend: FakeBackend, code: ErrorCode
) -> None:
    details = {"status": code.triton, "code": code, "message": "secret", "param": "messages"}
    backend.script = [error_from_text(json.dumps(details))]
    response = client.post(CHAT, json=BODY)
    assert response.status_code == code.status
    error = response.json()["error"]
    assert (error["code"], error["type"]) == (code, code.type)
    # What a request is refused for is for its sender; what the server's state is in words of its
    # own is not.
    assert ("secret" in error["message"]) == (code.triton == "INVALID_ARG")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", CHAT, 405, "method_not_allowed"),
        ("GET", "/docs/assets/nothing.js", 404, "not_found"),
        ("GET", "/redoc", 404, "not_found"),
    ],
)
def test_routes_that_are_not_there(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert_shape(response.json())
    assert response.json()["error"]["code"] == code
    assert ("allow" in response.headers) == (status == 405)


def test_an_unknown_model(client: TestClient) -> None:
    response = client.post(CHAT, json=chat() | {"model": "gpt-4o"})
    assert response.status_code == 404
    assert_shape(response.json())
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")
