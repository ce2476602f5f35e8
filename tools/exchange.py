"""HTTP requests as cheap as asyncio can make them: the load shares the cores with the server."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

# The server closes connections that are idle for 5 s; one that is about to be closed is not used.
FRESH_SECONDS = 2.0

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Exchange:
    """A response, as far as it has come.

    Attributes:
        status: 0 until the head of the response is there.
        headers: names in lower case.
        body: without the framing of chunks.
        began, first, ended: seconds of ``time.perf_counter()`` of the first byte sent, the first
            one of the response's body, and its last; 0 until then.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    began: float = 0.0
    first: float = 0.0
    ended: float = 0.0


class Connections:
    """Connections to one server (HTTP/1.1); each is used again after a whole response."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[tuple[float, _Connection]] = []

    async def post(
        self, path: str, body: bytes, exchange: Exchange, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a body as JSON and fill ``exchange`` with what comes. Cancelling it hangs up.

        Raises:
            OSError, asyncio.IncompleteReadError: there is no response, or only a part of one.
        """
        lines = [
            f"POST {path} HTTP/1.1",
            f"host: {self._host}:{self._port}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        exchange.began = time.perf_counter()
        reader, writer = await self._connect()
        try:
            # Not drained: a server may answer before it has read all.
            writer.write("\r\n".join([*lines, "\r\n"]).encode() + body)
            await _read(reader, exchange)
        except BaseException:
            writer.close()
            raise
        exchange.ended = time.perf_counter()
        self._idle.append((exchange.ended, (reader, writer)))

    async def _connect(self) -> _Connection:
        while self._idle:
            since, (reader, writer) = self._idle.pop()
            if time.perf_counter() - since < FRESH_SECONDS and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    async def close(self) -> None:
        """Hang up on all idle connections."""
        while self._idle:
            _, (_, writer) = self._idle.pop()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, exchange: Exchange) -> None:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    exchange.headers = {name.lower(): value.strip() for name, _, value in pairs}
    exchange.status = int(status_line.split()[1])
    if exchange.headers.get("transfer-encoding") != "chunked":
        exchange.body += await reader.readexactly(int(exchange.headers["content-length"]))
        exchange.first = time.perf_counter()
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        exchange.body += (await reader.readexactly(size + 2))[:-2]
        exchange.first = exchange.first or time.perf_counter()
    await reader.readexactly(2)
