"""Every error has OpenAI's shape, and the status that tells a client what to do."""

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
from glm_frontend.errors import from_client_error
from unit.frontend.fakes import ANSWER, CHAT, FakeBackend, chat, events, picture

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


@pytest.mark.parametrize(
    "message",
    [
        "the prompt has 5000 tokens and leaves no room for an answer in the context of 4096",
        "900 and the prompt's 4000 tokens are more than the context of 4096",
    ],
)
def test_a_prompt_that_is_too_long_has_openais_code(message: str) -> None:
    error = from_client_error(InvalidRequestError(message, "messages"))
    assert (error.status, error.code) == (400, "context_length_exceeded")


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
