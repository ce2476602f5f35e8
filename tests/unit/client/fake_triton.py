"""Stands in for tritonclient's asyncio client: plays a script of responses, and notes the calls."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Self

import grpc
import numpy as np
from tritonclient.grpc import InferenceServerException, InferResult, service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from glm_client import TextDelta, ThoughtDelta
from unit.markup import Teller


def result(**outputs: Any) -> InferResult:
    """A response of Triton with these outputs: text, bytes, or numpy arrays."""
    response = service_pb2.ModelInferResponse()
    for name, value in outputs.items():
        if isinstance(value, str):
            value = np.array([value.encode()], dtype=np.object_)
        tensor = response.outputs.add()
        tensor.name, tensor.datatype = name, np_to_triton_dtype(value.dtype)
        tensor.shape.extend(value.shape)
        is_bytes = value.dtype == np.object_
        raw = serialize_byte_tensor(value).item() if is_bytes else value.tobytes()
        response.raw_output_contents.append(raw)
    return InferResult(response)


def count(value: int) -> Any:
    """A token count as Triton sends it."""
    return np.array([value], dtype=np.uint32)


def rpc_error(status: grpc.StatusCode, message: str) -> grpc.aio.AioRpcError:
    """What grpc raises when a call ends in ``status``."""
    return grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(), message)


def details(status: str, code: str, message: str, **values: Any) -> str:
    """An error of our models as they write it for a client that asks for details."""
    return json.dumps({"status": status, "code": code, "message": message} | values)


FULL = details("UNAVAILABLE", "overloaded", "queue full: 8", retry_after=3)
DAMAGED = details("INVALID_ARG", "invalid_value", "damaged", param="image[0]")
CANCELLED = details("CANCELLED", "cancelled", "the request was cancelled")

ANSWER = (
    result(text_output="<think>hm", num_output_tokens=count(2), num_input_tokens=count(9)),
    result(text_output="</think>\nA red", num_output_tokens=count(3)),
    result(text_output=" circle.", num_output_tokens=count(2), finish_reason="stop"),
)


class FakeCall:
    """One stream. After the last item of the script it ends; None stands for waiting for a cancel.

    Attributes:
        ended: it was read to its end.
        given_up: a request of the same stream has cancelled the first.
        cut: the whole stream was cancelled, which is the last resort.
    """

    def __init__(self, script: Sequence[Any]) -> None:
        self._script = iter(script)
        self.tells_apart = False
        self._teller = Teller()
        self.given_up = asyncio.Event()
        self.ended = False
        self.cut = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, Any]:
        await asyncio.sleep(0)
        for item in self._script:
            if item is None:
                await self.given_up.wait()
                return None, InferenceServerException(CANCELLED)
            if isinstance(item, InferenceServerException):
                return None, item
            if isinstance(item, Exception):
                raise item
            return self._told_apart(item) if self.tells_apart else item, None
        self.ended = True
        raise StopAsyncIteration

    def _told_apart(self, item: InferResult) -> InferResult:
        """The response as it is for who asks for events."""
        outputs = {one.name: item.as_numpy(one.name) for one in item.get_response().outputs}
        text = outputs.pop("text_output", np.array([b""], object))[0].decode()
        end = outputs.get("finish_reason", np.array([b""], object))[0].decode()
        events = [
            {"thought" if isinstance(event, ThoughtDelta) else "text": event.text}
            for event in self._teller.events(text, end or None)
            if isinstance(event, ThoughtDelta | TextDelta)
        ]
        return result(**outputs, events=json.dumps(events))

    def cancel(self) -> bool:
        self.cut = True
        self.given_up.set()
        return True


class FakeTriton:
    """Each stream plays ``script``; ``calls`` are what was asked for, ``streams`` the answers."""

    def __init__(self, script: Sequence[Any] = ANSWER, *, reachable: bool = True) -> None:
        self.script = script
        self.reachable = reachable
        self.calls: list[dict[str, Any]] = []
        self.options: list[dict[str, Any]] = []
        self.streams: list[FakeCall] = []
        self.closed = False
        self._reading: set[asyncio.Task[None]] = set()

    def stream_infer(self, inputs_iterator: Any, **options: Any) -> FakeCall:
        stream = FakeCall(self.script)

        async def read() -> None:
            async for call in inputs_iterator:
                names = [tensor.name() for tensor in call["inputs"]]
                if names == ["cancel"]:
                    stream.given_up.set()
                else:
                    stream.tells_apart = "return_events" in names
                    self.calls.append(call)

        task = asyncio.get_running_loop().create_task(read())
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        self.options.append(options)
        self.streams.append(stream)
        return stream

    async def is_server_live(self) -> bool:
        return self._answer()

    async def is_server_ready(self) -> bool:
        return self._answer()

    async def is_model_ready(self, name: str) -> bool:
        return self._answer() and name == "generation"

    async def close(self) -> None:
        self.closed = True

    def _answer(self) -> bool:
        if not self.reachable:
            raise InferenceServerException("connection refused", status="StatusCode.UNAVAILABLE")
        return True
