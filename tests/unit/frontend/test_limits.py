"""Permits: held until the last byte, and a 429 when there is none."""

import asyncio

import pytest

from glm_frontend.app import create_app
from glm_frontend.errors import APIError
from glm_frontend.limits import InflightLimiter
from glm_frontend.settings import Settings
from unit.frontend.fakes import ANSWER, CHAT, FakeBackend, Visitor, chat


def test_permits_come_back() -> None:
    limiter = InflightLimiter(2)
    with limiter.acquire(), limiter.acquire():
        with pytest.raises(APIError) as error:
            limiter.acquire()
        assert error.value.status == 429
    with limiter.acquire():
        assert limiter.inflight == 1
    assert limiter.inflight == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_one_too_many_gets_a_429(stream: bool) -> None:
    backend = FakeBackend([ANSWER[0], None])
    app = create_app(Settings(max_inflight=1), backend)
    async with app.router.lifespan_context(app):
        first = Visitor(app, CHAT, chat(stream=stream))
        running = asyncio.create_task(first.run())
        while not backend.requests or (stream and len(first.messages) < 2):
            await asyncio.sleep(0.001)

        second = Visitor(app, CHAT, chat())
        await second.run()
        assert second.status == 429
        assert (b"retry-after", b"1") in second.messages[0]["headers"]

        first.leave()
        await running
        backend.script = ANSWER
        third = Visitor(app, CHAT, chat())
        await third.run()
        assert third.status == 200


async def test_errors_give_the_permit_back() -> None:
    app = create_app(Settings(max_inflight=1), FakeBackend())
    async with app.router.lifespan_context(app):
        for _ in range(3):
            visitor = Visitor(app, CHAT, chat(max_tokens=0))
            await visitor.run()
            assert visitor.status == 400
