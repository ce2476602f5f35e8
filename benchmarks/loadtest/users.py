"""Users that ask one thing after the other and note when each token comes."""

import argparse
import base64
import itertools
import json
import secrets
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

import gevent
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPSocketPoolResponse
from grpc.experimental import gevent as grpc_gevent
from locust import User, task
from locust.env import Environment
from locust.event import EventHook
from tritonclient.grpc import InferenceServerClient, InferenceServerException, InferResult

from benchmarks.loadtest.figures import Record
from benchmarks.loadtest.mix import Ask, Messages, Mix, draw_all
from glm_client import GenerationRequest, OverloadedError, wire
from glm_client.errors import error_from_text
from tools.load import Server

# gRPC's asyncio side, which glm_client uses, has a thread of its own that blocks all of gevent: so
# here is tritonclient's blocking one, which works under gevent after this, with glm_client.wire.
grpc_gevent.init_gevent()

REQUEST_TIMEOUT = 600.0
LONGEST_RETRY_AFTER = 30.0
DEFAULT_RETRY_AFTER = 1.0

ended = EventHook()
"""Fired at each request's end with ``record``, ``length`` of the text, and ``error`` or None."""

_numbers = itertools.count()


class Refused(Exception):
    """The server is too busy. Attributes: retry_after, in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"refused, with {retry_after:g} s to wait")
        self.retry_after = retry_after


class Failed(Exception):
    """The answer is not what it should be."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer. ``tokens`` is of the whole answer, 0 if it is not reported."""

    text: str
    tokens: int = 0


class ChatUser(User):
    """What users of both protocols have in common."""

    abstract = True
    protocol = ""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        assert isinstance(environment.parsed_options, argparse.Namespace)
        self.options = environment.parsed_options
        worker = getattr(environment.runner, "worker_index", 0)
        self._mix = Mix(self.options, f"{worker}.{next(_numbers)}")
        draw_all(self.options)

    def wait_time(self) -> float:
        return float(self.options.pause)

    def pieces(self, messages: Messages) -> Generator[Piece]:
        """Send a request and give the answer as it comes. Closing the iterator hangs up.

        Raises:
            Refused, Failed: instead of an answer, or of its end.
            OSError: the server is not there.
        """
        raise NotImplementedError

    @task
    def ask(self) -> None:
        """One request, or the two of a conversation."""
        ask = self._mix.next()
        answer = self._perform(ask)
        if answer and ask.follow_up:
            self._perform(self._mix.next_turn(ask, answer))

    def _perform(self, ask: Ask) -> str:
        """Send one request and tell how it ended; the text of a whole answer, else nothing."""
        stamps: list[float] = []
        text, tokens, end = "", 0, "stopped"
        error: Exception | None = None
        leave_after = ask.leaving.tokens if ask.leaving else 0
        patience = gevent.Timeout(ask.leaving.seconds if ask.leaving else None)
        stream = self.pieces(ask.messages)
        began = time.perf_counter()
        try:
            if ask.leaving and ask.leaving.seconds < REQUEST_TIMEOUT:
                patience.start()
            for piece in stream:
                tokens = piece.tokens or tokens
                if piece.text:
                    patience.cancel()
                    stamps.append(time.perf_counter())
                    text += piece.text
                if leave_after and len(stamps) >= leave_after:
                    end = "left reading"
                    break
            else:
                end = "answered"
                if not stamps or not tokens:
                    raise Failed("an answer without text or usage")
        except gevent.Timeout as timeout:
            if timeout is not patience:
                raise
            end = "left waiting"
        except Refused as refusal:
            end, error = "refused", refusal
        except Exception as failure:  # whatever it is, it is not how a request should end
            end, error = "failed", failure
        finally:
            patience.cancel()
            stream.close()
            self._tell(ask.kind, end, began, stamps, tokens, len(text), error)
        if isinstance(error, Refused):
            gevent.sleep(min(error.retry_after, LONGEST_RETRY_AFTER))
        elif error:
            gevent.sleep(DEFAULT_RETRY_AFTER)  # rather than a flood of failures
        return text if end == "answered" else ""

    def _tell(
        self,
        kind: str,
        end: str,
        began: float,
        stamps: list[float],
        tokens: int,
        length: int,
        error: Exception | None,
    ) -> None:
        now = time.perf_counter()
        is_whole = end == "answered"
        ended.fire(
            record=Record(
                self.protocol,
                kind,
                end,
                time.time(),
                (stamps[-1] if is_whole else now) - began,
                stamps[0] - began if stamps else None,
                (stamps[-1] - stamps[0]) / (tokens - 1) if is_whole and tokens > 1 else None,
                tokens,
            ),
            length=length,
            error=error,
        )


class OpenAIUser(ChatUser):
    """Streams chat completions over HTTP, on a connection of its own."""

    protocol = "HTTP"
    abstract = False

    def on_start(self) -> None:
        host = (self.environment.host or self.options.host or "").rstrip("/")
        self._server = Server(host, self.options.model)
        self._client = HTTPClient.from_url(
            host, connection_timeout=10, network_timeout=REQUEST_TIMEOUT, concurrency=1
        )
        # Each request is to be computed, also one that is the same as an earlier one.
        self._headers = {"content-type": "application/json", "cache-control": "no-store"}
        if self.options.api_key:
            self._headers["authorization"] = f"Bearer {self.options.api_key}"

    def on_stop(self) -> None:
        self._client.close()

    def pieces(self, messages: Messages) -> Generator[Piece]:
        body = self._server.chat(messages, self.options.max_tokens)
        response = self._client.request("POST", "/v1/chat/completions", body, self._headers)
        try:
            yield from self._read(response)
        finally:
            response.release()  # which hangs up, unless all was read

    def _read(self, response: HTTPSocketPoolResponse) -> Iterator[Piece]:
        if response.status_code in (429, 503) and (seconds := response.get("retry-after")):
            response.read()
            raise Refused(float(str(seconds)))
        if response.status_code != 200:
            raise Failed(f"{response.status_code}: {response.read()[:300].decode()}")
        while event := response.readline(b"\n\n").strip():
            data = event.removeprefix(b"data: ")
            if data == b"[DONE]":
                response.read()  # the end of the last chunk, so that the connection can be kept
                return
            chunk = json.loads(data)
            if "error" in chunk:
                raise Failed(f"an error in the stream: {chunk['error']}")
            deltas = [choice["delta"] for choice in chunk["choices"]]
            texts = (one.get("content") or one.get("reasoning_content") or "" for one in deltas)
            usage = chunk.get("usage") or {}
            yield Piece("".join(texts), usage.get("completion_tokens", 0))
        raise Failed("the stream ended before [DONE]")


class GrpcUser(ChatUser):
    """Asks Triton itself, on a connection of its own, and gives requests up by a message."""

    protocol = "gRPC"
    abstract = False

    def on_start(self) -> None:
        channel = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self._triton = InferenceServerClient(self.options.grpc, channel_args=channel)

    def on_stop(self) -> None:
        self._triton.close()

    def pieces(self, messages: Messages) -> Generator[Piece]:
        items: SimpleQueue[tuple[InferResult | None, InferenceServerException | None]]
        items = SimpleQueue()
        key = secrets.token_bytes(16)
        call = wire.build_call(self._request(messages), stream=True, cancel_key=key)
        self._triton.start_stream(
            lambda result, error: items.put((result, error)), stream_timeout=REQUEST_TIMEOUT
        )
        is_over, tokens = False, 0
        try:
            self._triton.async_stream_infer(**call)
            while not is_over:
                result, error = items.get()
                is_over = result is None or wire.is_final(result)
                if result is None:
                    raise _failure(error)
                delta = wire.parse_response(result)
                tokens += delta.num_output_tokens
                yield Piece(delta.text, tokens)
        finally:
            if not is_over:
                self._triton.async_stream_infer(**wire.build_cancel_call(key))
            self._triton.stop_stream()  # returns when the server has ended the request

    def _request(self, messages: Messages) -> GenerationRequest:
        images: list[bytes] = []
        turns = []
        for message in messages:
            content = message["content"]
            if isinstance(content, list):
                images += [
                    base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    for part in content
                    if part["type"] == "image_url"
                ]
                content = [
                    {"type": "image"} if part["type"] == "image_url" else part for part in content
                ]
            turns.append({**message, "content": content})
        sampling = {"max_tokens": self.options.max_tokens, "temperature": 0, "ignore_eos": True}
        return GenerationRequest(messages=turns, images=images, sampling_parameters=sampling)


def _failure(error: InferenceServerException | None) -> Exception:
    failure = error_from_text(error.message() if error else "")
    if isinstance(failure, OverloadedError):
        return Refused(failure.retry_after or DEFAULT_RETRY_AFTER)
    return failure
