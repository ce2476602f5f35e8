"""Triton, the frontend and the page: how each is started and monitored."""

import logging
import sys
from pathlib import Path

from launcher.errors import LaunchError
from launcher.settings import LauncherSettings, variable
from launcher.status import Status
from launcher.supervisor import Supervisor, environment
from launcher.triton import LoadProgress, Triton, line_level, models_in
from launcher.watch import Fault, StageWatch

# Settings that are passed to the frontend only.
SECRETS = ("api_keys", "api_keys_file")


class TritonService:
    """Triton with its models.

    Args:
        admin_key: key for Triton's administrative APIs.
        heartbeats: folder for the heartbeats of its Python processes.
    """

    name = "triton"

    def __init__(
        self,
        supervisor: Supervisor,
        settings: LauncherSettings,
        log: logging.Logger,
        triton: Triton,
        status: Status,
        heartbeats: Path,
        admin_key: str,
    ) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._log = log
        self._triton = triton
        self._status = status
        self._heartbeats = heartbeats
        self._admin_key = admin_key
        self.stages = StageWatch(
            heartbeats,
            {
                "generation": settings.step_timeout,
                "preprocessing": settings.preprocessing_timeout,
            },
        )

    async def start(self) -> None:
        """Returns when all models are loaded."""
        settings = self._settings
        progress = LoadProgress(models_in(settings.model_repository))

        def read_line(line: str) -> int:
            progress.read(line)
            return line_level(line)

        self._log.info("starting %s model=%s", self._triton.origin, settings.model)
        variables = {
            **environment(),
            **self._triton.environment,
            variable("model"): settings.model,
            variable("heartbeats"): str(self._heartbeats),
        }
        for secret in SECRETS:
            variables.pop(variable(secret), None)
        triton = await self._supervisor.spawn(
            "triton",
            self._triton.command(settings, self._admin_key),
            variables,
            settings.triton_exit_timeout,
            read_line,
        )
        try:
            await self._supervisor.wait_ready(
                triton,
                f"{settings.triton_http_url}/v2/health/ready",
                lambda: str(progress),
                lambda: self._status.report_progress(f"Progress: {progress}."),
            )
        except LaunchError:
            if not progress.failures:
                raise
            raise LaunchError(
                "\n".join(
                    f"the model '{model}' could not be loaded: {reason}"
                    for model, reason in progress.failures.items()
                )
            ) from None

    async def fault(self) -> Fault:
        """Returns when Triton itself has exited or does not respond."""
        url = f"{self._settings.triton_http_url}/v2/health/live"
        return await self._supervisor.fault(self.name, url, self._settings.probe_timeout)

    async def clear(self) -> None:
        """Kill Triton and all its processes, and clean up after them."""
        self._supervisor.sample_regions()
        await self._supervisor.kill(self.name)
        self._supervisor.remove_regions()
        self.stages.forget()


class FrontendService:
    """The frontend."""

    name = "frontend"

    def __init__(
        self,
        supervisor: Supervisor,
        settings: LauncherSettings,
        log: logging.Logger,
        status: Status,
    ) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._log = log
        self._status = status
        self._alive_url = f"{settings.base_url}/v1/health/live"

    async def start(self) -> None:
        """Returns when it responds."""
        settings = self._settings
        self._log.info("starting the frontend")
        variables = {
            **environment(),
            variable("triton_url"): settings.triton_grpc_url,
            variable("status_file"): str(self._status.path),
        }
        frontend = await self._supervisor.spawn(
            self.name,
            [sys.executable, "-m", "glm_frontend"],
            variables,
            max(settings.graceful_timeout, settings.drain_seconds),
        )
        await self._supervisor.wait_ready(frontend, self._alive_url, lambda: "frontend")

    async def fault(self) -> Fault:
        """Returns when it has exited or does not respond."""
        limit = self._settings.probe_timeout
        return await self._supervisor.fault(self.name, self._alive_url, limit)

    async def clear(self) -> None:
        """Kill it."""
        await self._supervisor.kill(self.name)


class PageService:
    """The server of the web page."""

    name = "web"

    def __init__(self, supervisor: Supervisor, settings: LauncherSettings) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._alive_url = f"{settings.web_url}/limits.json"

    async def start(self) -> None:
        """Returns when it responds."""
        settings = self._settings
        variables = {**environment(), variable("web_api_url"): settings.base_url}
        for secret in SECRETS:
            variables.pop(variable(secret), None)
        page = await self._supervisor.spawn(
            self.name, [sys.executable, "-m", "glm_web"], variables, settings.graceful_timeout
        )
        await self._supervisor.wait_ready(page, self._alive_url, lambda: "the web page")

    async def fault(self) -> Fault:
        """Returns when it has exited or does not respond."""
        limit = self._settings.probe_timeout
        return await self._supervisor.fault(self.name, self._alive_url, limit)

    async def clear(self) -> None:
        """Kill it, if it has been started."""
        if self.name in self._supervisor.children:
            await self._supervisor.kill(self.name)
