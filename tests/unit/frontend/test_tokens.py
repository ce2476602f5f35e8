"""Tokens of prompts, and their text."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from glm_client import InvalidRequestError, UnavailableError
from unit.frontend.fakes import PIXEL, FakeBackend

PARTS = [{"type": "image_url", "image_url": {"url": PIXEL}}, {"type": "text", "text": "hi"}]
MESSAGES = [{"role": "user", "content": PARTS}]
TOOL = {"type": "function", "function": {"name": "look"}}


def test_the_tokens_of_a_text(client: TestClient, backend: FakeBackend) -> None:
    answer = client.post("/tokenize", json={"prompt": "A red circle"})
    assert answer.json() == {"count": 3, "tokens": [5, 17, 300], "token_strs": None}
    assert backend.requests[0].prompt == "A red circle"


def test_the_tokens_of_a_conversation(client: TestClient, backend: FakeBackend) -> None:
    body = {
        "model": "glm-4.6v-flash",
        "messages": MESSAGES,
        "tools": [TOOL],
        "chat_template_kwargs": {"enable_thinking": False},
        "return_token_strs": True,
    }
    answer = client.post("/tokenize", json=body).json()
    assert answer["token_strs"] == ["A", " red", " circle"]
    (request,) = backend.requests
    assert request.messages == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}
    ]
    assert (len(request.images), request.tools) == (1, [TOOL])
    assert request.chat_template_kwargs == {"enable_thinking": False}


def test_the_text_of_tokens(client: TestClient, backend: FakeBackend) -> None:
    answer = client.post("/detokenize", json={"tokens": [5, 17, 300]})
    assert answer.json() == {"prompt": "A red circle"}
    assert backend.requests[0].prompt_token_ids == [5, 17, 300]


def test_what_the_checkpoint_says_of_its_tokenizer(client: TestClient) -> None:
    answer = client.get("/tokenizer_info")
    assert answer.json() == {"eos_token": "<|endoftext|>", "chat_template": "[gMASK]"}


def test_no_tokenizer_without_its_server(client: TestClient, backend: FakeBackend) -> None:
    backend.script = [UnavailableError("gone")]
    assert client.get("/tokenizer_info").status_code == 503


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/tokenize", {}, "messages: give either prompt or messages"),
        (
            "/tokenize",
            {"prompt": "a", "messages": MESSAGES},
            "messages: give either prompt or messages",
        ),
        ("/tokenize", {"prompt": 3}, "prompt: must be a valid string"),
        (
            "/tokenize",
            {"messages": MESSAGES, "add_generation_prompt": False},
            "add_generation_prompt: must be the opposite of continue_final_message",
        ),
        ("/detokenize", {"tokens": []}, "tokens: "),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]: "),
        ("/detokenize", {"tokens": [1, 2**31]}, "tokens[1]: "),
        ("/detokenize", {}, "tokens: is required"),
    ],
)
def test_bad_fields_are_named(
    client: TestClient, path: str, body: dict[str, Any], reason: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(reason)


def test_unknown_tokens_are_named(client: TestClient, backend: FakeBackend) -> None:
    backend.script = [InvalidRequestError("there is no token 999", "prompt_token_ids[0]")]
    error = client.post("/detokenize", json={"tokens": [999]}).json()["error"]
    assert error["param"] == "tokens[0]"


def test_unknown_models_are_refused(client: TestClient) -> None:
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        assert client.post(path, json=body | {"model": "other"}).status_code == 404
