"""What surrounds every request, as pure ASGI: its id and log line, its last resort, its size."""

import logging
import re
import time
import uuid
import zlib
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glm_frontend.admission.inflight_bytes import InflightBytes
from glm_frontend.admission.keys import tenant_of
from glm_frontend.core.record import RequestRecord
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, internal
from glm_frontend.http.errors import CLIENT_CLOSED_REQUEST, error_response
from glm_frontend.http.services import Services
from glm_frontend.observability import tracing
from glm_frontend.observability.logs import LOGGER_NAME
from glm_frontend.observability.metrics import NO_ROUTE

PROCESSING_HEADER = "openai-processing-ms"
CACHE_HEADER = "x-glm-cache"
REQUEST_ID_HEADER = "x-request-id"
ANTHROPIC_REQUEST_ID_HEADER = "request-id"
# Asked every few seconds, by this project's launcher and web page among others.
_POLLED_PATHS = ("/v1/health", "/v1/health/live", "/health", "/ping", "/metrics")

MAX_GZIP_MEMBERS = 64

_COMPRESSIONS = ("gzip", "x-gzip", "deflate")

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

logger = logging.getLogger(LOGGER_NAME)


class RequestContextMiddleware:
    """Gives each request an id (the client's own where it is sane), and tells the access log, the
    metrics and the trace of it when it has ended.

    The id is in ``request.state.request_id`` and in the response's ``x-request-id`` and
    ``request-id``; its ``openai-processing-ms`` tells the time until the response began. What is to
    be told is noted in ``request.state.record``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        if not _SANE_REQUEST_ID.fullmatch(request_id):
            request_id = f"req-{uuid.uuid4().hex}"
        record = RequestRecord(trace_context=tracing.trace_context())
        scope.setdefault("state", {}).update(request_id=request_id, record=record)
        services: Services = scope["app"].state.services
        served_model = services.settings.served_model_name
        status = 0  # stays 0 when the request ends without an answer
        sent = 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent
            sent += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers[ANTHROPIC_REQUEST_ID_HEADER] = request_id
                elapsed = time.perf_counter() - started
                headers[PROCESSING_HEADER] = str(round(1000 * elapsed))
                headers["x-content-type-options"] = "nosniff"
                if record.cache:
                    headers[CACHE_HEADER] = record.cache
                headers.update(scope["state"].get("headers", {}))
                if services.draining.is_set():
                    headers["connection"] = "close"
            elif not message.get("more_body"):
                tracing.describe(record, request_id, served_model)  # before the span ends
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", None)
            services.metrics.count_request(
                record,
                method=scope["method"],
                route=route or NO_ROUTE,
                status=status or CLIENT_CLOSED_REQUEST,
                seconds=seconds,
                response_bytes=sent,
            )
            tracing.describe(record, request_id, served_model)  # of a client that has left
            self._log(scope, record, status=status, seconds=seconds)

    def _log(self, scope: Scope, record: RequestRecord, *, status: int, seconds: float) -> None:
        path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
        key = scope["state"].get("key")
        fields = {
            "method": scope["method"],
            "path": path,
            "status": status,
            "duration_ms": round(1000 * seconds, 1),
            "client": (scope.get("client") or ("-",))[0],
            "key": "-" if key is None else key.name,
            "request_id": scope["state"]["request_id"],
        }
        if record.error_code is not None:
            fields["code"] = record.error_code
        if record.trace_context:
            fields["trace_id"] = record.trace_context.split("-")[1]
        logger.log(
            logging.DEBUG if path in _POLLED_PATHS else logging.INFO,
            " ".join(["request", *(f"{name}=%({name})s" for name in fields)]),
            fields,
        )


class MethodAndVersionMiddleware:
    """Answers HEAD as GET, whose body the server leaves out; and HTTP/1.0, which has no chunks,
    with the whole body at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        if scope["type"] == "http" and scope["http_version"] == "1.0":
            await self._app(scope, receive, _Whole(send))
        else:
            await self._app(scope, receive, send)


class _Whole:
    """Sends a response once it is complete, with its length."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._body: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body.append(message.get("body", b""))
        if message.get("more_body"):
            return
        body = b"".join(self._body)
        MutableHeaders(scope=self._start)["content-length"] = str(len(body))
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})


class UnexpectedErrorMiddleware:
    """Turns an exception that nobody expected into a 500 that tells nothing of our insides."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except Exception:
            request_id = scope["state"]["request_id"]
            logger.exception(
                "unexpected error request_id=%(request_id)s", {"request_id": request_id}
            )
            if started:
                raise  # too late for a status; the server cuts the connection
            await error_response(internal(), scope)(scope, receive, send)


class RefusalMiddleware:
    """Says a refusal that is already certain (``admission.refusals``) before FastAPI looks at the
    request, which would take more than half of the time that refusing takes.

    It knows a key in the header ``Authorization`` only; all else is left to the routes, which say
    the same.

    Args:
        routes: those behind ``services.get_permit``, by their path.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self._routes.get(scope["path"])
            error = None if route is None else self._refusal(scope)
            if error is not None:
                scope["route"] = route  # for the metrics
                await error_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> APIError | None:
        services: Services = scope["app"].state.services
        if services.draining.is_set():
            return None
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        try:
            key = services.keys.check(secret if scheme.lower() == "bearer" else None)
        except APIError:
            return None
        error = services.refusals.refusal(tenant_of(key))
        if error is not None:
            scope["state"]["key"] = key
        return error


class BodyLimitMiddleware:
    """Refuses bodies over ``max_bytes``: at once if declared so, else when the byte arrives. Of one
    that is compressed (gzip, deflate) the decompressed bytes count, and are what the routes get.

    All that is under way is held to ``inflight``. What the request holds of that is in
    ``request.state.bytes``, for more than the body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, inflight: InflightBytes) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._inflight = inflight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            await error_response(self._too_large(), scope)(scope, receive, send)
            return
        encoding = Headers(scope=scope).get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", *_COMPRESSIONS):
            error = APIError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                f"The content-encoding must be gzip, deflate or none, not {encoding[:64]!a}.",
            )
            await error_response(error, scope)(scope, receive, send)
            return
        inflater = _Inflater() if encoding in _COMPRESSIONS else None
        received = compressed = 0
        held = scope["state"]["bytes"] = self._inflight.of_request()

        async def receive_limited() -> Message:
            nonlocal received, compressed
            message = await receive()
            if inflater is not None and message["type"] == "http.request":
                compressed += len(message.get("body", b""))
                if compressed > self._max_bytes:
                    raise self._too_large()
                message = inflater.inflate(message, self._max_bytes + 1 - received)
            size = len(message.get("body", b""))
            received += size
            if received > self._max_bytes:
                raise self._too_large()
            key = scope["state"].get("key")
            held.hold(size, tenant_of(key))
            return message

        try:
            await self._app(scope, receive_limited, send)
        finally:
            held.give_back()
            scope["state"]["record"].request_bytes = received

    def _too_large(self) -> APIError:
        return APIError(
            ErrorCode.BODY_TOO_LARGE,
            f"The request body has more than the {self._max_bytes} bytes allowed.",
        )


class _Inflater:
    """Decompresses a body piece by piece: gzip, also of several members, or deflate."""

    def __init__(self) -> None:
        self._num_members = 1
        self._begin()

    def _begin(self) -> None:
        # 32: the header tells which of the two formats it is.
        self._inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)

    def inflate(self, message: Message, most: int) -> Message:
        """The message with its body decompressed; what exceeds ``most`` bytes is left out.

        Raises:
            APIError: 400.
        """
        data, body = message.get("body", b""), b""
        try:
            while data and len(body) < most:
                if self._inflater.eof:
                    self._num_members += 1
                    if self._num_members > MAX_GZIP_MEMBERS:
                        raise zlib.error
                    self._begin()
                body += self._inflater.decompress(data, most - len(body))
                data = self._inflater.unused_data
            if not message.get("more_body") and len(body) < most and not self._inflater.eof:
                raise zlib.error
        except zlib.error:
            raise APIError(
                ErrorCode.BAD_REQUEST, "The body is not what its content-encoding says."
            ) from None
        return {**message, "body": body}
