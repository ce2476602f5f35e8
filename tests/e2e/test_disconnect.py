"""A client that goes away takes its request with it, within two steps of the engine."""

import socket
import threading

import requests

from benchmarks.stack import Stack
from e2e.calls import chat, metrics, wait_for

# With log probabilities, which take time: the small model alone would be done in a second.
LONG = {"ignore_eos": True, "max_tokens": 4000, "logprobs": True, "top_logprobs": 20}
CANCELLED = 'glm_requests_total{finish_reason="cancelled"}'


def _settled(stack: Stack) -> dict[str, float]:
    """The metrics, once those of the tests before are in them."""
    threading.Event().wait(0.6)
    return metrics(stack)


def _freed_late(values: dict[str, float]) -> float:
    """Cancelled requests that were still there after two steps."""
    return values["glm_cancellation_steps_count"] - values['glm_cancellation_steps_bucket{le="2"}']


def _wait_until_freed(stack: Stack, before: dict[str, float], count: int = 1) -> None:
    wait_for(lambda: metrics(stack)[CANCELLED] == before[CANCELLED] + count)
    after = metrics(stack)
    assert after["glm_requests_running"] == after["glm_requests_waiting"] == 0
    assert after["glm_cancellation_steps_count"] == before["glm_cancellation_steps_count"] + count
    assert _freed_late(after) == _freed_late(before)
    # Nothing runs any more: the engine takes no further step.
    steps = after["glm_engine_steps_total"]
    threading.Event().wait(0.6)
    assert metrics(stack)["glm_engine_steps_total"] == steps


def test_a_stream_that_is_closed(stack: Stack) -> None:
    before = _settled(stack)
    body = chat("hello", stream=True, **LONG)
    with requests.post(
        f"{stack.base_url}/v1/chat/completions", json=body, stream=True, timeout=30
    ) as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(4)]
    _wait_until_freed(stack, before)


def test_a_call_without_a_stream_that_is_closed(stack: Stack) -> None:
    before = _settled(stack)
    request = requests.Request(
        "POST", f"{stack.base_url}/v1/chat/completions", json=chat("hello", **LONG)
    ).prepare()
    assert isinstance(request.body, bytes)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        start = f"POST {request.path_url} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n"
        connection.sendall(start.encode() + request.body)
        wait_for(lambda: metrics(stack)["glm_requests_running"] == 1)
    _wait_until_freed(stack, before)


def test_many_that_leave_at_once(stack: Stack) -> None:
    before = _settled(stack)
    responses = [
        requests.post(
            f"{stack.base_url}/v1/chat/completions",
            json=chat("hello", stream=True, **LONG),
            stream=True,
            timeout=30,
        )
        for _ in range(8)
    ]
    for response in responses:
        next(response.iter_lines())
    for response in responses:
        response.close()
    _wait_until_freed(stack, before, count=8)
