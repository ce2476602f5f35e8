"""Triton adapter of stage 2: Triton's life cycle, and nothing else.

A request becomes a job (``glm_triton.tensors``), which goes its way (``glm_triton.pipeline``).
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
from glm_triton.pipeline import NUM_BEATS, Pipeline
from glm_triton.telemetry import Telemetry, configure_logging
from glm_triton.tensors import TritonClient, cancel_key, infer_stage_one, read_job

_METRICS_SECONDS = 0.25
_TRIM_SECONDS = 30.0

logger = logging.getLogger("generation")


class TritonPythonModel:
    """Decoupled: zero or more responses for each request, then one that is final."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and start the threads; what fails here fails the load, in plain words."""
        config = EngineConfig.from_env()
        configure_logging(config)
        for problem in unknown_variables():
            logger.warning("%s", problem)
        self._telemetry = Telemetry()
        self._heartbeat = Heartbeat(args["model_name"], workers=NUM_BEATS)
        self._pipeline = Pipeline(
            config,
            lambda on_outputs: Engine(config, on_outputs, self._heartbeat),
            infer_stage_one,
            self._ended,
            self._heartbeat,
        )
        self._metrics = Metrics()
        self._stopped = threading.Event()
        self._publisher = threading.Thread(target=self._publish, name="metrics", daemon=True)
        # What is there now stays; the garbage collector need not look at it ever again.
        gc.collect()
        gc.freeze()
        self._pipeline.start()
        self._publisher.start()

    def is_ready(self) -> bool:
        """Whether requests are answered (asked by Triton 26.03 and later)."""
        return self._pipeline.is_alive and self._publisher.is_alive()

    def execute(self, requests: list[Any]) -> None:
        """Take requests over. Nothing here waits."""
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
                    "request %(request_id)s could not be read",
                    {"request_id": triton_request.request_id()},
                )
                client.fail(EngineFailure("the request could not be read"))

    def finalize(self) -> None:
        """Let live requests finish for a while, fail the rest, and end every thread."""
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
            except Exception:  # numbers that come later are no reason to have none
                logger.exception("metrics could not be published")
