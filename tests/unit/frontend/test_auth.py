"""Bearer keys."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import CHAT, COUNT_TOKENS, MESSAGES, MULTIMODAL, FakeBackend, chat

Headers = dict[bytes, bytes]

BASIC = {b"authorization": b"Basic a2V5LTE="}


def bearer(key: str) -> Headers:
    return {b"authorization": f"Bearer {key}".encode("latin-1")}


@pytest.fixture
def locked() -> Iterator[TestClient]:
    settings = Settings(api_keys=(SecretStr("key-1"), SecretStr("key-2")))
    with TestClient(create_app(settings, FakeBackend())) as client:
        yield client


def test_a_known_key_is_let_in(locked: TestClient) -> None:
    assert locked.post(CHAT, json=chat(), headers=bearer("key-1")).status_code == 200
    assert locked.post(CHAT, json=chat(), headers=bearer("key-2")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("key-3"), bearer("key-"), bearer("käse"), bearer(""), BASIC],
)
def test_others_are_not(locked: TestClient, headers: Headers) -> None:
    response = locked.post(CHAT, json=chat(), headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "key-1" not in response.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (bearer("key-1"), 200),
        ({b"x-api-key": b"key-2"}, 200),
        ({b"x-api-key": b"key-2"} | BASIC, 200),
        ({b"x-api-key": b"key-3"}, 401),
        ({b"x-api-key": b"key-3"} | bearer("key-1"), 401),
        ({b"x-api-key": b""}, 401),
        ({}, 401),
    ],
)
def test_messages_take_the_key_where_anthropics_clients_send_it(
    locked: TestClient, headers: Headers, status: int
) -> None:
    body = chat(max_tokens=9)
    assert locked.post(MESSAGES, json=body, headers=headers).status_code == status


def test_other_endpoints_do_not(locked: TestClient) -> None:
    assert locked.post(CHAT, json=chat(), headers={"x-api-key": "key-1"}).status_code == 401


def test_the_key_comes_before_the_body(locked: TestClient) -> None:
    response = locked.post(CHAT, content=b"not json")
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", MESSAGES),
        ("POST", COUNT_TOKENS),
        ("POST", MULTIMODAL),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/x"),
    ],
)
def test_what_is_locked(locked: TestClient, method: str, path: str) -> None:
    assert locked.request(method, path).status_code == 401


@pytest.mark.parametrize("path", ["/v1/health", "/docs", "/openapi.json", "/"])
def test_what_is_open(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 200
