"""Browsers from elsewhere: shut out unless a setting lets them in."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import CHAT, FakeBackend, chat

ORIGIN = "https://app.example"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    # As OpenAI's browser SDK asks.
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def open_client(backend: FakeBackend) -> Iterator[TestClient]:
    app = create_app(Settings(cors_origins=(ORIGIN,)), backend)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_closed_by_default(client: TestClient) -> None:
    response = client.post(CHAT, json=chat(), headers={"origin": ORIGIN})
    assert "access-control-allow-origin" not in response.headers
    assert client.options(CHAT, headers=PREFLIGHT).status_code == 405


def test_an_origin_of_the_settings(open_client: TestClient) -> None:
    preflight = open_client.options(CHAT, headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    response = open_client.post(CHAT, json=chat(), headers={"origin": ORIGIN})
    assert response.headers["access-control-allow-origin"] == ORIGIN
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "request-id"} <= set(exposed)


def test_another_origin(open_client: TestClient) -> None:
    other = PREFLIGHT | {"origin": "https://evil.example"}
    assert open_client.options(CHAT, headers=other).status_code == 400
    response = open_client.post(CHAT, json=chat(), headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers


def test_a_browser_may_read_errors_too(open_client: TestClient, backend: FakeBackend) -> None:
    backend.script = [ZeroDivisionError()]
    for body, status in ((chat(max_tokens=0), 400), (chat(), 500)):
        response = open_client.post(CHAT, json=body, headers={"origin": ORIGIN})
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ORIGIN
