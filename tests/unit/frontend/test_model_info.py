"""What the model server says of its model: asked once, and by whoever asks for health."""

import pytest
from starlette.testclient import TestClient

from glm_client import UnavailableError
from glm_frontend.core.model_info import TINY_REQUEST
from unit.frontend.fakes import ANSWER, RESPONSES, FakeBackend, delta

LIMITS = {"max_model_len": 4096, "vocab_size": 785, "temperature": 0.8, "top_p": 0.6, "top_k": 2}
TOLD = (delta("hi", limits=LIMITS, finish_reason="stop"),)


def test_the_card_has_the_length_of_the_context(client: TestClient, backend: FakeBackend) -> None:
    backend.script = TOLD
    (card,) = client.get("/v1/models").json()["data"]
    assert (card["max_model_len"], card["root"]) == (4096, card["id"])
    assert backend.requests == [TINY_REQUEST]
    assert client.get(f"/v1/models/{card['id']}").json() == card
    assert len(backend.requests) == 1


def test_without_an_answer_it_does_without(
    client: TestClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.script = [UnavailableError("gone")]
    (card,) = client.get("/v1/models").json()["data"]
    assert "max_model_len" not in card
    backend.script = TOLD
    client.get("/v1/models")
    assert len(backend.requests) == 1  # not asked again at once
    monkeypatch.setattr("glm_frontend.core.model_info.ASK_AGAIN_SECONDS", 0)
    assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 4096


def test_defaults_are_the_checkpoints_once_they_are_known(
    client: TestClient, backend: FakeBackend
) -> None:
    body = {"model": "glm-4.6v-flash", "input": "hi"}
    backend.script = TOLD
    assert client.get("/v1/health").status_code == 200
    backend.script = ANSWER
    answer = client.post(RESPONSES, json=body).json()
    assert (answer["temperature"], answer["top_p"]) == (0.8, 0.6)
    answer = client.post(RESPONSES, json=body | {"temperature": 0}).json()
    assert (answer["temperature"], answer["top_p"]) == (0, 0.6)
