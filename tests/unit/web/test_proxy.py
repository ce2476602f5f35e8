"""What the page asks of the API goes through the page's server as if it were not there."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from pydantic import SecretStr

from glm_frontend.settings import Settings as FrontendSettings
from unit.frontend.fakes import ANSWER, CHAT, MESSAGES, MODEL, FakeBackend, chat, events, picture
from unit.web.conftest import Connect
from waiting import wait_until

pytestmark = [pytest.mark.timing, pytest.mark.slow]


def test_answers_are_the_frontends(connect: Connect, backend: FakeBackend) -> None:
    client = connect()
    assert client.get("/v1/health").json()["status"] == "ok"
    assert client.get("/v1/models").json()["data"][0]["id"] == MODEL
    answer = client.post(CHAT, json=chat([picture()]))
    assert answer.json()["choices"][0]["message"]["content"] == "A red circle."
    assert answer.headers["x-request-id"].startswith("req-")
    assert len(backend.requests[-1].images) == 1
    error = client.post(CHAT, json=chat(max_tokens=0))
    assert (error.status_code, error.json()["error"]["param"]) == (400, "max_tokens")


def test_a_stream_comes_piece_by_piece(connect: Connect, backend: FakeBackend) -> None:
    backend.script = [*ANSWER[:3], None]
    with connect().stream("POST", CHAT, json=chat(stream=True)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = ""
        # Not `for` with `break`: who drops this iterator closes the connection, which cancels.
        pieces = answer.iter_text()
        while "A red" not in text:  # the rest never comes
            text += next(pieces)
        assert backend.cancelled == 0
    wait_until(lambda: backend.cancelled == 1)


def test_a_whole_stream(connect: Connect) -> None:
    chunks = events(connect().post(CHAT, json=chat(stream=True)).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "A red circle."


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [[None], [*ANSWER[:3], None]])
def test_a_browser_that_goes_away_cancels(
    connect: Connect, backend: FakeBackend, stream: bool, script: list[None]
) -> None:
    backend.script = script
    url = connect().base_url
    body = json.dumps(chat(stream=stream)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection((url.host, url.port or 0)) as browser:
        browser.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: backend.waiting)
        assert backend.cancelled == 0
    wait_until(lambda: backend.cancelled == 1)


def test_each_browser_has_its_own_key(connect: Connect) -> None:
    client = connect(FrontendSettings(api_keys=(SecretStr("sk-alice"),)))
    assert client.post(CHAT, json=chat()).json()["error"]["code"] == "invalid_api_key"
    headers = {"authorization": "Bearer sk-alice"}
    assert client.post(CHAT, json=chat(), headers=headers).status_code == 200
    assert client.get("/v1/models").status_code == 401


def test_rate_limits_are_of_each_browser_s_address(connect: Connect) -> None:
    client = connect(FrontendSettings(rate_limit="1/minute"))
    assert client.post(CHAT, json=chat()).status_code == 200
    refused = client.post(CHAT, json=chat())
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) > 0
    elsewhere = httpx2.HTTPTransport(local_address="127.0.0.2")
    with httpx2.Client(base_url=client.base_url, transport=elsewhere, trust_env=False) as other:
        assert other.post(CHAT, json=chat()).status_code == 200


def test_no_frontend_is_an_error_in_the_usual_shape(connect: Connect) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # held, so that nobody listens there meanwhile
        port = taken.getsockname()[1]
        client = connect(web_api_url=f"http://127.0.0.1:{port}")
        for answer in (client.get("/v1/health"), client.post(CHAT, json=chat())):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "api_unreachable"
            assert answer.headers["retry-after"]
        assert client.get("/").status_code == 200


@contextmanager
def breaking_frontend(answer: bytes) -> Iterator[str]:
    """A server that breaks off after these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                # Closed with a part of the request unread, the connection would be reset, and the
                # answer lost.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_a_frontend_that_dies_in_the_middle_is_told_by_an_event(connect: Connect) -> None:
    begun = b'data: {"choices": []}\n\ndata: {"cho'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    with breaking_frontend(head + b"\r\n%x\r\n%b\r\n" % (len(begun), begun)) as url:
        text = connect(web_api_url=url).post(CHAT, json=chat(stream=True)).text
    *_, cut, error, done, rest = text.split("\n\n")
    assert (cut, done, rest) == ('data: {"cho', "data: [DONE]", "")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "api_unreachable"


@pytest.mark.parametrize("path", ["/v1/responses", MESSAGES, "/tokenize", "/v1/health/live"])
def test_nothing_else_is_forwarded(connect: Connect, backend: FakeBackend, path: str) -> None:
    answer = connect().post(path, json=chat())
    assert answer.status_code in (404, 405)
    assert "error" in answer.json()
    assert not backend.requests


def test_bodies_are_bounded_in_size_and_time(connect: Connect, backend: FakeBackend) -> None:
    client = connect(max_body_bytes=1000, body_timeout=0.2)
    refused = client.post(CHAT, json=chat("x" * 1000))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")

    url = client.base_url
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
    with socket.create_connection((url.host, url.port or 0), timeout=60) as browser:
        browser.sendall(f"{head}{{".encode())  # the rest of the body never comes
        slow = http.client.HTTPResponse(browser)
        slow.begin()
        assert (slow.status, json.load(slow)["error"]["code"]) == (408, "body_timeout")
    assert not backend.requests
