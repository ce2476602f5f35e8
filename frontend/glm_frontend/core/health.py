"""Whether a request could be answered now.

Triton goes on saying "ready" after the process of a stage died, so only an answer is proof: that of
a real request a moment ago, or else of a tiny one made for this.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from glm_client import (
    DeadlineExceededError,
    GLMError,
    OverloadedError,
    UnavailableError,
)
from glm_client.wire import MODEL_NAME, STAGES
from glm_frontend.core.backend import Backend
from glm_frontend.core.model_info import TINY_REQUEST, ModelInfo

FRESH_SECONDS = 2.0
PROBE_TIMEOUT = 5.0
TRITON = "triton"

PartState = Literal["ok", "loading", "restarting", "failed", "overloaded", "unreachable"]


class Health(BaseModel):
    """Whether a request could be answered now."""

    status: Literal["ok", "full", "unavailable", "draining"] = Field(
        description="`full`: requests are answered, and further ones refused for a moment."
    )
    checks: dict[str, PartState] = Field(
        description="The state of each part that an answer needs: `triton` (the server), "
        "`preprocessing` and `generation` (its two models)."
    )
    message: str


class HealthProbe:
    """Checks the backend, at most once in ``FRESH_SECONDS`` and once at a time.

    Args:
        status_file: the launcher's; while it is there, parts are being started.
        info: notified of what an answer says of the model.
    """

    def __init__(
        self,
        backend: Backend,
        status_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        info: ModelInfo | None = None,
    ) -> None:
        self._backend = backend
        self._info = info or ModelInfo(backend)
        self._status_file = status_file
        self._clock = clock
        self._last_success = float("-inf")
        self._last_failure = float("-inf")
        self._failure = _healthy()
        self._report: Health | None = None
        self._reported = float("-inf")
        self._was_live = False
        self._running: asyncio.Task[Health] | None = None

    def note_success(self) -> None:
        """A real request just got a piece of its answer."""
        self._last_success = self._clock()

    def note_failure(self, error: UnavailableError) -> None:
        """A real request just found a part missing.

        It weighs more than a success: of several processes of a stage one may be dead, and then
        only some requests fail.
        """
        self._last_failure = self._clock()
        self._failure = _failed(error, "A request")

    async def check(self) -> Health:
        """The state now, or as of a moment ago."""
        if (told := self.told()) is not None:
            return told
        if self._is_fresh(self._last_failure):
            return self._failure
        if self._is_fresh(self._last_success):
            return _healthy()
        if self._report is not None and self._is_fresh(self._reported):
            return self._report
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        # Shielded: the caller's leaving must not end the check of the others.
        return await asyncio.shield(self._running)

    def told(self) -> Health | None:
        """What the launcher says while parts are being started; None when all run."""
        if self._status_file is None:
            return None
        try:
            status = json.loads(self._status_file.read_bytes())
        except FileNotFoundError:
            return None
        # What failed meanwhile says nothing about what will have been started again.
        self._last_failure = self._reported = float("-inf")
        return _unhealthy(status["checks"], status["message"])

    def _is_fresh(self, moment: float) -> bool:
        return self._clock() - moment < FRESH_SECONDS

    async def _run(self) -> Health:
        try:
            self._report = await self._probe()
            self._reported = self._clock()
            return self._report
        finally:
            self._running = None

    async def _probe(self) -> Health:
        try:
            async with asyncio.timeout(2 * PROBE_TIMEOUT):
                return await self._ask()
        except TimeoutError:
            return _unhealthy(
                dict.fromkeys((TRITON, *STAGES), "unreachable"), "Triton does not answer."
            )

    async def _ask(self) -> Health:
        if not await self._backend.server_live():
            # Triton opens its port when its models are loaded, not before.
            state: PartState = "unreachable" if self._was_live else "loading"
            return _unhealthy(
                dict.fromkeys((TRITON, *STAGES), state),
                "Triton cannot be reached: it is loading the models, or not running.",
            )
        self._was_live = True
        ready = await self._backend.models_ready()
        if missing := [stage for stage in STAGES if not ready.get(stage)]:
            return _unhealthy(
                dict.fromkeys(missing, "loading"), f"Not loaded yet: {', '.join(missing)}."
            )
        try:
            answers = await self._backend.generate_choices(TINY_REQUEST, timeout=PROBE_TIMEOUT)
        except OverloadedError:
            return Health(
                status="full",
                checks=_checks({MODEL_NAME: "overloaded"}),
                message="The queue is full: further requests are refused for a moment.",
            )
        except DeadlineExceededError:
            return _unhealthy(
                {MODEL_NAME: "overloaded"}, f"A test request took more than {PROBE_TIMEOUT:g} s."
            )
        except GLMError as error:
            return _failed(error, "A test request")
        self._info.note(answers[0])
        return _healthy()


def _failed(error: GLMError, who: str) -> Health:
    named = error.stage if isinstance(error, UnavailableError) else None
    stage = named if named in STAGES else MODEL_NAME  # whose fault it is where none is named
    return _unhealthy({stage: "failed"}, f"{who} got no answer ({type(error).__name__}).")


def _healthy() -> Health:
    return Health(status="ok", checks=_checks({}), message="Requests are answered.")


def _unhealthy(states: dict[str, PartState], message: str) -> Health:
    return Health(status="unavailable", checks=_checks(states), message=message)


def _checks(states: dict[str, PartState]) -> dict[str, PartState]:
    parts: dict[str, PartState] = dict.fromkeys((TRITON, *STAGES), "ok")
    return parts | states
