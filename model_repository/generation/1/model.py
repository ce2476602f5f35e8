"""Triton adapter of stage 2: only the life cycle of the model.

A request becomes a job (``glm_triton.tensors``), which the pipeline (``glm_triton.pipeline``) runs.
"""

import gc
import logging
import threading
import time
from typing import Any

from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.errors import EngineFailure, GenerationError
from glm_engine.heap import trim_heap
from glm_engine.heartbeat import Heartbeat
from glm_engine.variables import unknown_variables
from glm_triton.jobs import Job
from glm_triton.metrics import Metrics
from glm_triton.pipeline import NUM_WORKERS, Pipeline
from glm_triton.telemetry import Telemetry, configure_logging
from glm_triton.tensors import TritonClient, cancel_key, infer_stage_one, read_job

_METRICS_SECONDS = 0.25
_TRIM_SECONDS = 30.0

logger = logging.getLogger("generation")


class TritonPythonModel:
    """Decoupled: any number of responses for each request, then a final one."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and start the threads; an error here fails the load with its message."""
        config = EngineConfig.from_env()
        configure_logging(config)
        for problem in unknown_variables():
            logger.warning("%s", problem)
        self._telemetry = Telemetry()
        self._heartbeat = Heartbeat(args["model_name"], workers=NUM_WORKERS)
        self._pipeline = Pipeline(
            config,
            lambda on_outputs: Engine(config, on_outputs, self._heartbeat),
            infer_stage_one,
            self._ended,
            self._heartbeat,
        )
        self._metrics = Metrics(self._pipeline.engine.info)
        self._stopped = threading.Event()
        self._publisher = threading.Thread(target=self._publish, name="metrics", daemon=True)
        # Existing objects live as long as the process; exclude them from garbage collection.
        gc.collect()
        gc.freeze()
        self._pipeline.start()
        self._publisher.start()

    def is_ready(self) -> bool:
        """Whether requests are answered (called by Triton 26.03 and later)."""
        return self._pipeline.is_alive and self._publisher.is_alive()

    def execute(self, requests: list[Any]) -> None:
        """Accept requests; does not block."""
        for triton_request in requests:
            client = TritonClient(triton_request)
            if (key := cancel_key(triton_request)) is not None:
                self._pipeline.cancel(key)
                client.end()
                continue
            try:
                self._pipeline.accept(
                    read_job(triton_request, client, self._pipeline.engine.defaults)
                )
            except GenerationError as error:
                self._metrics.count_finished(error.finish_reason)
                logger.debug(
                    "refused request_id=%(request_id)s reason=%(reason)s",
                    {"request_id": triton_request.request_id(), "reason": type(error).__name__},
                )
                client.fail(error)
            except Exception:
                logger.exception(
                    "reading the request failed request_id=%(request_id)s",
                    {"request_id": triton_request.request_id()},
                )
                client.fail(EngineFailure("the request could not be read"))

    def finalize(self) -> None:
        """Let running requests finish for a grace period, fail the rest, join all threads."""
        self._pipeline.stop()
        self._stopped.set()
        self._publisher.join()
        self._telemetry.shut_down()
        self._heartbeat.end()

    def _ended(self, job: Job, finish_reason: str, error: GenerationError | None) -> None:
        self._metrics.count_finished(finish_reason)
        self._telemetry.ended(job, finish_reason, error)

    def _publish(self) -> None:
        trimmed = time.monotonic()
        while not self._stopped.wait(_METRICS_SECONDS):
            if time.monotonic() - trimmed >= _TRIM_SECONDS:
                trim_heap()
                trimmed = time.monotonic()
            try:
                pipeline = self._pipeline
                self._metrics.publish(
                    pipeline.engine.stats, pipeline.num_jobs, pipeline.preprocessing.seconds
                )
            except Exception:  # keep the thread alive for the next attempt
                logger.exception("publishing metrics failed")
