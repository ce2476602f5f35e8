"""A client that leaves: its request is cancelled at once, whatever it was doing."""

import asyncio
from typing import Any

import httpx2
import pytest

from glm_client import GenerationDelta
from glm_frontend.app import create_app
from glm_frontend.media.fetch import ImageFetcher
from glm_frontend.settings import Settings
from unit.frontend.fakes import (
    ANSWER,
    CHAT,
    MESSAGES,
    MULTIMODAL,
    FakeBackend,
    Visitor,
    chat,
    picture,
)
from waiting import TIMEOUT, until

pytestmark = pytest.mark.timing


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat()),
        (CHAT, chat(stream=True)),
        (MESSAGES, chat(max_tokens=9)),
        (MESSAGES, chat(max_tokens=9, stream=True)),
        (MULTIMODAL, {"prompt": "hi"}),
        (MULTIMODAL, {"prompt": "hi", "stream": True}),
    ],
)
@pytest.mark.parametrize("script", [[None], [ANSWER[0], None]])
async def test_leaving_cancels(
    path: str, body: dict[str, Any], script: list[GenerationDelta | None]
) -> None:
    backend = FakeBackend(script)
    app = create_app(Settings(), backend)
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, path, body)
        running = asyncio.create_task(visitor.run())
        await until(lambda: backend.waiting)
        assert backend.cancelled == 0
        visitor.leave()
        async with asyncio.timeout(TIMEOUT):
            await running
        assert backend.cancelled == 1


async def test_leaving_while_the_connection_is_full_cancels() -> None:
    """The stream waits in ``send``, not for the backend, when the client leaves."""
    backend = FakeBackend()
    app = create_app(Settings(), backend)
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, CHAT, chat(stream=True))
        stuck = asyncio.Event()

        async def send(message: Any) -> None:
            visitor.messages.append(message)
            if message["type"] == "http.response.body":
                stuck.set()
                await asyncio.Event().wait()

        visitor._send = send  # type: ignore[method-assign]
        running = asyncio.create_task(visitor.run())
        await stuck.wait()
        visitor.leave()
        async with asyncio.timeout(TIMEOUT):
            await running
        assert backend.cancelled == 1


async def test_leaving_while_a_picture_is_fetched_stops_the_fetch() -> None:
    fetching, stopped = asyncio.Event(), asyncio.Event()

    async def handle(request: httpx2.Request) -> httpx2.Response:
        fetching.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14"]

    settings, backend = Settings(), FakeBackend()
    fetcher = ImageFetcher(settings, httpx2.MockTransport(handle), resolve)
    app = create_app(settings, backend, fetcher)
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, CHAT, chat([picture("https://example.com/a.png")]))
        running = asyncio.create_task(visitor.run())
        await fetching.wait()
        visitor.leave()
        async with asyncio.timeout(TIMEOUT):
            await running
            await stopped.wait()
    assert not backend.requests


async def test_a_finished_stream_is_not_cancelled() -> None:
    backend = FakeBackend()
    app = create_app(Settings(), backend)
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, CHAT, chat(stream=True))
        await visitor.run()
        assert visitor.text.endswith("data: [DONE]\n\n")
        assert backend.cancelled == 0
