"""Connections whose headers do not come, or do not end: a real server, real sockets."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import uvicorn

from benchmarks.stack import wait_until
from glm_frontend.app import create_app
from glm_frontend.protocol import MAX_HEADER_BYTES, bounded_protocol
from glm_frontend.settings import Settings
from unit.frontend.fakes import FakeBackend

TIMEOUT = 0.5
KEEP_ALIVE = 1
CONNECTIONS = 5
REQUEST = b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    app = create_app(Settings(), FakeBackend())
    config = uvicorn.Config(
        app,
        port=0,
        http=bounded_protocol(
            max_connections=CONNECTIONS,
            header_timeout=TIMEOUT,
            on_refused=lambda code: app.state.services.metrics.count_refused_connection(code),
            write_timeout=TIMEOUT,
        ),
        timeout_keep_alive=KEEP_ALIVE,
        log_config=None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def exchange(port: int, *pieces: bytes, pause: float = 0.0) -> tuple[bytes, float]:
    """What comes back until the server closes the connection, and after how many seconds."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            while data := connection.recv(65536):
                received += data
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received, time.monotonic() - began


def error_of(received: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    return error


@pytest.mark.parametrize("pieces", [[], [REQUEST], [REQUEST, b"x-slow: ", b"1"]])
def test_headers_that_do_not_come_are_not_waited_for(port: int, pieces: list[bytes]) -> None:
    received, seconds = exchange(port, *pieces)
    assert received == b""
    assert TIMEOUT * 0.9 < seconds < TIMEOUT + 2


def test_a_drip_of_headers_does_not_help(port: int) -> None:
    received, seconds = exchange(port, REQUEST, *[b"x-drip: 1\r\n"] * 12, pause=0.1)
    assert received == b""
    assert seconds < 12 * 0.1 + 1


def test_headers_without_end_are_refused(port: int) -> None:
    header = b"x-large: " + b"x" * 1000 + b"\r\n"
    received, _ = exchange(port, REQUEST, *[header] * (2 * MAX_HEADER_BYTES // len(header)))
    if received:  # else it was reset: the rest of the headers met a closed door
        assert received.startswith(b"HTTP/1.1 431 ")
        assert error_of(received)["code"] == "headers_too_large"


def test_what_is_no_http_is_refused_in_the_shape_of_all_errors(port: int) -> None:
    received, _ = exchange(port, b"not http at all\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    error = error_of(received)
    assert (error["code"], error["type"]) == ("bad_request", "invalid_request_error")
    assert error["request_id"].encode() in received.partition(b"\r\n\r\n")[0]
    metrics, _ = exchange(port, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b'glm_frontend_errors_total{code="bad_request"} 1.0' in metrics


def test_connections_are_bounded(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        received, _ = exchange(port)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert error_of(received)["code"] == "too_many_connections"
        assert b"\r\nretry-after: 1\r\n" in received
    last = REQUEST + b"connection: close\r\n\r\n"
    wait_until(lambda: exchange(port, last)[0].startswith(b"HTTP/1.1 200 "), 10)


def test_a_request_is_answered_and_so_is_the_next(port: int) -> None:
    last = REQUEST + b"connection: close\r\n\r\n"
    received, _ = exchange(port, REQUEST + b"\r\n", last, pause=TIMEOUT / 2)
    assert received.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_connection_whose_body_was_refused_unread_is_not_kept(port: int, is_whole: bool) -> None:
    size = 300_000
    head = f"POST /v1/nothing HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
    body = b"x" * (size if is_whole else size - 1)
    received, seconds = exchange(port, head, body, pause=0.1)
    assert received.startswith(b"HTTP/1.1 404 ")
    assert seconds < KEEP_ALIVE + 2


def test_a_body_that_was_refused_unread_does_not_stand_in_the_next_requests_way(port: int) -> None:
    size = 10 * MAX_HEADER_BYTES
    head = f"POST /v1/nothing HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
    pieces = [b"x" * (size // 5)] * 5
    received, _ = exchange(port, head, *pieces, REQUEST + b"\r\n", pause=0.05)
    assert received.startswith(b"HTTP/1.1 404 ")
    assert received.count(b"HTTP/1.1 200 OK") == 1


def test_a_body_that_nobody_reads_is_not_waited_for(port: int) -> None:
    request = b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n"
    _, seconds = exchange(port, request, *[b"x"] * 40, pause=0.1)
    assert seconds < 3


def test_trailers_are_headers_too(port: int) -> None:
    head = (
        b"POST /v1/nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    )
    trailer = b"x-large: " + b"x" * 1000 + b"\r\n"
    count = 4 * MAX_HEADER_BYTES // len(trailer)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        sent = 0
        with suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(count):
                connection.sendall(trailer)
                sent += 1
                time.sleep(0.001)
    assert sent < count


def test_a_client_that_does_not_read_is_cut_off(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        # More answers than all buffers on the way can hold.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"

        def is_cut() -> bool:
            try:
                connection.sendall(request)
            except (ConnectionResetError, BrokenPipeError):
                return True
            return False

        wait_until(is_cut, 20)
