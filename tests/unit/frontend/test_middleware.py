"""Request ids, the access log, the body limit, and what happens when we fail."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import ANSWER, CHAT, MULTIMODAL, FakeBackend, Visitor, chat, events

LIMIT = 1000


def test_every_response_has_an_id(client: TestClient) -> None:
    responses = [client.post(CHAT, json=chat()), client.get("/nowhere"), client.get("/docs")]
    ids = [response.headers["x-request-id"] for response in responses]
    assert [response.headers["request-id"] for response in responses] == ids
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"req-[0-9a-f]{32}", request_id) for request_id in ids)


@pytest.mark.parametrize("stream", [False, True])
def test_the_time_until_the_response_is_told(client: TestClient, stream: bool) -> None:
    response = client.post(CHAT, json=chat(stream=stream))
    assert 0 <= int(response.headers["openai-processing-ms"]) < 10_000


def test_a_sane_id_of_the_client_is_kept(client: TestClient, backend: FakeBackend) -> None:
    headers = {"x-request-id": "job-1:a_b.c"}
    assert client.post(CHAT, json=chat(), headers=headers).headers["x-request-id"] == "job-1:a_b.c"
    assert backend.requests[0].request_id == "job-1:a_b.c"
    error = client.get("/nowhere", headers=headers).json()["error"]
    assert error["request_id"] == "job-1:a_b.c"


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "a\tb", "é"])
def test_another_id_is_replaced(client: TestClient, request_id: str) -> None:
    headers = {b"x-request-id": request_id.encode("latin-1")}
    assert client.get("/nowhere", headers=headers).headers["x-request-id"].startswith("req-")


def test_the_access_log_has_the_id(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="glm_frontend")
    client.get("/v1/models%0Aforged?key=secret", headers={"x-request-id": "job-1"})
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        r"request method=GET path=/v1/models%0Aforged status=404 duration_ms=[\d.]+ "
        r"client=testclient key=- request_id=job-1 code=not_found",
        line,
    )


@pytest.fixture
async def limited() -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(Settings(max_body_bytes=LIMIT), FakeBackend())
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


FORM_START = b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n'


async def chunked(size: int, start: bytes = b"") -> AsyncIterator[bytes]:
    yield start
    for _ in range(0, size, 100):
        yield b" " * 100


async def test_a_body_that_is_declared_too_large(limited: httpx2.AsyncClient) -> None:
    response = await limited.post(CHAT, json=chat("x" * LIMIT))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert "x-request-id" in response.headers


@pytest.mark.parametrize(
    ("path", "content_type", "start"),
    [
        (CHAT, "application/json", b""),
        (MULTIMODAL, "application/json", b""),
        (MULTIMODAL, "multipart/form-data; boundary=b", FORM_START),
    ],
)
async def test_a_body_that_turns_out_too_large(
    limited: httpx2.AsyncClient, path: str, content_type: str, start: bytes
) -> None:
    content = chunked(LIMIT + 100, start)
    response = await limited.post(path, content=content, headers={"content-type": content_type})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


async def test_a_body_of_the_limit_is_read(limited: httpx2.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    response = await limited.post(CHAT, content=chunked(LIMIT), headers=headers)
    assert response.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("stream", [False, True])
def test_our_failure_is_a_500_without_details(
    client: TestClient,
    backend: FakeBackend,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
) -> None:
    backend.script = [ZeroDivisionError("secret")]
    response = client.post(CHAT, json=chat(stream=stream), headers={"x-request-id": "job-1"})
    error = response.json()["error"]
    assert response.status_code == 500
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert error["request_id"] == "job-1"
    assert "secret" not in response.text
    assert "secret" in caplog.text
    assert "unexpected error request_id=job-1" in caplog.text


async def test_our_failure_in_a_stream_is_an_event(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(Settings(), FakeBackend([ANSWER[0], ZeroDivisionError("secret")]))
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, CHAT, chat(stream=True))
        await visitor.run()
    assert visitor.status == 200
    last: dict[str, Any] = events(visitor.text)[-1]
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in visitor.text
    assert "secret" in caplog.text


async def test_a_client_that_leaves_while_it_sends() -> None:
    app = create_app(Settings(), FakeBackend())
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, CHAT, chat())
        visitor._sent = True  # the body never comes
        running = asyncio.create_task(visitor.run())
        visitor.leave()
        await running
    assert visitor.status == 499


def test_signs_of_life_do_not_fill_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="glm_frontend")
    for path in ("/v1/health", "/v1/health/live"):
        assert client.get(path).status_code == 200
    assert caplog.records == []


def test_no_browser_guesses_the_type_of_an_answer(client: TestClient) -> None:
    for path in ("/v1/health", "/docs", "/nothing"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"
