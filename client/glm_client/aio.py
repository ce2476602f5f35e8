"""The asyncio client: one gRPC stream per request, all on one channel."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from tritonclient.grpc import InferenceServerException, InferResult
from tritonclient.grpc.aio import InferenceServerClient

from glm_client import wire
from glm_client.errors import (
    DeadlineExceededError,
    InternalError,
    RequestCancelledError,
    error_from_status,
    error_from_text,
)
from glm_client.types import Generation, GenerationDelta, GenerationRequest, Tokenization

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 600.0

# Time for the server to end a cancelled request before the stream is closed.
_GIVE_UP_SECONDS = 5.0
_CLOSE_SECONDS = 1.0

_CHANNEL_OPTIONS = [
    # gRPC's default of 4 MB is less than one photo; the server enforces the limit.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Reconnect to a restarted server within seconds, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

# Servers count more frequent pings as abuse; `make serve` allows these.
_MIN_KEEPALIVE = 10.0


def _keepalive_options(seconds: float) -> list[tuple[str, int]]:
    return [
        ("grpc.keepalive_time_ms", int(seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """PEM files for an encrypted connection.

    Attributes:
        root_certificate: the certificates by which the server's is signed, which must name the host
            of the client's ``url``.
        certificate: the client's own, for a server that asks for one (mutual TLS).
        key: the private key of ``certificate``.

    Raises:
        ValueError: only one of ``certificate`` and ``key`` is given.
    """

    root_certificate: str | Path
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: give both or none of them")


class AsyncClient:
    """Talks to the model ``generation`` of one Triton server.

    Create it within a running event loop, use it only there, and close it with :meth:`aclose` or
    ``async with``. Any number of requests may run concurrently.

    Args:
        url: host and port of Triton's gRPC endpoint.
        timeout: default limit in seconds for a whole request.
        tls: certificates for an encrypted connection; None for plain text.
        keepalive: seconds between pings that keep an idle connection open through firewalls; 0 for
            none. A server that does not allow such an interval closes the connection.

    Raises:
        ValueError: ``keepalive`` is too short.
        OSError: a file of ``tls`` cannot be read.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: TLS | None = None,
        keepalive: float = 0,
    ) -> None:
        if 0 < keepalive < _MIN_KEEPALIVE:
            raise ValueError(f"keepalive: must be 0 or at least {_MIN_KEEPALIVE:g} seconds")
        self._triton = InferenceServerClient(
            url,
            ssl=tls is not None,
            root_certificates=tls and tls.root_certificate,
            private_key=tls and tls.key,
            certificate_chain=tls and tls.certificate,
            channel_args=[*_CHANNEL_OPTIONS, *(_keepalive_options(keepalive) if keepalive else ())],
        )
        self._timeout = timeout
        self._calls: set[_Call] = set()

    async def stream(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[GenerationDelta]:
        """Stream the answer; the last piece has a ``finish_reason``.

        The pieces of several answers are interleaved, and each answer has a last piece.

        Closing the iterator (safest with ``contextlib.aclosing``) or cancelling the awaiting task
        immediately cancels the request on the server.

        Args:
            timeout: seconds for the whole answer.

        Raises:
            GLMError: see :mod:`glm_client.errors`.
        """
        async with aclosing(self._deltas(request, stream=True, timeout=timeout)) as deltas:
            async for delta in deltas:
                yield delta

    async def generate(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> Generation:
        """Return the whole answer. Cancelling the awaiting task cancels the request on the server.

        Arguments and errors are those of :meth:`stream`.

        Raises:
            ValueError: the request asks for several answers.
        """
        if request.num_choices != 1:
            raise ValueError("n: use generate_choices for several answers")
        return (await self.generate_choices(request, timeout=timeout))[0]

    async def generate_choices(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> tuple[Generation, ...]:
        """Return all ``n`` whole answers; otherwise like :meth:`generate`."""
        pieces: list[list[GenerationDelta]] = [[] for _ in range(request.num_choices)]
        async with aclosing(self._deltas(request, stream=False, timeout=timeout)) as deltas:
            async for delta in deltas:
                pieces[delta.index].append(delta)
        return tuple(_join(choice) for choice in pieces)

    async def tokenize(
        self,
        request: GenerationRequest,
        *,
        token_texts: bool = False,
        timeout: float | None = None,
    ) -> Tokenization:
        """Tokenise the prompt of a request, with stage 1 alone. Other fields are ignored.

        Args:
            token_texts: also return the text of each token.
            timeout: seconds.

        Raises:
            GLMError: see :mod:`glm_client.errors`.
        """
        call = wire.build_tokenizer_call(request, token_texts=token_texts)
        return wire.parse_tokenization(await self._infer(call, timeout))

    async def tokenizer_config(self, *, timeout: float | None = None) -> dict[str, Any]:
        """What the checkpoint says of its tokenizer: special tokens and chat template.

        Args:
            timeout: seconds.

        Raises:
            GLMError: see :mod:`glm_client.errors`.
        """
        result = await self._infer(wire.build_tokenizer_config_call(), timeout)
        return wire.parse_tokenizer_config(result)

    async def _infer(self, call: Mapping[str, Any], timeout: float | None) -> InferResult:
        """The response of stage 1."""
        try:
            result: InferResult = await self._triton.infer(
                **call, client_timeout=self._timeout if timeout is None else timeout
            )
        except InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            code = grpc.StatusCode.__members__.get(status, grpc.StatusCode.UNKNOWN)
            raise error_from_status(code, error.message() or "") from None
        return result

    async def server_live(self) -> bool:
        """Whether Triton is reachable; its models may still be loading."""
        try:
            return bool(await self._triton.is_server_live())
        except InferenceServerException:
            return False

    async def server_ready(self) -> bool:
        """Whether Triton is reachable and reports that all its models are loaded."""
        try:
            return bool(await self._triton.is_server_ready())
        except InferenceServerException:
            return False

    async def models_ready(self) -> dict[str, bool]:
        """For each stage, whether Triton reports that it is loaded.

        Triton still reports so after a stage's process has died; only an answer proves that it is
        alive.
        """
        return {stage: await self._model_ready(stage) for stage in wire.STAGES}

    async def aclose(self) -> None:
        """Close the channel; running requests are cancelled."""
        for call in list(self._calls):
            call.give_up()
        if self._calls:
            await asyncio.wait([call.reading for call in self._calls], timeout=_CLOSE_SECONDS)
        await self._triton.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _model_ready(self, name: str) -> bool:
        try:
            return bool(await self._triton.is_model_ready(name))
        except InferenceServerException:
            return False

    async def _deltas(
        self, request: GenerationRequest, *, stream: bool, timeout: float | None
    ) -> AsyncGenerator[GenerationDelta]:
        seconds = self._timeout if timeout is None else timeout
        call = _Call(self._triton, request, stream=stream, timeout=seconds)
        self._calls.add(call)
        call.reading.add_done_callback(lambda _: self._calls.discard(call))
        unfinished = request.num_choices
        try:
            while (item := await call.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                delta = wire.parse_response(item)
                unfinished -= delta.finish_reason is not None
                yield delta
        finally:
            call.give_up()
        if unfinished > 0:
            raise InternalError("the server ended the stream before the answer was complete")


class _Call:
    """One gRPC stream, which is always read to its end, even after the consumer has left.

    Cancelling a gRPC stream crashes Triton 24.10 about once in a few thousand times, and cancelling
    a task that reads from a stream cancels it. So a separate task reads, and a request is cancelled
    by a second request on the same stream, upon which the server ends the first.

    Attributes:
        items: responses, or the error that ended the request; None marks the end.
        reading: the task that reads the stream.
    """

    def __init__(
        self,
        triton: InferenceServerClient,
        request: GenerationRequest,
        *,
        stream: bool,
        timeout: float,
    ) -> None:
        self.items: asyncio.Queue[InferResult | Exception | None] = asyncio.Queue()
        self._cancel_key = secrets.token_bytes(16)
        self._answered = False
        self._sending_ends = asyncio.Event()  # the last chance to send a cancel request
        self._stream = triton.stream_infer(
            self._requests(wire.build_call(request, stream=stream, cancel_key=self._cancel_key)),
            # A backstop on the server; our own deadline also sends a cancel request.
            stream_timeout=timeout + _GIVE_UP_SECONDS,
        )
        late = DeadlineExceededError(f"the answer took more than {timeout:g} s")
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(timeout, self.items.put_nowait, late)
        self.reading = asyncio.create_task(self._read())

    def give_up(self) -> None:
        """Cancel the request on the server, unless it has ended."""
        self._deadline.cancel()
        if not self.reading.done() and not self._sending_ends.is_set():
            self._sending_ends.set()
            asyncio.get_running_loop().call_later(_GIVE_UP_SECONDS, self.cut)

    def cut(self) -> None:
        """Cancel the stream, unless it has ended."""
        if not self.reading.done():
            self._stream.cancel()

    async def _requests(self, call: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield call
        await self._sending_ends.wait()
        if not self._answered:
            yield wire.build_cancel_call(self._cancel_key)

    async def _read(self) -> None:
        try:
            async for result, error in self._stream:
                if error is not None:
                    self.items.put_nowait(error_from_text(error.message()))
                else:
                    self.items.put_nowait(result)
                if error is not None or wire.is_final(result):
                    self._end()
        except grpc.RpcError as error:
            self.items.put_nowait(error_from_status(error.code(), error.details() or ""))
        except asyncio.CancelledError:  # by `cut`, or by the channel's closing
            self.items.put_nowait(RequestCancelledError("the request was cancelled"))
        except Exception as error:  # a bug; raise it in the consumer
            self.items.put_nowait(error)
        finally:
            self._end()
            self.items.put_nowait(None)

    def _end(self) -> None:
        self._answered = True
        self._sending_ends.set()


def _join(deltas: list[GenerationDelta]) -> Generation:
    return Generation(
        text="".join(delta.text for delta in deltas),
        events=tuple(event for delta in deltas for event in delta.events),
        prompt_logprobs=next((d.prompt_logprobs for d in deltas if d.prompt_logprobs), ()),
        limits=next((delta.limits for delta in deltas if delta.limits), None),
        image_sizes=next((delta.image_sizes for delta in deltas if delta.image_sizes), ()),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        logprobs=tuple(logprobs for delta in deltas for logprobs in delta.logprobs),
        option_logprobs=tuple(value for delta in deltas for value in delta.option_logprobs),
        finish_reason=next(delta.finish_reason for delta in deltas if delta.finish_reason),
        stop_reason=deltas[-1].stop_reason,
        num_input_tokens=max(delta.num_input_tokens or 0 for delta in deltas),
        num_image_tokens=max(delta.num_image_tokens or 0 for delta in deltas),
        num_cached_tokens=max(delta.num_cached_tokens or 0 for delta in deltas),
        num_output_tokens=sum(delta.num_output_tokens for delta in deltas),
        num_reasoning_tokens=sum(delta.num_reasoning_tokens for delta in deltas),
    )
