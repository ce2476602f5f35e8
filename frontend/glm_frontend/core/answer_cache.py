"""Gives an answer once more without the model: to the same request of the same tenant.

Only where the answer is determined by the request: temperature 0, or a seed. Requests that are the
same and come at the same time are computed once.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields
from hashlib import blake2b
from typing import Any

from glm_client import GenerationRequest
from glm_frontend.core.answer_codec import from_bytes, to_bytes
from glm_frontend.core.answer_store import AnswerStore
from glm_frontend.core.caller import Caller
from glm_frontend.core.events import AnswerEvent
from glm_frontend.core.model_info import ModelInfo
from glm_frontend.core.record import AnswerRecord
from glm_frontend.core.request import AnswerRequest

Batch = Sequence[AnswerEvent]
Compute = Callable[[], AsyncGenerator[Batch]]

_KEY_BYTES = 32
# Of the request, what the answer does not depend on, and the files, which are hashed as they are.
_NOT_IN_KEY = frozenset({"request_id", "trace_context", "images", "videos"})
# How far the model server may be ahead of the fastest reader of a stream.
_MAX_AHEAD = 64


class AnswerCache:
    """Answers requests from a store, from a run that has begun for another one, or anew.

    Args:
        store: None keeps nothing.
        info: tells the revision of the model, and its default temperature.
    """

    def __init__(self, store: AnswerStore | None, info: ModelInfo) -> None:
        self._store = store
        self._info = info
        self._runs: dict[tuple[bytes, bool], _SharedRun] = {}

    async def answer(
        self,
        request: AnswerRequest,
        on_wire: GenerationRequest,
        caller: Caller,
        record: AnswerRecord,
        compute: Compute,
        *,
        stream: bool,
    ) -> AsyncGenerator[Batch]:
        """What gives the events of the answer; close it to cancel.

        Args:
            record: is told where the answer comes from.
            compute: asks the model server. Its exceptions reach everybody who waits for it.
            stream: whether it gives the events as they come; others than streams do not wait for
                a stream's end, and no stream waits for a whole answer.
        """
        store = self._store
        if store is None or not caller.keeps_answer or not self._is_determined(on_wire):
            return compute()
        key = self._key(request, on_wire)
        if caller.takes_kept_answer and (known := await self._find(store, key)):
            record.cache = "hit"
            return _once(known)
        run = self._runs.get((key, stream)) if caller.takes_kept_answer else None
        record.cache = "miss" if run is None else "shared"
        if run is None:
            run = self._begin(store, key, compute, stream)
        return run.read()

    async def aclose(self) -> None:
        """Close the store."""
        if self._store is not None:
            await self._store.aclose()

    def _begin(
        self, store: AnswerStore, key: bytes, compute: Compute, stream: bool
    ) -> "_SharedRun":
        async def keep(events: Batch) -> None:
            await store.put(key, to_bytes(events))

        def forget(run: "_SharedRun") -> None:
            if self._runs.get((key, stream)) is run:
                del self._runs[key, stream]

        run = self._runs[key, stream] = _SharedRun(compute(), keep, forget)
        return run

    async def _find(self, store: AnswerStore, key: bytes) -> Batch | None:
        data = await store.get(key)
        if data is None:
            return None
        try:
            return from_bytes(data)
        except ValueError:  # of another version of this program
            return None

    def _is_determined(self, on_wire: GenerationRequest) -> bool:
        sampling = on_wire.sampling_parameters
        if sampling.get("prompt_logprobs") is not None:
            return False  # whoever scores texts does not ask twice, and these are large
        if sampling.get("seed") is not None:
            return True
        return bool(sampling.get("temperature", self._info.known.get("temperature")) == 0)

    def _key(self, request: AnswerRequest, on_wire: GenerationRequest) -> bytes:
        wire = {
            field.name: getattr(on_wire, field.name)
            for field in fields(on_wire)
            if field.name not in _NOT_IN_KEY
        }
        wire["sampling_parameters"] = dict(sorted(on_wire.sampling_parameters.items()))
        parts = (
            self._info.known.get("revision", ""),
            wire,  # has the tenant and the salt
            request.echo,
            request.has_no_answer,
            request.finds_boxes,
            request.is_raw,
            request.parallel_tool_calls,
            [len(on_wire.images), len(on_wire.videos)],
        )
        key = blake2b(json.dumps(parts, default=_plain).encode(), digest_size=_KEY_BYTES)
        for file in (*on_wire.images, *on_wire.videos):
            key.update(blake2b(file, digest_size=_KEY_BYTES).digest())
        return key.digest()


async def _once(batch: Batch) -> AsyncGenerator[Batch]:
    yield batch


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(value)


class _SharedRun:
    """One answer of the model server, read by all who ask for the same. It ends with its last
    reader.

    Args:
        keep: called with all events of an answer that has come to its end.
        forget: called once nobody may join any more.
    """

    def __init__(
        self,
        source: AsyncGenerator[Batch],
        keep: Callable[[Batch], Any],
        forget: Callable[["_SharedRun"], None],
    ) -> None:
        self._batches: list[Batch] = []
        self._error: Exception | None = None
        self._has_ended = False
        self._num_readers = 0
        self._furthest = 0
        self._news, self._was_read = asyncio.Event(), asyncio.Event()
        self._forget = forget
        self._task = asyncio.create_task(self._pump(source, keep))

    async def read(self) -> AsyncGenerator[Batch]:
        """All batches, from the first on."""
        position = 0
        self._num_readers += 1
        try:
            while True:
                while position < len(self._batches):
                    position += 1
                    if position > self._furthest:
                        self._furthest = position
                        self._was_read.set()
                    yield self._batches[position - 1]
                if self._error is not None:
                    raise self._error
                if self._has_ended:
                    return
                await self._news.wait()
        finally:
            self._num_readers -= 1
            if not self._num_readers and not self._has_ended:
                self._forget(self)
                self._task.cancel()

    async def _pump(self, source: AsyncGenerator[Batch], keep: Callable[[Batch], Any]) -> None:
        try:
            async with aclosing(source):
                async for batch in source:
                    self._batches.append(batch)
                    self._tell()
                    while len(self._batches) - self._furthest > _MAX_AHEAD:
                        self._was_read.clear()
                        await self._was_read.wait()
        except Exception as error:
            self._error = error
        finally:
            self._has_ended = True
            self._tell()
        if self._error is None:
            await keep([event for batch in self._batches for event in batch])
        self._forget(self)  # only now: until it is kept, others find it here

    def _tell(self) -> None:
        """Wake all readers."""
        news, self._news = self._news, asyncio.Event()
        news.set()
