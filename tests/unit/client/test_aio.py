"""The asyncio client: answers, errors, and cancelling at once."""

import asyncio
from contextlib import aclosing

import grpc
import pytest
from tritonclient.grpc import InferenceServerException

from glm_client import (
    AsyncClient,
    DeadlineExceededError,
    Generation,
    GenerationRequest,
    GLMError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
)
from unit.client.fake_triton import ANSWER, DAMAGED, FULL, FakeTriton, rpc_error
from waiting import until

pytestmark = pytest.mark.timing

REQUEST = GenerationRequest(text_input="hi")


async def test_stream(triton: FakeTriton) -> None:
    async with AsyncClient(timeout=7) as client:
        deltas = [delta async for delta in client.stream(REQUEST)]
    assert [delta.text for delta in deltas] == ["<think>hm", "</think>\nA red", " circle."]
    assert [delta.finish_reason for delta in deltas] == [None, None, "stop"]
    assert not triton.streams[0].given_up.is_set()
    assert triton.closed


async def test_generate_joins_and_sums(triton: FakeTriton) -> None:
    generation = await AsyncClient().generate(REQUEST, timeout=3)
    assert generation == Generation(
        text="<think>hm</think>\nA red circle.",
        finish_reason="stop",
        num_input_tokens=9,
        num_image_tokens=0,
        num_output_tokens=7,
    )
    assert triton.options[0]["stream_timeout"] > 3


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, DAMAGED, InvalidRequestError),
        (grpc.StatusCode.UNAVAILABLE, FULL, OverloadedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceededError),
    ],
)
async def test_errors(
    triton: FakeTriton, status: grpc.StatusCode, message: str, kind: type[Exception]
) -> None:
    triton.script = [ANSWER[0], rpc_error(status, message)]
    texts = []
    with pytest.raises(kind):
        async for delta in AsyncClient().stream(REQUEST):
            texts.append(delta.text)
    assert texts == ["<think>hm"]
    with pytest.raises(kind):
        await AsyncClient().generate(REQUEST)


@pytest.mark.parametrize(
    ("text", "kind"),
    [(DAMAGED, InvalidRequestError), (FULL, OverloadedError)],
)
async def test_an_error_ends_the_answer_and_the_stream_is_read_to_its_end(
    triton: FakeTriton, text: str, kind: type[GLMError]
) -> None:
    triton.script = [ANSWER[0], InferenceServerException(text), ANSWER[1]]
    texts = []
    with pytest.raises(kind) as caught:
        async for delta in AsyncClient().stream(REQUEST):
            texts.append(delta.text)
    assert texts == ["<think>hm"]
    assert caught.value.message in ("damaged", "queue full: 8")
    await until(lambda: triton.streams[0].ended)
    assert list(triton.streams[0]._script) == []
    assert not triton.streams[0].given_up.is_set()


async def test_an_error_without_a_status_is_internal(triton: FakeTriton) -> None:
    triton.script = [InferenceServerException("oh no")]
    with pytest.raises(InternalError, match="oh no"):
        await AsyncClient().generate(REQUEST)


async def test_a_stream_that_ends_early_is_an_error(triton: FakeTriton) -> None:
    triton.script = ANSWER[:2]
    with pytest.raises(InternalError, match="before the answer was complete"):
        await AsyncClient().generate(REQUEST)


async def _ended(triton: FakeTriton) -> None:
    """The request has been given up by a message, and the stream read to its end."""
    await until(lambda: triton.streams[0].given_up.is_set() and triton.streams[0].ended)
    assert list(triton.streams[0]._script) == []
    assert not triton.streams[0].cut


async def test_closing_the_iterator_gives_up(triton: FakeTriton) -> None:
    triton.script = [ANSWER[0], None]
    async with aclosing(AsyncClient().stream(REQUEST)) as deltas:
        await anext(deltas)
        assert not triton.streams[0].given_up.is_set()
    await _ended(triton)


@pytest.mark.parametrize("method", ["stream", "generate"])
async def test_cancelling_the_task_gives_up(triton: FakeTriton, method: str) -> None:
    triton.script = [ANSWER[0], None]

    async def work() -> None:
        client = AsyncClient()
        if method == "generate":
            await client.generate(REQUEST)
        async for _ in client.stream(REQUEST):
            pass

    task = asyncio.create_task(work())
    await until(lambda: triton.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _ended(triton)


async def test_an_answer_that_takes_too_long_is_given_up(triton: FakeTriton) -> None:
    triton.script = [ANSWER[0], None]
    with pytest.raises(DeadlineExceededError, match=r"0\.05 s"):
        await AsyncClient().generate(REQUEST, timeout=0.05)
    await _ended(triton)


async def test_closing_the_client_gives_up(triton: FakeTriton) -> None:
    triton.script = [ANSWER[0], None]
    client = AsyncClient()
    deltas = client.stream(REQUEST)
    await anext(deltas)
    await client.aclose()
    await _ended(triton)
    with pytest.raises(RequestCancelledError):
        await anext(deltas)


async def test_a_server_that_does_not_react_is_cut_off(
    triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm_client.aio._GIVE_UP_SECONDS", 0.02)

    class Deaf(asyncio.Event):
        def set(self) -> None:
            if stream.cut:
                super().set()

    triton.script = [ANSWER[0], None]
    deltas = AsyncClient().stream(REQUEST)
    await anext(deltas)
    stream = triton.streams[0]
    stream.given_up = Deaf()
    await deltas.aclose()
    await until(lambda: stream.given_up.is_set())
    assert stream.cut


async def test_readiness(triton: FakeTriton) -> None:
    client = AsyncClient()
    assert await client.server_live()
    assert await client.server_ready()
    assert await client.models_ready() == {"preprocessing": False, "generation": True}


async def test_readiness_of_a_server_that_is_not_there(triton: FakeTriton) -> None:
    triton.reachable = False
    client = AsyncClient()
    assert not await client.server_live()
    assert not await client.server_ready()
    assert await client.models_ready() == {"preprocessing": False, "generation": False}
