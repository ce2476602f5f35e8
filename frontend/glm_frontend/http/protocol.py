"""The HTTP parser of uvicorn, with bounds on connections and on the headers of their requests.

uvicorn waits for ever for a client that connects and sends nothing, or half a header, or does not
read its answer, takes headers and trailers of any size, and any number of connections. What it
answers by itself is said here in our own shape.
"""

import asyncio
import json
import logging
import uuid
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError
from glm_frontend.observability.logs import LOGGER_NAME

MAX_HEADER_BYTES = 64 * 1024

logger = logging.getLogger(LOGGER_NAME)


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose next request has no complete headers in time, or whose client does
    not read what it asked for.

    Attributes:
        max_connections: open at a time; one more is refused.
        header_timeout: in seconds, from the connection's beginning and from each response on; on a
            connection that is silent uvicorn's shorter keep-alive limit holds.
        write_timeout: in seconds, for a client to read the tens of KB that are on their way to it.
    """

    max_connections = 1000
    header_timeout = 30.0
    write_timeout = 60.0
    on_refused: Callable[[str], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_bytes = 0
        self._has_headers = False  # from a parser before, which is no longer used
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, but not for ever."""
        super().connection_made(transport)
        self._await_headers()
        if len(self.connections) > self.max_connections:
            self._refuse(
                ErrorCode.TOO_MANY_CONNECTIONS,
                f"There are {self.max_connections} connections already.",
            )

    def data_received(self, data: bytes) -> None:
        """Parse bytes of a request."""
        self._header_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(
                ErrorCode.HEADERS_TOO_LARGE,
                f"The request's headers have more than the {MAX_HEADER_BYTES} bytes allowed.",
            )

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _should_upgrade(self) -> bool:
        return False

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on in HTTP/1.1, as a server may; Java's client asks for h2c with each first request.

        The parser takes what follows the headers for the other protocol. A new one begins with the
        length of the body, so that it takes the body for one.
        """
        framing = (b"content-length", b"transfer-encoding")
        lines = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in framing]
        self.parser = httptools.HttpRequestParser(self)
        self._has_headers = True
        self._parse(b"POST / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n")
        self._has_headers = False
        if rest:
            self._parse(rest)

    def on_url(self, url: bytes) -> None:
        """The path of a request."""
        if not self._has_headers:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of a request."""
        if not self._has_headers:
            super().on_header(name, value)

    def on_message_complete(self) -> None:
        """A request is complete; one that asks for an upgrade is not, as its body follows."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(ErrorCode.BAD_REQUEST, msg)

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._has_headers:
            return
        super().on_message_begin()
        self._header_bytes = 0
        self._await_headers()

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        if self._has_headers:
            return
        self._forget_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of its body is there. What follows may be trailers, which are headers, too."""
        self._header_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """A request is answered. The rest of a body that nobody reads is bounded in time, too."""
        super().on_response_complete()
        if self.cycle.response_complete:  # no further request waits already
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._forget_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """It has read nearly all."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _await_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_timeout, self.transport.close)

    def _refuse(self, code: ErrorCode, message: str) -> None:
        """Answer in the application's place, unless it is answering, and hang up."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.on_refused(code)
            request_id = f"req-{uuid.uuid4().hex}"
            logger.info(
                "refused status=%(status)d code=%(code)s request_id=%(request_id)s",
                {"status": code.status, "code": code, "request_id": request_id},
            )
            error = APIError(code, message)
            headers = "".join(f"{name}: {value}\r\n" for name, value in error.headers.items())
            body = json.dumps(error.openai_body(request_id)).encode()
            head = (
                f"HTTP/1.1 {code.status} {code.status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
                f"{headers}connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _forget_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def bounded_protocol(
    *,
    max_connections: int,
    header_timeout: float,
    write_timeout: float,
    on_refused: Callable[[str], None] = lambda code: None,
) -> type[BoundedProtocol]:
    """The protocol for uvicorn's ``http``; it makes an instance for each connection.

    Args:
        on_refused: receives the code of the error that was sent in the application's place.
    """
    attributes = {
        "max_connections": max_connections,
        "header_timeout": header_timeout,
        "write_timeout": write_timeout,
        "on_refused": staticmethod(on_refused),
    }
    return type("Protocol", (BoundedProtocol,), attributes)
