"""The blocking client: runs the asyncio client on an event loop in a background thread."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from glm_client.aio import DEFAULT_TIMEOUT, DEFAULT_URL, TLS, AsyncClient
from glm_client.errors import RequestCancelledError
from glm_client.types import Generation, GenerationDelta, GenerationRequest, Tokenization

T = TypeVar("T")


class Client:
    """Blocking counterpart of :class:`glm_client.aio.AsyncClient`; same arguments and errors.

    Thread-safe. Close it with :meth:`close` or ``with``.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: TLS | None = None,
        keepalive: float = 0,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        # Nothing is scheduled once _closed is set, so no caller waits for work that never runs.
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="glm-client", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._wait(_create(url, timeout=timeout, tls=tls, keepalive=keepalive))
        except BaseException:
            self._stop()
            raise

    def stream(self, request: GenerationRequest, *, timeout: float | None = None) -> "DeltaStream":
        """Stream the answer; see :class:`DeltaStream` for how to cancel it."""
        return DeltaStream(self._client, self._submit, request, timeout)

    def generate(self, request: GenerationRequest, *, timeout: float | None = None) -> Generation:
        """Return the whole answer. An exception while waiting (Ctrl-C) cancels the request."""
        return self._wait(self._client.generate(request, timeout=timeout))

    def generate_choices(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> tuple[Generation, ...]:
        """Return all ``n`` whole answers; otherwise like :meth:`generate`."""
        return self._wait(self._client.generate_choices(request, timeout=timeout))

    def tokenize(
        self,
        request: GenerationRequest,
        *,
        token_texts: bool = False,
        timeout: float | None = None,
    ) -> Tokenization:
        """See :meth:`AsyncClient.tokenize`."""
        return self._wait(self._client.tokenize(request, token_texts=token_texts, timeout=timeout))

    def tokenizer_config(self, *, timeout: float | None = None) -> dict[str, Any]:
        """See :meth:`AsyncClient.tokenizer_config`."""
        return self._wait(self._client.tokenizer_config(timeout=timeout))

    def server_live(self) -> bool:
        """See :meth:`AsyncClient.server_live`."""
        return self._wait(self._client.server_live())

    def server_ready(self) -> bool:
        """See :meth:`AsyncClient.server_ready`."""
        return self._wait(self._client.server_ready())

    def models_ready(self) -> dict[str, bool]:
        """See :meth:`AsyncClient.models_ready`."""
        return self._wait(self._client.models_ready())

    def close(self) -> None:
        """Cancel running requests and stop the thread. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for work in (self._client.aclose(), _cancel_all()):
            asyncio.run_coroutine_threadsafe(work, self._loop).result()
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        except CancelledError:
            raise RequestCancelledError("the client was closed") from None
        finally:
            future.cancel()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                work.close()
                raise RequestCancelledError("the client is closed")
            return asyncio.run_coroutine_threadsafe(work, self._loop)


class DeltaStream(Iterator[GenerationDelta]):
    """Iterates over one answer. ``cancel`` (thread-safe) or leaving ``with`` cancels it.

    After that the iteration raises RequestCancelledError.
    """

    def __init__(
        self,
        client: AsyncClient,
        submit: Callable[[Coroutine[Any, Any, None]], Future[None]],
        request: GenerationRequest,
        timeout: float | None,
    ) -> None:
        self._items: SimpleQueue[GenerationDelta | BaseException | None] = SimpleQueue()
        self._ended = False
        self._pump = submit(self._run(client, request, timeout))
        self._pump.add_done_callback(self._put_end)

    def __next__(self) -> GenerationDelta:
        if self._ended:
            raise StopIteration
        try:
            item = self._items.get()
        except BaseException:  # Ctrl-C while waiting
            self.cancel()
            raise
        if isinstance(item, GenerationDelta):
            return item
        self._ended = True
        if item is None:
            raise StopIteration
        raise item

    def cancel(self) -> None:
        """Cancel the request on the server, unless it has ended."""
        self._pump.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    async def _run(
        self, client: AsyncClient, request: GenerationRequest, timeout: float | None
    ) -> None:
        async with aclosing(client.stream(request, timeout=timeout)) as deltas:
            async for delta in deltas:
                self._items.put(delta)

    def _put_end(self, pump: Future[None]) -> None:
        if pump.cancelled():
            self._items.put(RequestCancelledError("the request was cancelled"))
        else:
            self._items.put(pump.exception())


async def _create(url: str, **options: Any) -> AsyncClient:
    return AsyncClient(url, **options)  # a channel belongs to the loop in which it is created


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
