"""``POST /v1/multi-modal/inference``, as JSON and as form."""

import base64
import tempfile
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from glm_client import InvalidRequestError
from unit.frontend.fakes import MODEL, MULTIMODAL, PIXEL, FakeBackend, events

BASE64 = PIXEL.partition(",")[2]
PIXEL_BYTES = base64.b64decode(BASE64)
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 4,
    "total_tokens": 34,
    "prompt_tokens_details": {"image_tokens": 25, "cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def test_json(client: TestClient, backend: FakeBackend) -> None:
    body = {
        "prompt": "What is this?",
        "images": [PIXEL, BASE64],
        "model": MODEL,
        "max_tokens": 5,
        "temperature": 0.7,
        "stop": "END",
        "enable_thinking": True,
    }
    response = client.post(MULTIMODAL, json=body)
    answer = response.json()
    assert response.status_code == 200
    assert answer.pop("id").startswith("mminf-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "multimodal.inference",
        "model": MODEL,
        "text": "A red circle.",
        "reasoning": "a thought",
        "finish_reason": "stop",
        "usage": USAGE,
    }
    (request,) = backend.requests
    assert (request.text_input, request.messages) == ("What is this?", None)
    assert request.images == [PIXEL_BYTES, PIXEL_BYTES]
    assert request.sampling_parameters == {"max_tokens": 5, "temperature": 0.7, "stop": ["END"]}
    assert request.chat_template_kwargs == {"enable_thinking": True}


def test_text_only_without_a_thought(client: TestClient, backend: FakeBackend) -> None:
    backend.script = backend.script[3:]
    answer = client.post(MULTIMODAL, json={"prompt": "Who are you?"}).json()
    assert (answer["text"], answer["reasoning"]) == (" circle.", None)
    assert backend.requests[0].images == []


def test_the_form(client: TestClient, backend: FakeBackend) -> None:
    fields = {
        "prompt": "这是什么?",
        "max_tokens": "5",
        "temperature": "0.7",
        "ignore_eos": "true",
        "stop": ["a", "b"],
        "stop_token_ids": ["7", "8"],
        "logit_bias": '{"7": -1}',
        "chat_template_kwargs": '{"enable_thinking": false}',
        "seed": "",
    }
    files = [("image", ("a.png", b"one")), ("images", ("b.png", b"two"))]
    response = client.post(MULTIMODAL, data=fields, files=files)
    assert response.status_code == 200, response.text
    (request,) = backend.requests
    assert request.text_input == "这是什么?"
    assert request.images == [b"one", b"two"]
    assert request.sampling_parameters == {
        "max_tokens": 5,
        "temperature": 0.7,
        "ignore_eos": True,
        "stop": ["a", "b"],
        "stop_token_ids": [7, 8],
        "logit_bias": {"7": -1},
    }
    assert request.chat_template_kwargs == {"enable_thinking": False}


def test_files_in_a_form_need_no_temporary_folder(
    client: TestClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    picture = b"x" * 5_000_000
    response = client.post(MULTIMODAL, data={"prompt": "hi"}, files={"image": ("a.png", picture)})
    assert response.status_code == 200, response.text
    assert backend.requests[0].images == [picture]


def test_pictures_as_text_in_the_form_keep_their_place(
    client: TestClient, backend: FakeBackend
) -> None:
    files: Any = [
        ("prompt", (None, "hi")),
        ("image", ("a.png", b"one")),
        ("image", (None, PIXEL)),
        ("image", (None, BASE64)),
        ("image", ("b.png", b"two")),
    ]
    assert client.post(MULTIMODAL, files=files).status_code == 200
    assert backend.requests[0].images == [b"one", PIXEL_BYTES, PIXEL_BYTES, b"two"]


def test_file_fields_that_a_browser_left_empty(client: TestClient, backend: FakeBackend) -> None:
    boundary = "b"
    form = (
        '--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nhi\r\n'
        '--b\r\ncontent-disposition: form-data; name="image"; filename=""\r\n'
        "content-type: application/octet-stream\r\n\r\n\r\n--b--\r\n"
    )
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    assert client.post(MULTIMODAL, content=form.encode(), headers=headers).status_code == 200
    assert backend.requests[0].images == []


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ([("image", ("a.png", b"x"))], "prompt"),
        ([("prompt", (None, "hi")), ("prompt", (None, "ho"))], "prompt"),
        ([("prompt", (None, "hi")), ("max_tokens", (None, "many"))], "max_tokens"),
        ([("prompt", (None, "hi")), ("temperature", (None, "nan"))], "temperature"),
        ([("prompt", (None, "hi")), ("stream", (None, "perhaps"))], "stream"),
        ([("prompt", (None, "hi")), ("logit_bias", (None, "{"))], "logit_bias"),
        ([("prompt", (None, "hi")), ("logit_bias", (None, '{"\\ud800": 1}'))], "logit_bias"),
        ([("prompt", (None, "hi")), ("picture", ("a.png", b"x"))], "picture"),
        ([("prompt", (None, "hi")), ("image", ("a.png", b""))], "image[0]"),
        ([("prompt", (None, "hi")), ("image", (None, "*"))], "image[0]"),
    ],
)
def test_bad_forms_are_named(client: TestClient, files: Any, param: str) -> None:
    response = client.post(MULTIMODAL, files=files)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=b", 400),
        ("text/plain", 415),
        ("", 415),
    ],
)
def test_bodies_that_are_neither(client: TestClient, content_type: str, status: int) -> None:
    headers = {"content-type": content_type}
    response = client.post(MULTIMODAL, content=b"nonsense", headers=headers)
    assert response.status_code == status
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "hi", "images": PIXEL}, "images"),
        ({"prompt": "hi", "images": [PIXEL, "*"]}, "images[1]"),
        ({"prompt": "hi", "images": [7]}, "images[0]"),
        ({"prompt": "hi", "max_tokens": 0}, "max_tokens"),
    ],
)
def test_bad_json_is_named(client: TestClient, body: Any, param: str) -> None:
    response = client.post(MULTIMODAL, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_an_unknown_model(client: TestClient) -> None:
    response = client.post(MULTIMODAL, json={"prompt": "hi", "model": "other"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(("wire", "param"), [("image[1]", "images[1]"), ("text_input", "prompt")])
def test_wire_names_become_those_of_the_request(
    client: TestClient, backend: FakeBackend, wire: str, param: str
) -> None:
    backend.script = [InvalidRequestError("is wrong", wire)]
    response = client.post(MULTIMODAL, json={"prompt": "hi", "images": [PIXEL, PIXEL]})
    assert response.json()["error"]["param"] == param


def test_the_stream(client: TestClient) -> None:
    response = client.post(MULTIMODAL, json={"prompt": "hi", "stream": True})
    chunks = events(response.text)
    assert {chunk["object"] for chunk in chunks} == {"multimodal.inference.chunk"}
    assert [
        (chunk["text"], chunk["reasoning"], chunk["finish_reason"], chunk["usage"])
        for chunk in chunks
    ] == [
        ("", "a ", None, None),
        ("", "thought", None, None),
        ("A red", None, None, None),
        (" circle.", None, None, None),
        ("", None, "stop", USAGE),
    ]
