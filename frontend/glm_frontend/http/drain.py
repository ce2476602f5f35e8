"""Stop without losing a request: first say so, then finish what is under way, then close.

On SIGTERM, which is how orchestrators stop a server, ``/v1/health`` turns 503 and further requests
are refused, each with ``Connection: close``, so that load balancers and clients go elsewhere while
the port is still open. On SIGINT (Ctrl-C) there is no such time. In both cases answers under way
may finish, up to a limit; what is left then ends with an error.
"""

import signal
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from glm_frontend.settings import Settings


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which drains before it exits.

    Args:
        app: notified by ``app.state.services.draining``.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._app = app
        self._settings = settings
        self._begun: float | None = None
        self._least_seconds = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at a second signal, stop at once."""
        if self._begun is not None:
            super().handle_exit(sig, frame)
            return
        self._begun = time.monotonic()
        if sig == signal.SIGTERM:
            self._least_seconds = self._settings.drain_seconds
        services = getattr(self._app.state, "services", None)
        if services is None:  # still starting: there is nothing to drain
            super().handle_exit(sig, frame)
        else:
            services.draining.set()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether to exit."""
        if self._begun is not None and not self.should_exit:
            seconds = time.monotonic() - self._begun
            idle = not self.server_state.tasks
            if seconds >= self._least_seconds and idle:
                self.should_exit = True
            elif seconds >= self._settings.graceful_timeout:
                await self._app.state.services.backend.aclose()  # ends every answer by an error
                self.should_exit = True
        return await super().on_tick(counter)
