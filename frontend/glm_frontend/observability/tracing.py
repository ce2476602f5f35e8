"""Traces. FastAPI makes a span for each request; here is what it cannot know.

Attributes are named by OpenTelemetry's semantic conventions, those of generative AI among them.
What was asked and what was answered is in none.
"""

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from glm_frontend.core.record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# Asked every few seconds by machines; nobody looks for them in a trace.
_NOT_TRACED = ("/v1/health", "/metrics")

_PROPAGATOR = TraceContextTextMapPropagator()


def telemetry(provider: "TracerProvider | None") -> TelemetryConfig:
    """What FastAPI is to do: a span for each request, and nothing else. None: not even that."""
    config: TelemetryConfig = {
        "tracing": provider is not None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": _is_not_traced,
    }
    if provider is not None:
        config["tracer_provider"] = provider
    return config


def _is_not_traced(scope: MutableMapping[str, Any]) -> bool:
    return str(scope["path"]).startswith(_NOT_TRACED)


def trace_context() -> str:
    """W3C traceparent that makes spans children of the request's; empty where it has none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")


def describe(record: RequestRecord, request_id: str, served_model: str) -> None:
    """Tell the request's span what is known of it now; nothing once the span has ended."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attribute("glm.request_id", request_id)
    if record.error_code is not None:
        span.set_attribute("glm.error_code", record.error_code)
    if record.failed_in_stream:  # of which the status tells nothing
        span.set_status(trace.StatusCode.ERROR)
    if not record.answers:
        return
    span.set_attribute("gen_ai.operation.name", record.answers[0].operation)
    span.set_attribute("gen_ai.provider.name", "glm")
    span.set_attribute("gen_ai.request.model", served_model)
    span.set_attribute("gen_ai.response.model", served_model)
    reasons = [reason for answer in record.answers for reason in answer.finish_reasons]
    if reasons:
        span.set_attribute("gen_ai.response.finish_reasons", reasons)
    usages = [answer.usage for answer in record.answers if answer.usage is not None]
    if usages:
        prompt = sum(usage.prompt for usage in usages)
        completion = sum(usage.completion for usage in usages)
        span.set_attribute("gen_ai.usage.input_tokens", prompt)
        span.set_attribute("gen_ai.usage.output_tokens", completion)
