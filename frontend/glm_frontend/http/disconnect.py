"""Stop working for a client that has left."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client leaves.

    The body must be read before: what comes after it is only the client's leaving.

    Raises:
        ClientDisconnect: the client left first.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_client_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def started(request: Request, items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The same items, once the first is there; until then an error can still have its own status.

    Raises:
        ClientDisconnect: the client left before the first item; ``items`` is closed.
    """
    return _chain(await until_disconnect(request, _next(items)), items)


async def _next(items: AsyncGenerator[T]) -> T:
    return await anext(items)


async def _chain(first: T, rest: AsyncGenerator[T]) -> AsyncGenerator[T]:
    yield first
    async for item in rest:
        yield item


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
