"""Triton adapter of stage 2: only the life cycle of the model.

A request becomes a job (``glm_triton.tensors``), which the pipeline (``glm_triton.pipeline``) runs.
"""

import sys

# Before our own modules are imported: nothing is written into the model repository.
sys.dont_write_bytecode = True

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
from glm_triton.deployment import preprocessing_model
from glm_triton.jobs import Job
from glm_triton.metrics import Metrics
from glm_triton.pipeline import NUM_WORKERS, Pipeline
from glm_triton.stage_one import StageOne
from glm_triton.telemetry import Telemetry, configure_logging
from glm_triton.tensors import TritonClient, cancel_key, read_job

_METRICS_SECONDS = 0.25
_PROBE_SECONDS = 1.0
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
        self._forwarded_headers = config.forwarded_headers
        name, version = args["model_name"], args["model_version"]
        stage_one = StageOne(preprocessing_model(args["model_config"]), int(version))
        self._telemetry = Telemetry()
        self._heartbeat = Heartbeat(name, workers=NUM_WORKERS)
        try:
            self._pipeline = Pipeline(
                config,
                lambda on_outputs: Engine(config, on_outputs, self._heartbeat),
                stage_one.infer,
                self._ended,
                self._heartbeat,
            )
            # What is loaded together with this model has had time to load.
            stage_one.wait(name)
        except Exception:  # no fault of a process that serves, for which it would be taken
            self._heartbeat.end()
            raise
        self._metrics = Metrics(name, version, self._pipeline.engine.info)
        self._stopped = threading.Event()
        self._publisher = threading.Thread(target=self._run_publisher, name="metrics", daemon=True)
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
            try:
                if (key := cancel_key(triton_request)) is not None:
                    self._pipeline.cancel(key)
                    client.end()
                    continue
                self._pipeline.accept(
                    read_job(
                        triton_request,
                        client,
                        self._pipeline.engine.defaults,
                        self._forwarded_headers,
                    )
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
                self._metrics.count_finished(EngineFailure.finish_reason)
                client.fail(EngineFailure("the request could not be read"))

    def finalize(self) -> None:
        """Let running requests finish for a grace period, fail the rest, join all threads."""
        self._pipeline.stop()
        self._stopped.set()
        self._publisher.join()
        self._publish(is_last=True)
        self._telemetry.shut_down()
        self._heartbeat.end()

    def _ended(self, job: Job, finish_reason: str, error: GenerationError | None) -> None:
        self._metrics.count_finished(finish_reason)
        self._telemetry.ended(job, finish_reason, error)

    def _run_publisher(self) -> None:
        trimmed = probed = time.monotonic()
        while not self._stopped.wait(_METRICS_SECONDS):
            if time.monotonic() - trimmed >= _TRIM_SECONDS:
                trim_heap()
                trimmed = time.monotonic()
            if time.monotonic() - probed >= _PROBE_SECONDS:
                self._pipeline.preprocessing.probe()
                probed = time.monotonic()
            self._publish()

    def _publish(self, *, is_last: bool = False) -> None:
        try:
            pipeline = self._pipeline
            self._metrics.publish(
                pipeline.engine.stats, pipeline.num_jobs, pipeline.preprocessing.seconds
            )
            if is_last:
                self._metrics.end()
        except Exception:  # keep the thread alive for the next attempt
            logger.exception("publishing metrics failed")
