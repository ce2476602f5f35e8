"""What the soak test would notice: leaks, cut streams, answers to others, counts that disagree."""

import asyncio
import itertools
import json
import random
from typing import Any

import pytest

from stress.soak import slope
from stress.soak_requests import Ask, Books, Choice, Mix, Wrong, read_http
from tools.exchange import Connections, Exchange


def stream(*chunks: Any, end: str = "data: [DONE]\n\n") -> Exchange:
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return Exchange(200, headers, bytearray(text.encode()))


def chunk(text: str, finish_reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish_reason}
    return {"choices": [choice]}


def test_the_slope_is_that_of_a_leak_whatever_a_few_odd_points_say() -> None:
    noise = random.Random(1)
    times = list(range(20))
    leak = [100 + 2 * time + noise.uniform(-1, 1) for time in times]
    leak[4] += 500
    leak[17] -= 500
    assert slope(times, leak) == pytest.approx(2, abs=0.2)
    flat = [100 + noise.uniform(-5, 5) for _ in times]
    assert abs(slope(times, flat)) < 0.5


def test_streams_of_several_answers_are_put_together() -> None:
    exchange = stream(chunk("a"), chunk("c", index=1), chunk("b", "stop"), chunk("", "length", 1))
    assert read_http(exchange) == [Choice("ab", "", "stop"), Choice("c", "", "length")]


@pytest.mark.parametrize(
    "exchange",
    [
        stream(chunk("a"), end="data: [DONE]\n\n"),
        stream(chunk("a", "stop"), end=""),
        stream(chunk("a", "stop"), chunk("b")),
        stream(chunk("a", "stop"), end="data: [DONE]\n\ndata: [DONE]\n\n"),
        stream(chunk("a"), {"error": {"message": "no"}}),
        Exchange(200, {"content-type": "application/json"}, bytearray(b'{"choices": [')),
    ],
    ids=["no finish reason", "no end", "after the end", "two ends", "error", "cut JSON"],
)
def test_incomplete_answer_is_detected(exchange: Exchange) -> None:
    with pytest.raises(Wrong):
        read_http(exchange)


def mix(seed: int) -> Mix:
    made = Mix(seed, "model")
    made.truths = {
        question: Choice(str(number), finish_reason="stop")
        for number, question in enumerate(made.questions)
    }
    return made


def test_a_seed_makes_the_same_requests_of_all_kinds() -> None:
    one, other = mix(1), mix(1)
    asks = [one.next() for _ in range(600)]
    assert [ask.sent for ask in asks] == [other.next().sent for _ in range(600)]
    kinds = {ask.kind for ask in asks}
    assert kinds >= {"choice", "call", "turns, new", "video, known", "bad JSON", "left", "direct"}
    assert len({ask.id for ask in asks}) == 600


def test_the_answer_to_another_request_is_noticed() -> None:
    made = mix(1)
    asks: list[Ask] = []
    while len(asks) < 2:
        ask = made.next()
        asks += [ask] if ask.kind == "choice" else []
    asks[0].check([Choice(asks[0].id, finish_reason="stop")])
    with pytest.raises(Wrong):
        asks[0].check([Choice(asks[1].id, finish_reason="stop")])


RIGHT = {"stop": 10.0, "length": 4.0, "cancelled": 3.0, "invalid": 2.0, "rejected": 1.0}
RIGHT |= {"unavailable": 0.0, "error": 0.0}


def books() -> Books:
    made = Books(left=5, left_late=3)
    made.counted.update({"stop": 10, "length": 3, "invalid": 2, "rejected": 4})
    return made


def test_counts_that_agree() -> None:
    # One that left had its answer completed, three were cancelled, one was never noticed.
    assert books().differences(RIGHT) == []


@pytest.mark.parametrize(
    ("reason", "count"),
    [("stop", 9), ("stop", 11), ("invalid", 3), ("error", 1), ("length", 2), ("length", 7),
     ("cancelled", 1), ("rejected", 5)],
)  # fmt: skip
def test_counts_that_disagree(reason: str, count: int) -> None:
    assert len(books().differences(RIGHT | {reason: count})) == 1


async def test_truncated_response_is_an_error() -> None:
    whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    lengths = itertools.count(0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(whole[: next(lengths)])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        connections = Connections(*server.sockets[0].getsockname())
        for _ in range(len(whole)):
            with pytest.raises(asyncio.IncompleteReadError):
                await connections.post("/", b"", Exchange())
        exchange = Exchange()
        await connections.post("/", b"", exchange)
        await connections.close()
    assert (exchange.status, bytes(exchange.body)) == (200, b"abcde")
