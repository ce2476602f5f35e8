"""Spans of a request's stages, made when it has ended. Imported only where tracing is on."""

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
    """A part of a request's way. Times in seconds of ``time.monotonic()``; ``parts`` lie within."""

    name: str
    began: float
    ended: float
    parts: tuple["Stage", ...] = ()


def stages(preprocessing: float, choices: Sequence[Timeline], ended: float) -> tuple[Stage, ...]:
    """What a request came to, in order. What it was in when it ended, ended with it.

    Args:
        preprocessing: when that began; 0 for not at all.
        choices: of its answers, the one that computed the prompt first; none before the engine.
        ended: the request.
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
    """Sends spans of requests whose caller traces them."""

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
        """A request has ended.

        Args:
            trace_context: W3C ``traceparent`` of the caller's span.
            times: when it came, when its preprocessing began, and when it ended.
            choices: as of :func:`stages`.
            outcome: the finish reason of the last answer, or the error instead.
        """
        received, preprocessing, ended = times
        timelines = [choice.timeline for choice in choices]
        whole = Stage("generation", received, ended, stages(preprocessing, timelines, ended))
        # All parts of a trace have to tell the time alike; the engine counts from the boot.
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
                "gen_ai.usage.output_tokens", sum(len(choice.token_ids) for choice in choices)
            )
            span.set_attribute("glm.image_tokens", prompt.num_image_tokens)
            span.set_attribute("glm.cached_tokens", choices[0].num_cached)
        if isinstance(outcome, str):
            span.set_attribute("gen_ai.response.finish_reasons", [outcome])
        else:
            span.set_attribute("error.type", type(outcome).__name__)
            if not isinstance(outcome, InvalidRequest | RequestCancelled):  # the client's doing
                span.set_status(trace.StatusCode.ERROR)
        self._add_parts(span, whole, epoch)

    def shut_down(self) -> None:
        """Send what is left."""
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
