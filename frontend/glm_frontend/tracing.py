"""A span for each HTTP request. Imported only where tracing is on: see ``otel.py``.

Attributes are named by OpenTelemetry's semantic conventions, those of generative AI among them.
What was asked and what was answered is in none.
"""

from http import HTTPStatus

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers
from starlette.types import Scope

from glm_frontend import otel
from glm_frontend.record import RequestRecord

# Asked every few seconds by machines; nobody looks for them in a trace.
_NOT_TRACED = ("/v1/health", "/metrics")


class HTTPTracer:
    """Begins and ends the spans.

    Args:
        served_model: name of the model.
    """

    def __init__(self, served_model: str) -> None:
        self._served_model = served_model
        self._provider = otel.create_provider("glm-frontend")
        self._tracer = self._provider.get_tracer("glm_frontend")
        self._propagator = TraceContextTextMapPropagator()

    def start(self, scope: Scope) -> trace.Span | None:
        """The span of a request, below that of its client, if it sent a ``traceparent``."""
        if scope["path"].startswith(_NOT_TRACED):
            return None
        return self._tracer.start_span(
            scope["method"],
            context=self._propagator.extract(Headers(scope=scope)),
            kind=trace.SpanKind.SERVER,
        )

    def traceparent(self, span: trace.Span) -> str:
        """What makes the model server's spans children of this one."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        return carrier["traceparent"]

    def end(
        self,
        span: trace.Span,
        scope: Scope,
        record: RequestRecord,
        *,
        route: str | None,
        status: int,
    ) -> None:
        """The request has ended. ``status``: 0 where there was no answer."""
        attributes: dict[str, AttributeValue] = {
            "http.request.method": scope["method"],
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
            "network.protocol.version": scope["http_version"],
            "http.request.body.size": record.request_bytes,
            "glm.request_id": scope["state"]["request_id"],
        }
        if scope.get("server"):
            attributes["server.address"], attributes["server.port"] = scope["server"]
        if route is not None:
            attributes["http.route"] = route
            span.update_name(f"{scope['method']} {route}")
        if status:
            attributes["http.response.status_code"] = status
        if record.error_code is not None:
            attributes["error.type"] = record.error_code
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or (record.error_code and status < 400):
            span.set_status(trace.StatusCode.ERROR)  # a client's own error is none of the server's
        span.set_attributes(attributes | self._of_answers(record))
        span.end()

    def shut_down(self) -> None:
        """Send what is left."""
        otel.shut_down(self._provider)

    def _of_answers(self, record: RequestRecord) -> dict[str, AttributeValue]:
        if not record.answers:
            return {}
        usages = [answer.usage for answer in record.answers if answer.usage is not None]
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": record.answers[0].operation,
            "gen_ai.provider.name": "glm",
            "gen_ai.request.model": self._served_model,
            "gen_ai.response.model": self._served_model,
            "gen_ai.usage.input_tokens": sum(usage.prompt_tokens for usage in usages),
            "gen_ai.usage.output_tokens": sum(usage.completion_tokens for usage in usages),
        }
        reasons = [reason for answer in record.answers for reason in answer.finish_reasons]
        if reasons:
            attributes["gen_ai.response.finish_reasons"] = reasons
        return attributes
