"""Hands requests of the page on to the frontend, and answers back as they come.

A browser that goes away takes its request with it: the connection to the frontend is closed at
once, and the frontend cancels the generation.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx2
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, overloaded
from glm_frontend.http.disconnect import until_disconnect
from glm_web.settings import PageSettings

CONNECT_SECONDS = 5.0
# The frontend ends an answer at its own limit; this much later the connection counts as dead.
GRACE_SECONDS = 30.0

_PASSED_ON = ("accept", "authorization", "content-type", "user-agent")
_OF_ONE_HOP = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


class Proxy:
    """A client of the frontend's API. Close it in the end."""

    def __init__(self, settings: PageSettings) -> None:
        self._settings = settings
        self._client = httpx2.AsyncClient(
            base_url=settings.web_api_url,
            timeout=httpx2.Timeout(
                settings.request_timeout + GRACE_SECONDS,
                connect=CONNECT_SECONDS,
                pool=CONNECT_SECONDS,
            ),
            # More than the frontend takes, so that it is the one that refuses. None is kept: one
            # that the frontend has just closed would lose the next request.
            limits=httpx2.Limits(
                max_connections=2 * settings.max_inflight, max_keepalive_connections=0
            ),
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def forward(self, request: Request) -> Response:
        """The frontend's answer.

        Raises:
            APIError: 408 for a body that does not arrive, 429 when there is no connection left,
                503 when the frontend cannot be reached.
            ClientDisconnect: the browser is gone.
        """
        seconds = self._settings.body_timeout
        try:
            async with asyncio.timeout(seconds):
                body = await request.body()
        except TimeoutError:
            raise APIError(
                ErrorCode.BODY_TIMEOUT,
                f"The body did not arrive within {seconds:g} s.",
                headers={"connection": "close"},
            ) from None
        try:
            return await until_disconnect(request, self._ask(request, body))
        except httpx2.PoolTimeout:
            raise overloaded(
                "The web page has no connection left; try again later.", "connections"
            ) from None
        except httpx2.TransportError:
            raise unreachable() from None

    async def _ask(self, request: Request, body: bytes) -> Response:
        request_id: str = request.state.request_id
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers["accept-encoding"] = "identity"
        headers["x-request-id"] = request_id
        if request.client:  # rate limits go by address where no key is asked for
            headers["x-forwarded-for"] = request.client.host
        path = request.scope["path"].lstrip("/")  # not of its URL, part of which is the Host header
        answer = await self._client.send(
            self._client.build_request(request.method, path, headers=headers, content=body or None),
            stream=True,
        )
        own = {name: value for name, value in answer.headers.items() if name not in _OF_ONE_HOP}
        if own.get("content-type", "").startswith("text/event-stream"):
            return _EventRelay(answer, own, request_id)
        async with aclosing(answer):
            return Response(await answer.aread(), answer.status_code, own)


class _EventRelay(StreamingResponse):
    """Passes a stream of events on. If the frontend breaks off, one more event reports it."""

    def __init__(self, answer: httpx2.Response, headers: dict[str, str], request_id: str) -> None:
        self._answer = answer
        self._request_id = request_id
        super().__init__(self._events(), answer.status_code, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._answer):
            await super().__call__(scope, receive, send)

    async def _events(self) -> AsyncGenerator[bytes]:
        try:
            async for piece in self._answer.aiter_raw():
                yield piece
        except httpx2.TransportError:
            error = json.dumps(unreachable().openai_body(self._request_id))
            yield f"\n\ndata: {error}\n\ndata: [DONE]\n\n".encode()


def unreachable() -> APIError:
    """A 503: there is no frontend, or it went away in the middle."""
    return APIError(ErrorCode.API_UNREACHABLE, "The API server cannot be reached.")
