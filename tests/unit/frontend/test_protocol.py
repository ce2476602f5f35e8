"""Connections whose headers do not come, or do not end: a real server, real sockets."""

import http.client
import itertools
import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from glm_frontend.app import create_app
from glm_frontend.http.protocol import MAX_HEADER_BYTES
from glm_frontend.settings import Settings
from unit.frontend.fakes import FakeBackend
from unit.serving import served
from waiting import TIMEOUT, wait_until

pytestmark = [pytest.mark.timing, pytest.mark.slow]

LIMIT = 0.5
KEEP_ALIVE = 1
CONNECTIONS = 5
REQUEST = b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\n"
LAST = REQUEST + b"connection: close\r\n\r\n"


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that soon loses its patience."""
    app = create_app(Settings(), FakeBackend())
    with served(app, header_timeout=LIMIT, write_timeout=LIMIT, keep_alive=KEEP_ALIVE) as port:
        yield port


@pytest.fixture
def patient_port() -> Iterator[int]:
    """Of a server that closes no connection because of the time."""
    app = create_app(Settings(), FakeBackend())

    def count(code: str) -> None:
        app.state.services.metrics.count_refused_connection(code)

    with served(app, max_connections=CONNECTIONS, on_refused=count) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def rest_of(connection: socket.socket) -> bytes:
    """What comes back until the server closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def status_of_next(connection: socket.socket) -> int:
    """Reads the next answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def exchange(port: int, pieces: Iterable[bytes], pause: float = 0.0) -> tuple[bytes, float]:
    """What comes back until the server closes the connection, and after how many seconds."""
    began = time.monotonic()
    with connect(port) as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
                assert time.monotonic() - began < TIMEOUT, "it is waited for"
        received = rest_of(connection)
    return received, time.monotonic() - began


def error_of(received: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    return error


@pytest.mark.parametrize("pieces", [[], [REQUEST], [REQUEST, b"x-slow: ", b"1"]])
def test_headers_that_do_not_come_are_not_waited_for(port: int, pieces: list[bytes]) -> None:
    received, seconds = exchange(port, pieces)
    assert received == b""
    assert LIMIT * 0.9 < seconds < TIMEOUT


def test_a_drip_of_headers_does_not_help(port: int) -> None:
    drip = itertools.chain([REQUEST], itertools.repeat(b"x-drip: 1\r\n"))
    received, _ = exchange(port, drip, pause=0.1)
    assert received == b""


def test_headers_without_end_are_refused(patient_port: int) -> None:
    header = b"x-large: " + b"x" * 1000 + b"\r\n"
    headers = [header] * (2 * MAX_HEADER_BYTES // len(header))
    received, _ = exchange(patient_port, [REQUEST, *headers])
    if received:  # else it was reset: the rest of the headers met a closed door
        assert received.startswith(b"HTTP/1.1 431 ")
        assert error_of(received)["code"] == "headers_too_large"


def test_what_is_no_http_is_refused_in_the_shape_of_all_errors(patient_port: int) -> None:
    received, _ = exchange(patient_port, [b"not http at all\r\n\r\n"])
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    error = error_of(received)
    assert (error["code"], error["type"]) == ("bad_request", "invalid_request_error")
    assert error["request_id"].encode() in received.partition(b"\r\n\r\n")[0]
    ask = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    metrics, _ = exchange(patient_port, [ask])
    assert b'glm_frontend_errors_total{code="bad_request"} 1.0' in metrics


def test_connections_are_bounded(patient_port: int) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(connect(patient_port))
        received, _ = exchange(patient_port, [])
        assert received.startswith(b"HTTP/1.1 503 ")
        assert error_of(received)["code"] == "too_many_connections"
        assert b"\r\nretry-after: 1\r\n" in received
    wait_until(lambda: exchange(patient_port, [LAST])[0].startswith(b"HTTP/1.1 200 "))


def test_a_request_is_answered_and_so_is_the_next(patient_port: int) -> None:
    with connect(patient_port) as connection:
        connection.sendall(REQUEST + b"\r\n")
        assert status_of_next(connection) == 200
        connection.sendall(LAST)
        received = rest_of(connection)
    assert received.count(b"HTTP/1.1 200 OK") == 1


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_connection_whose_body_was_refused_unread_is_not_kept(port: int, is_whole: bool) -> None:
    size = 300_000
    head = f"POST /v1/nothing HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
    with connect(port) as connection:
        connection.sendall(head)
        assert status_of_next(connection) == 404
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(b"x" * (size if is_whole else size - 1))
        assert rest_of(connection) == b""


def test_a_body_that_was_refused_unread_does_not_stand_in_the_next_requests_way(
    patient_port: int,
) -> None:
    size = 10 * MAX_HEADER_BYTES
    head = f"POST /v1/nothing HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
    with connect(patient_port) as connection:
        connection.sendall(head)
        assert status_of_next(connection) == 404
        for _ in range(5):
            connection.sendall(b"x" * (size // 5))
        connection.sendall(LAST)
        received = rest_of(connection)
    assert received.count(b"HTTP/1.1 200 OK") == 1


def test_a_body_that_nobody_reads_is_not_waited_for(port: int) -> None:
    request = b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n"
    exchange(port, itertools.chain([request], itertools.repeat(b"x", 8000)), pause=0.1)


def test_trailers_are_headers_too(patient_port: int) -> None:
    head = (
        b"POST /v1/nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    )
    trailer = b"x-large: " + b"x" * 1000 + b"\r\n"
    with connect(patient_port) as connection:
        connection.sendall(head)
        assert status_of_next(connection) == 404
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(trailer * (2 * MAX_HEADER_BYTES // len(trailer)))
        received = rest_of(connection)  # which ends, though more trailers could come
    if received:  # else it was reset: the rest of the trailers met a closed door
        assert received.startswith(b"HTTP/1.1 431 ")


def test_a_client_that_does_not_read_is_cut_off(port: int) -> None:
    with connect(port) as connection:
        # More answers than all buffers on the way can hold.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"

        def is_cut() -> bool:
            try:
                connection.sendall(request)
            except (ConnectionResetError, BrokenPipeError):
                return True
            return False

        wait_until(is_cut)
