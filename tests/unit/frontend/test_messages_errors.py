"""Every error of ``/v1/messages`` has Anthropic's shape, wherever it comes from."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from pydantic import SecretStr
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
from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import ANSWER, COUNT_TOKENS, MESSAGES, FakeBackend, chat
from unit.frontend.test_messages import events

ERRORS: list[tuple[GLMError, int, str]] = [
    (InvalidRequestError("damaged", "image[0]"), 400, "invalid_request_error"),
    (OverloadedError("queue full: 8"), 429, "rate_limit_error"),
    (UnavailableError("Stub process 'x'"), 503, "overloaded_error"),
    (OutOfMemoryError("out of memory: less"), 503, "overloaded_error"),
    (RequestCancelledError("gone"), 503, "overloaded_error"),
    (DeadlineExceededError("late"), 504, "timeout_error"),
    (InternalError("secret"), 500, "api_error"),
]
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
}
BODY = chat([IMAGE], max_tokens=9)


def assert_shape(body: Any, kind: str, request_id: str) -> None:
    assert set(body) == {"type", "error", "request_id"}
    assert set(body["error"]) == {"type", "message"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == request_id
    assert body["error"]["message"]


def test_every_kind_is_covered() -> None:
    assert {type(error) for error, *_ in ERRORS} == set(GLMError.__subclasses__())


@pytest.mark.parametrize(("error", "status", "kind"), ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_first_byte(
    client: TestClient,
    backend: FakeBackend,
    error: GLMError,
    status: int,
    kind: str,
    stream: bool,
) -> None:
    backend.script = [error]
    response = client.post(MESSAGES, json=BODY | {"stream": stream})
    assert response.status_code == status
    assert_shape(response.json(), kind, response.headers["request-id"])
    assert ("retry-after" in response.headers) == (status in (429, 503))
    assert "secret" not in response.text


@pytest.mark.parametrize(("error", "status", "kind"), ERRORS)
def test_errors_of_counting(
    client: TestClient, backend: FakeBackend, error: GLMError, status: int, kind: str
) -> None:
    backend.script = [error]
    response = client.post(COUNT_TOKENS, json=chat([IMAGE]))
    assert response.status_code == status
    assert_shape(response.json(), kind, response.headers["request-id"])


@pytest.mark.parametrize(
    ("error", "kind"),
    [*((error, kind) for error, _, kind in ERRORS), (ZeroDivisionError("secret"), "api_error")],
)
def test_errors_in_a_stream(
    client: TestClient, backend: FakeBackend, error: Exception, kind: str
) -> None:
    backend.script = [ANSWER[0], error]
    response = client.post(MESSAGES, json=BODY | {"stream": True})
    assert response.status_code == 200
    *others, last = events(response.text)
    assert [event["type"] for event in others] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
    ]
    assert_shape(last, kind, response.headers["request-id"])
    assert "secret" not in response.text


@pytest.fixture
def strict() -> Iterator[TestClient]:
    """A server with a key that takes one small request at a time."""
    settings = Settings(api_keys=(SecretStr("key"),), max_body_bytes=300, max_inflight=1)
    app = create_app(settings, FakeBackend([ZeroDivisionError("secret")]))
    with TestClient(app, raise_server_exceptions=False, headers={"x-api-key": "key"}) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "request_fields", "status", "kind"),
    [
        ("POST", MESSAGES, {"headers": {"x-api-key": "no"}}, 401, "authentication_error"),
        ("POST", MESSAGES, {"json": BODY | {"model": "claude"}}, 404, "not_found_error"),
        ("POST", f"{MESSAGES}/batches", {"json": {}}, 404, "not_found_error"),
        ("GET", MESSAGES, {}, 405, "invalid_request_error"),
        ("POST", COUNT_TOKENS, {"json": BODY | {"messages": []}}, 400, "invalid_request_error"),
        ("POST", MESSAGES, {"json": BODY | {"system": "x" * 300}}, 413, "request_too_large"),
        ("POST", MESSAGES, {"content": iter([b" " * 301])}, 413, "request_too_large"),
        ("POST", MESSAGES, {"content": b"{}"}, 415, "invalid_request_error"),
        ("POST", MESSAGES, {"json": []}, 400, "invalid_request_error"),
        ("POST", MESSAGES, {"json": BODY}, 500, "api_error"),
    ],
)
def test_errors_from_around_the_endpoint(
    strict: TestClient,
    method: str,
    path: str,
    request_fields: dict[str, Any],
    status: int,
    kind: str,
) -> None:
    if "content" in request_fields and status == 413:
        request_fields |= {"headers": {"content-type": "application/json"}}
    response = strict.request(method, path, **request_fields)
    assert response.status_code == status
    assert_shape(response.json(), kind, response.headers["request-id"])
    assert "secret" not in response.text


def test_too_many_requests(strict: TestClient) -> None:
    with strict.app.state.services.limiter.acquire():  # type: ignore[attr-defined]
        response = strict.post(MESSAGES, json=BODY)
    assert response.status_code == 429
    assert_shape(response.json(), "rate_limit_error", response.headers["request-id"])


@pytest.mark.parametrize("path", ["/v1/messagesx", "/v1/message", "/messages"])
def test_other_paths_keep_openais_shape(client: TestClient, path: str) -> None:
    assert set(client.post(path).json()) == {"error"}


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
    ],
)
async def test_the_official_sdks_exceptions(
    backend: FakeBackend, status: int, kind: str, expected: type[anthropic.APIStatusError]
) -> None:
    backend.script = [next(error for error, own, _ in ERRORS if own == status)]
    app = create_app(Settings(), backend)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http,
        anthropic.AsyncAnthropic(
            base_url="http://test", api_key="-", http_client=http, max_retries=0
        ) as sdk,
    ):
        request: Any = BODY
        with pytest.raises(expected) as raised:
            await sdk.messages.create(**request)
    assert (raised.value.status_code, raised.value.type) == (status, kind)
    assert raised.value.request_id is not None and raised.value.request_id.startswith("req-")
