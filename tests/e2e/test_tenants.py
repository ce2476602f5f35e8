"""Two tenants at one server, over HTTP with keys and over gRPC without."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from e2e.calls import MODEL, chat
from e2e.test_caches import new_picture
from glm_client import Client, GenerationRequest
from tools.stack import Stack

KEYS = """
alice-1 name=alice-laptop tenant=alice
alice-2 name=alice-server tenant=alice
bob-1 name=bob
"""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("tenants")
    keys = folder / "keys"
    keys.write_text(KEYS)
    server = Stack(folder / "launcher.log", GLM_API_KEYS_FILE=str(keys))
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def _ask(stack: Stack, key: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> Any:
    response = requests.post(
        stack.base_url + path, json=body, headers={"authorization": f"Bearer {key}"}, timeout=120
    )
    assert response.status_code == 200, response.text
    return response.json()


def _cached(answer: Any) -> int:
    cached: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached


def test_keys_of_one_tenant_share_what_others_cannot_see(locked: Stack) -> None:
    body = chat("Describe the image.", "plot-42.png", max_tokens=4)
    body["messages"][0]["content"][0]["image_url"]["url"] = new_picture()
    assert _cached(_ask(locked, "alice-1", body)) == 0
    assert _cached(_ask(locked, "bob-1", body)) == 0
    assert _cached(_ask(locked, "alice-2", body)) > 0
    assert _cached(_ask(locked, "bob-1", body)) > 0


@pytest.mark.parametrize("salt", ["", 5, "x" * 1025])
def test_a_bad_salt_is_named(locked: Stack, salt: object) -> None:
    response = requests.post(
        locked.base_url + "/v1/chat/completions",
        json=chat("Hello.", cache_salt=salt),
        headers={"authorization": "Bearer bob-1"},
        timeout=60,
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "cache_salt"


TEXT = "Say hello to everybody who reads this sentence, and to nobody else. " * 4
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 2},
    "/v1/completions": {"prompt": TEXT, "max_tokens": 2},
    "/v1/responses": {"input": TEXT, "max_output_tokens": 2},
    "/v1/messages": {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 2},
    "/v1/decisions": {
        "input": TEXT,
        "questions": [{"type": "predicate", "instructions": "It is a greeting."}],
    },
}


@pytest.mark.parametrize("path", BODIES)
def test_a_salt_divides_further_in_every_api(locked: Stack, path: str) -> None:
    def cached(salt: str) -> int:
        body = {"model": MODEL, "cache_salt": salt} | BODIES[path]
        usage = _ask(locked, "bob-1", body, path)["usage"]
        if path == "/v1/messages":
            return int(usage["cache_read_input_tokens"])
        details = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
        return int(details["cached_tokens"])

    assert cached(path) == 0
    assert cached(path) > 0
    assert cached(f"not {path}") == 0


def test_decisions_about_a_picture_are_the_same_for_all_and_shared_by_none(locked: Stack) -> None:
    picture = {"type": "input_image", "image_url": new_picture()}
    text = {"type": "input_text", "text": "There is something red."}
    shown = {
        "model": MODEL,
        "input": [{"role": "user", "content": [picture]}],
        "questions": [{"type": "predicate", "instructions": [text]}],
    }
    keys, cached = ("alice-1", "bob-1", "alice-2", "bob-1"), []
    for key in keys:
        usage = _ask(locked, key, shown, "/v1/decisions")["usage"]
        cached.append(usage["input_tokens_details"]["cached_tokens"])
    assert cached[:2] == [0, 0] and cached[2] == cached[3] > 0
    # The same picture in two questions, before and after it is known.
    own = {"type": "predicate", "instructions": [picture, text]}
    twice = {"model": MODEL, "input": "Look:", "questions": [own, own]}
    found = [
        answer["probability"]
        for key in ("bob-1", "bob-1", "alice-1")
        for answer in _ask(locked, key, twice, "/v1/decisions")["answers"]
    ]
    assert found == pytest.approx(found[:1] * 6, abs=1e-4)


def test_direct_clients_divide_by_tenant_and_salt(locked: Stack) -> None:
    prompt = "Where is it written that nobody may read what others have sent? " * 4

    def cached(**scope: Any) -> int:
        request = GenerationRequest(
            text_input=prompt, sampling_parameters={"max_tokens": 1, "temperature": 0}, **scope
        )
        with Client(locked.grpc_url) as client:
            return client.generate(request).num_cached_tokens

    assert cached(tenant="direct") == 0
    assert cached(tenant="direct") > 0
    assert cached(tenant="direct", cache_salt="salt") == 0
    assert cached(tenant="another") == 0
    assert cached() == 0
