"""Creates the spans of a request after its end. Imported only if tracing is enabled."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from glm_engine import otel
from glm_engine.errors import InvalidRequest, RequestCancelled
from glm_engine.request import Request, Timeline


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a request. Times are ``time.monotonic()``; ``parts`` are nested stages."""

    name: str
    began: float
    ended: float
    parts: tuple["Stage", ...] = ()


def stages(preprocessing: float, choices: Sequence[Timeline], ended: float) -> tuple[Stage, ...]:
    """The stages that a request reached, in order. Its last stage ends with the request.

    Args:
        preprocessing: start of preprocessing; 0 if it did not start.
        choices: its answers, first the one that computed the prompt; empty if it did not reach
            the engine.
        ended: end of the request.
    """
    first = choices[0] if choices else Timeline()
    vision: tuple[Stage, ...] = ()
    if first.vision_began:
        vision = (Stage("vision", first.vision_began, first.vision_ended),)
    decoded = [choice.finished or ended for choice in choices]
    found = [
        Stage("preprocessing", preprocessing, first.queued or ended),
        Stage("queue", first.queued, first.scheduled or ended),
        Stage("prefill", first.scheduled, first.first_token or ended, vision),
        Stage("decode", first.first_token, max(decoded, default=ended)),
    ]
    return tuple(stage for stage in found if stage.began)


class RequestTracer:
    """Exports the spans of requests with a trace context."""

    def __init__(self) -> None:
        self._provider = otel.create_provider("glm-generation")
        self._tracer = self._provider.get_tracer("glm_engine")
        self._propagator = TraceContextTextMapPropagator()

    def send(
        self,
        trace_context: str,
        request_id: str,
        times: tuple[float, float, float],
        choices: Sequence[Request],
        outcome: str | Exception,
    ) -> None:
        """Export the spans of a request after its end.

        Args:
            trace_context: W3C ``traceparent`` of the caller's span.
            times: its arrival, the start of its preprocessing, and its end.
            choices: see :func:`stages`.
            outcome: the finish reason of the last answer, or the error instead.
        """
        received, preprocessing, ended = times
        timelines = [choice.timeline for choice in choices]
        whole = Stage("generation", received, ended, stages(preprocessing, timelines, ended))
        # Spans need Unix time; the engine uses the monotonic clock.
        epoch = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            whole.name,
            context=self._propagator.extract({"traceparent": trace_context}),
            kind=trace.SpanKind.SERVER,
            start_time=epoch + _nanoseconds(received),
        )
        span.set_attribute("glm.request_id", request_id)
        if choices:
            prompt = choices[0].prompt
            span.set_attribute("gen_ai.usage.input_tokens", prompt.num_tokens)
            span.set_attribute(
                "gen_ai.usage.output_tokens", sum(choice.num_output_tokens for choice in choices)
            )
            span.set_attribute("glm.image_tokens", prompt.num_image_tokens)
            span.set_attribute("glm.cached_tokens", choices[0].num_cached)
        if isinstance(outcome, str):
            span.set_attribute("gen_ai.response.finish_reasons", [outcome])
        else:
            span.set_attribute("error.type", type(outcome).__name__)
            if not isinstance(outcome, InvalidRequest | RequestCancelled):  # caused by the client
                span.set_status(trace.StatusCode.ERROR)
        self._add_parts(span, whole, epoch)

    def shut_down(self) -> None:
        """Flush pending spans."""
        otel.shut_down(self._provider)

    def _add_parts(self, span: trace.Span, stage: Stage, epoch: int) -> None:
        inside = trace.set_span_in_context(span)
        for part in stage.parts:
            start = epoch + _nanoseconds(part.began)
            self._add_parts(
                self._tracer.start_span(part.name, context=inside, start_time=start), part, epoch
            )
        span.end(epoch + _nanoseconds(stage.ended))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
