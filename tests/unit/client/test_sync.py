"""The blocking client, over the same fake."""

import threading
import time

import grpc
import pytest

from glm_client import (
    TLS,
    Client,
    GenerationRequest,
    InvalidRequestError,
    RequestCancelledError,
)
from unit.client.fake_triton import ANSWER, FakeTriton, rpc_error
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.timing

REQUEST = GenerationRequest(text_input="hi")


def test_stream_and_generate(triton: FakeTriton) -> None:
    with Client() as client:
        texts = [delta.text for delta in client.stream(REQUEST)]
        assert client.generate(REQUEST).text == "".join(texts) == "<think>hm</think>\nA red circle."
        assert client.server_live()
        assert client.server_ready()
        assert client.models_ready() == {"preprocessing": False, "generation": True}
    assert triton.closed


def test_a_client_that_cannot_be_made_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(FileNotFoundError):
        Client(tls=TLS(root_certificate="missing.pem"))
    with pytest.raises(ValueError, match="keepalive: must be 0 or at least 10 seconds"):
        Client(keepalive=9)
    with pytest.raises(ValueError, match="certificate and key: give both or none of them"):
        TLS(root_certificate="a.pem", key="b.pem")
    assert threading.active_count() == before


def test_an_ended_stream_stays_ended(triton: FakeTriton) -> None:
    with Client() as client:
        deltas = client.stream(REQUEST)
        assert len(list(deltas)) == 3
        assert list(deltas) == []


def test_errors_reach_the_caller(triton: FakeTriton) -> None:
    triton.script = [ANSWER[0], rpc_error(grpc.StatusCode.INVALID_ARGUMENT, "messages: no")]
    with Client() as client:
        with pytest.raises(InvalidRequestError, match="messages: no"):
            list(client.stream(REQUEST))
        with pytest.raises(InvalidRequestError, match="messages: no"):
            client.generate(REQUEST)


def test_internal_exception_is_raised_not_treated_as_end(triton: FakeTriton) -> None:
    triton.script = [ANSWER[0], ZeroDivisionError()]
    with Client() as client, pytest.raises(ZeroDivisionError):
        list(client.stream(REQUEST))


def test_cancel_from_another_thread(triton: FakeTriton) -> None:
    triton.script = [ANSWER[0], None]
    with Client() as client:
        deltas = client.stream(REQUEST)
        assert next(deltas).text == "<think>hm"
        threading.Timer(0.01, deltas.cancel).start()
        with pytest.raises(RequestCancelledError):
            next(deltas)
        wait_until(lambda: triton.streams[0].given_up.is_set())


def test_leaving_with_cancels(triton: FakeTriton) -> None:
    triton.script = [ANSWER[0], None]
    with Client() as client:
        with client.stream(REQUEST) as deltas:
            next(deltas)
        wait_until(lambda: triton.streams[0].given_up.is_set())


def test_closing_the_client_ends_waiting_calls(triton: FakeTriton) -> None:
    triton.script = [None]
    client = Client()
    errors: list[Exception] = []

    def wait_for_answer() -> None:
        try:
            client.generate(REQUEST)
        except RequestCancelledError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait_for_answer)
    waiting.start()
    wait_until(lambda: bool(triton.calls))
    client.close()
    waiting.join(TIMEOUT)
    assert len(errors) == 1
    assert triton.streams[0].given_up.is_set()
    client.close()  # twice is fine


def test_a_closed_client_says_so_to_every_thread(triton: FakeTriton) -> None:
    """However a call and the closing meet, the call ends."""
    triton.script = [None]
    for delay in (0, 0.0005, 0.001, 0.002) * 5:
        client = Client()
        ended = threading.Event()

        def call(client: Client = client, ended: threading.Event = ended) -> None:
            with pytest.raises(RequestCancelledError):
                while True:
                    client.generate(REQUEST)
            ended.set()

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(delay)
        client.close()
        assert ended.wait(TIMEOUT), "a call was forgotten"
        thread.join()
    with pytest.raises(RequestCancelledError, match="closed"):
        client.stream(REQUEST)
