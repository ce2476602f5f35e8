"""Bad requests over the real stack: a 400 that names the field, and the next one is answered."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import requests
from PIL import Image

from e2e.calls import MODEL, chat, content, data_uri, post, program, settled
from tools.stack import Stack, free_ports

CANCELLED = 'glm_requests_total{finish_reason="cancelled"}'
URL_PATH = "messages[0].content[0].image_url.url"


def _with_image(url: str) -> dict[str, Any]:
    body = chat("What is in this image?", "plot-42.png")
    body["messages"][0]["content"][0]["image_url"]["url"] = url
    return body


def _as_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _png(size: tuple[int, int]) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def _role(name: str) -> dict[str, Any]:
    body = chat("hello")
    body["messages"][0]["role"] = name
    return body


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "broken base64": (lambda: _with_image(data_uri("plot-42.png")[:-5] + "%"), URL_PATH),
    "incomplete prefix": (lambda: _with_image("data:image/png,abc"), URL_PATH),
    "a text file": (lambda: _with_image(_as_uri(b"this is no image, just text")), URL_PATH),
    "a truncated image": (
        lambda: _with_image(_as_uri(base64.b64decode(data_uri("photo-star.jpg")[23:])[:900])),
        URL_PATH,
    ),
    "aspect ratio above 200": (lambda: _with_image(_as_uri(_png((1, 201)))), URL_PATH),
    "second image bad": (
        lambda: {
            "model": MODEL,
            "messages": [
                {"role": "user", "content": "hello"},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data_uri("plot-42.png")}},
                        {"type": "text", "text": "and"},
                        {"type": "image_url", "image_url": {"url": _as_uri(b"no image")}},
                    ],
                },
            ],
        },
        "messages[1].content[2].image_url.url",
    ),
    "unknown role": (lambda: _role("king"), "messages[0].role"),
    "max_tokens 0": (lambda: chat("hi", max_tokens=0), "max_tokens"),
    "temperature 3": (lambda: chat("hi", temperature=3), "temperature"),
    "prompt longer than the context": (lambda: chat("word " * 6000), "messages"),
    "max_tokens beyond the context": (lambda: chat("hi", max_tokens=100_000), "max_tokens"),
    "beam search": (lambda: chat("hi", use_beam_search=True), "use_beam_search"),
    "unsupported field": (lambda: chat("hi", audio={"voice": "alloy"}), "audio"),
    "too many answers": (lambda: chat("hi", n=17), "n"),
    "no messages": (lambda: {"model": MODEL}, "messages"),
    "unknown part": (
        lambda: {
            "model": MODEL,
            "messages": [{"role": "user", "content": [{"type": "audio"}]}],
        },
        "messages[0].content[0].type",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_names_its_field_and_nothing_else_is_lost(stack: Stack, case: str) -> None:
    make_body, param = BAD[case]
    response = post(stack, make_body())
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    assert content(post(stack, chat("Describe the image.", "photo-square.jpg"))) == "A red square."


def test_a_bad_request_is_refused_the_same_way_when_it_asks_for_a_stream(stack: Stack) -> None:
    body = _with_image(_as_uri(b"no image")) | {"stream": True}
    response = post(stack, body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == URL_PATH


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{not json", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b'{"model":"gpt","messages":[]}', 400, "invalid_value"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("GET", "/v1/chat/completions", None, 405, "method_not_allowed"),
    ],
)
def test_every_error_has_openais_shape(
    stack: Stack, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    response = requests.request(
        method, stack.base_url + path, data=body,
        headers={"Content-Type": "application/json"}, timeout=60,
    )  # fmt: skip
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["code"] == code
    assert response.headers["x-request-id"]


def test_an_unknown_model_is_404(stack: Stack) -> None:
    response = post(stack, chat("hello", model="gpt-4o"))
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_a_private_address_is_not_fetched(stack: Stack) -> None:
    response = post(stack, _with_image(f"{stack.metrics_url}/metrics"))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == URL_PATH


@pytest.mark.timing
def test_an_answer_that_takes_too_long_is_a_504_and_leaves_nothing(stack: Stack) -> None:
    (port,) = map(str, free_ports(1))
    url = f"http://127.0.0.1:{port}"
    settings = {"GLM_PORT": port, "GLM_TRITON_URL": stack.grpc_url, "GLM_REQUEST_TIMEOUT": "3"}
    # Sixteen long answers take the demo model ten seconds, and their first tokens a tenth of one.
    body = chat("hello", ignore_eos=True, max_tokens=4000, n=16)
    before = settled(stack)[CANCELLED]
    with program("glm_frontend", f"{url}/v1/health/live", **settings):
        whole = requests.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "timeout")
        stream = requests.post(
            f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=60
        )
        # Its status had been told before.
        assert (stream.status_code, stream.headers["content-type"].partition(";")[0]) == (
            200,
            "text/event-stream",
        )
        *_, last, end = [line for line in stream.text.splitlines() if line]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert end == "data: [DONE]"
    after = settled(stack)
    assert after[CANCELLED] == before + 2
    assert after["glm_kv_cache_blocks_used"] == 0
