"""What HTTP clients of all kinds do: upgrades, old versions, compression, HEAD, paths of others."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator

import httpx2
import pytest
from starlette.testclient import TestClient

from glm_frontend.app import create_app
from glm_frontend.media.fetch import ImageFetcher
from glm_frontend.settings import Settings
from unit.frontend.fakes import CHAT, FakeBackend, chat
from unit.serving import served

BODY = json.dumps(chat()).encode()
JSON = {"content-type": "application/json"}


@pytest.fixture
def port(backend: FakeBackend) -> Iterator[int]:
    settings = Settings(max_body_bytes=10_000)
    fetcher = ImageFetcher(settings, httpx2.MockTransport(lambda request: httpx2.Response(500)))
    with served(create_app(settings, backend, fetcher)) as port:
        yield port


def exchange(port: int, *pieces: bytes, answers: int = 1) -> str:
    """What comes back until so many answers are there, or the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while received.count(END) < answers and (piece := connection.recv(65536)):
            received += piece
    return received.decode()


# The end of each answer of these tests, whole or streamed, and of a list of models.
END = b"}}"
UPGRADE = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\n"
    b"upgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\ncontent-type: application/json\r\n"
)
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
CHUNKS = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (9, BODY[:9], len(BODY) - 9, BODY[9:])
PLAIN = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + LENGTH
)


@pytest.mark.parametrize(
    "pieces",
    [
        (UPGRADE + LENGTH + BODY,),
        (UPGRADE + LENGTH, BODY),
        (UPGRADE + LENGTH, BODY[:50], BODY[50:]),
        (UPGRADE + CHUNKED + CHUNKS,),
        (UPGRADE + CHUNKED, CHUNKS[:20], CHUNKS[20:]),
    ],
)
def test_an_upgrade_to_h2c_keeps_the_body(port: int, pieces: tuple[bytes, ...]) -> None:
    answer = exchange(port, *pieces)
    assert answer.startswith("HTTP/1.1 200 ") and "A red circle." in answer


def test_the_connection_goes_on_after_an_upgrade(port: int) -> None:
    upgraded = UPGRADE + LENGTH + BODY
    answer = exchange(port, upgraded + PLAIN + BODY + upgraded, answers=3)
    assert answer.count("HTTP/1.1 200 ") == 3 and answer.count("A red circle.") == 3


def test_an_upgrade_without_a_body(port: int) -> None:
    for protocol in (b"h2c", b"websocket"):
        head = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: "
        assert exchange(port, head + protocol + b"\r\n\r\n").startswith("HTTP/1.1 200 ")


def test_a_stream_to_http_1_0_has_no_chunks(port: int) -> None:
    body = json.dumps(chat(stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\n"
    # It ends with the connection.
    answer = exchange(port, head + b"content-length: %d\r\n\r\n" % len(body) + body, answers=99)
    headers, _, text = answer.partition("\r\n\r\n")
    assert "transfer-encoding" not in headers.lower()
    assert f"content-length: {len(text)}" in headers.lower()
    assert text.startswith("data: {") and text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/health", "/health", "/docs", "/openapi.json", "/v1/models/"]
)
def test_head_is_get_without_a_body(port: int, path: str) -> None:
    url = f"http://127.0.0.1:{port}{path}"
    get, head = httpx2.get(url, trust_env=False), httpx2.head(url, trust_env=False)
    assert get.status_code == head.status_code == 200
    assert head.content == b"" and head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/v1/models/"])
def test_paths_of_other_servers(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("GZIP", gzip.compress),
    ],
)
def test_compressed_bodies(client: TestClient, encoding: str, compress: type[bytes]) -> None:
    headers = {**JSON, "content-encoding": encoding}
    assert client.post(CHAT, content=compress(BODY), headers=headers).status_code == 200


def test_gzip_may_have_several_members(client: TestClient) -> None:
    packed = gzip.compress(BODY[:30]) + gzip.compress(b"") + gzip.compress(BODY[30:])
    headers = {**JSON, "content-encoding": "gzip"}
    assert client.post(CHAT, content=packed, headers=headers).status_code == 200


def test_a_compressed_body_comes_in_pieces(port: int) -> None:
    packed = gzip.compress(BODY)
    pieces = iter([packed[:7], packed[7:20], packed[20:]])
    headers = {**JSON, "content-encoding": "gzip"}
    url = f"http://127.0.0.1:{port}{CHAT}"
    answer = httpx2.post(url, content=pieces, headers=headers, trust_env=False)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("content", "encoding", "status"),
    [
        (gzip.compress(b"[" + b" " * 50_000_000), "gzip", 413),
        (b"no gzip", "gzip", 400),
        (gzip.compress(BODY)[:-20], "gzip", 400),
        (gzip.compress(BODY) + b"x" * 100, "gzip", 400),
        (gzip.compress(BODY) + b"\x1f\x8b" + b"x" * 20_000, "gzip", 413),
        (gzip.compress(b"") * 100 + gzip.compress(BODY), "gzip", 400),
        (BODY, "br", 415),
        (BODY, "gzip, gzip", 415),
    ],
    ids=["bomb", "broken", "cut", "rest", "long rest", "members", "unknown", "several"],
)
def test_bad_compression(port: int, content: bytes, encoding: str, status: int) -> None:
    headers = {**JSON, "content-encoding": encoding}
    url = f"http://127.0.0.1:{port}{CHAT}"
    answer = httpx2.post(url, content=content, headers=headers, trust_env=False)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_a_byte_order_mark_is_no_part_of_the_body(client: TestClient) -> None:
    assert client.post(CHAT, content=b"\xef\xbb\xbf" + BODY, headers=JSON).status_code == 200
