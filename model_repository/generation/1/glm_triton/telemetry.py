"""Logs and traces of requests in stage 2. Independent of Triton."""

import logging
import time
from typing import TYPE_CHECKING

from glm_engine import otel
from glm_engine.config import EngineConfig
from glm_engine.errors import GenerationError
from glm_engine.json_log import JsonFormatter, TextFormatter
from glm_triton.jobs import Job

if TYPE_CHECKING:
    from glm_engine.tracing import RequestTracer

logger = logging.getLogger("generation")


def configure_logging(config: EngineConfig) -> None:
    """Write this process's log to stderr, as text or as JSON."""
    handler = logging.StreamHandler()
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("generation", "glm_engine"):  # libraries are too verbose at DEBUG
        logging.getLogger(name).setLevel(config.log_level.upper())


class Telemetry:
    """Logs each completed job, and traces it if OpenTelemetry is enabled."""

    def __init__(self) -> None:
        self._tracer = _create_tracer()

    def ended(self, job: Job, finish_reason: str, error: GenerationError | None) -> None:
        """Record a job after its last response, while it still has its choices."""
        ended = time.monotonic()
        fields = {
            "request_id": job.request_id,
            "finish_reason": finish_reason,
            "output_tokens": sum(choice.request.num_output_tokens for choice in job.choices),
            "duration_ms": round(1000 * (ended - job.received), 1),
        }
        if job.trace_context:
            fields["trace_id"] = job.trace_context.split("-")[1]
        logger.debug(" ".join(["ended", *(f"{name}=%({name})s" for name in fields)]), fields)
        if self._tracer is not None and job.trace_context:
            try:
                self._tracer.send(
                    job.trace_context,
                    job.request_id,
                    (job.received, job.taken, ended),
                    [choice.request for choice in job.choices],
                    finish_reason if error is None else error,
                )
            except Exception:  # a lost trace must not end the responder thread
                logger.exception("tracing failed request_id=%(request_id)s", fields)

    def shut_down(self) -> None:
        """Flush pending spans."""
        if self._tracer is not None:
            self._tracer.shut_down()


def _create_tracer() -> "RequestTracer | None":
    if not otel.is_on():
        return None
    from glm_engine.tracing import RequestTracer

    return RequestTracer()
