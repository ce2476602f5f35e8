"""Bearer keys."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from glm_frontend.admission.keys import all_keys
from glm_frontend.app import create_app
from glm_frontend.settings import Settings, SettingsError, load_settings
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


def test_keys_come_from_a_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(
        "# ours\nsecret-a name=alice rate=5/minute\n\nsecret-b#b  # nobody's\n"
        "secret-c name=carol tenant=alice\n"
    )
    monkeypatch.setenv("GLM_API_KEYS", "secret-0")
    monkeypatch.setenv("GLM_API_KEYS_FILE", str(file))
    settings = load_settings()
    assert [key.name for key in settings.keys] == ["key-1", "alice", "key-3", "carol"]
    assert [key.tenant for key in settings.keys] == ["key-1", "alice", "key-3", "alice"]
    assert "secret-" not in repr(settings) + repr(settings.keys)
    caplog.set_level(logging.DEBUG)
    backend = FakeBackend()
    with TestClient(create_app(settings, backend)) as client:
        for secret, name, tenant in (
            ("secret-0", "key-1", "key-1"),
            ("secret-a", "alice", "alice"),
            ("secret-b#b", "key-3", "key-3"),
            ("secret-c", "carol", "alice"),
        ):
            assert client.post(CHAT, json=chat(), headers=bearer(secret)).status_code == 200
            assert backend.requests[-1].tenant == tenant
            assert f"key={name} " in caplog.text
        assert client.post(CHAT, json=chat(), headers=bearer("alice")).status_code == 401
    assert "secret-" not in caplog.text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("schlüssel", "a key may only have visible ASCII characters"),
        ("secret alice", "after the key only name=NAME, tenant=NAME and rate=LIMITS may stand"),
        (
            "secret name=a name=b",
            "after the key only name=NAME, tenant=NAME and rate=LIMITS may stand",
        ),
        (
            "secret colour=red",
            "after the key only name=NAME, tenant=NAME and rate=LIMITS may stand",
        ),
        ("secret name=a/b", "'a/b' is not a name"),
        ("secret tenant=a/b", "'a/b' is not a tenant"),
        ("secret tenant=a tenant=b", "name=NAME, tenant=NAME and rate=LIMITS may stand"),
        ("secret name=first", "the name 'first' is given twice"),
        ("secret name=key-1", "the name 'key-1' is given twice"),
        ("one", "the key is also that of 'first'"),
        ("zero", "the key is also that of 'key-1'"),
        ("secret rate=often", "'often' is not a rate"),
        ("secret rate=0/minute", "'0/minute' is not a rate"),
    ],
)
def test_a_bad_line_is_named_and_its_key_is_not(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"one name=first\n{line}\n")
    with pytest.raises(ValueError, match="line 2") as caught:
        all_keys([SecretStr("zero")], file)
    assert reason in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "key rate=often", "", "# keys of all\n"])
def test_a_bad_file_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("GLM_API_KEYS_FILE", str(file))
    with pytest.raises(SettingsError, match=r"keys|often"):
        load_settings()
