"""The path of a job: admission, stage 1, the engine, the responder. Independent of Triton.

Threads:

* the caller of ``accept`` (Triton's thread) only admits and enqueues the job;
* some threads request the prompt from stage 1 and pass it to the engine (``preprocessing``);
* the engine's thread runs the model and puts outputs into the responder's outbox;
* the responder's thread sends all responses.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.errors import GenerationError
from glm_engine.heartbeat import Heartbeat
from glm_engine.request import Output
from glm_engine.tenant_cache import CacheScope
from glm_triton.admission import Admission
from glm_triton.jobs import Job
from glm_triton.preprocessing import Infer, Preprocessing
from glm_triton.responder import OnEnd, Responder

# Workers of the heartbeat: the engine's thread is 0, the responder's thread is 1.
RESPONDER_WORKER, NUM_WORKERS = 1, 2
_DRAIN_SECONDS = 20.0

CreateEngine = Callable[[Callable[[Sequence[Output]], None]], Engine]

logger = logging.getLogger("generation")


class Pipeline:
    """Accepts jobs, and ensures that each is answered exactly once.

    Args:
        create_engine: receives the callback for the outputs of the engine.
        infer: calls stage 1; see :class:`glm_triton.preprocessing.Preprocessing`.
        on_end: called for each answered job; must not raise. See
            :class:`glm_triton.responder.Responder`.
    """

    def __init__(
        self,
        config: EngineConfig,
        create_engine: CreateEngine,
        infer: Infer,
        on_end: OnEnd,
        heartbeat: Heartbeat,
    ) -> None:
        self._on_end = on_end
        self._divides_caches = config.cache_sharing == "tenant"
        self._heartbeat = heartbeat
        self.engine = create_engine(self._take_outputs)
        config = replace(config, max_num_seqs=self.engine.max_num_seqs)
        self._admission = Admission(config, self.engine.stats)
        self._responder = Responder(
            self.engine, self._admission.pace, self._end, heartbeat, RESPONDER_WORKER
        )
        self.preprocessing = Preprocessing(
            self.engine, self._admission, infer, self._responder.fail
        )
        self._thread = threading.Thread(target=self._respond, name="responses", daemon=True)

    @property
    def num_jobs(self) -> int:
        """Number of jobs that are not answered yet."""
        return self._responder.num_jobs

    @property
    def is_alive(self) -> bool:
        """Whether jobs are answered."""
        is_alive = self.engine.is_alive and self._thread.is_alive()
        return is_alive and self.preprocessing.is_available

    def start(self) -> None:
        """Start all threads."""
        self.engine.start()
        self._thread.start()
        self.preprocessing.start()

    def accept(self, job: Job) -> None:
        """Accept a job; does not block.

        Raises:
            GenerationError: it is rejected; nothing has been sent to its client.
        """
        job.scope = CacheScope.of(job.tenant, job.cache_salt, divided=self._divides_caches)
        self._admission.admit(job, is_idle=self.preprocessing.is_idle)
        self._responder.open(job)
        self.preprocessing.put(job)

    def cancel(self, cancel_key: bytes) -> None:
        """Cancel the job with this key, if there is any."""
        if job := self._admission.by_cancel_key(cancel_key):
            self._responder.cancel(job)

    def stop(self) -> None:
        """Let running jobs finish for a grace period, fail the rest, join all threads."""
        self.preprocessing.close()
        self.engine.stop(timeout=_DRAIN_SECONDS)
        self.preprocessing.join()
        self._responder.stop()
        self._thread.join()

    def _take_outputs(self, outputs: Sequence[Output]) -> None:
        self._responder.take_outputs(outputs)

    def _end(self, job: Job, finish_reason: str, error: GenerationError | None) -> None:
        self._admission.release(job)
        self._on_end(job, finish_reason, error)

    def _respond(self) -> None:
        try:
            self._responder.run()
        except Exception:  # without this thread nothing gets answered
            logger.exception("responder thread failed")
            self._heartbeat.fail()
