"""Restarts what dies or hangs; within Triton only the faulty model, if possible."""

import asyncio
import itertools
import logging
from typing import NoReturn

import httpx2

from launcher.errors import LaunchError
from launcher.processes import is_alive
from launcher.services import TritonService
from launcher.settings import LauncherSettings
from launcher.status import PARTS, Status
from launcher.supervisor import Service, Supervisor, first, log_error
from launcher.triton import ADMIN_HEADER
from launcher.watch import Backoff, Fault

# Maximum number of consecutive failed starts after a successful one.
MAX_FAILED_STARTS = 5


async def keep(service: Service, start_timeout: float, log: logging.Logger) -> NoReturn:
    """Restart a running service after every fault.

    Raises:
        LaunchError: several consecutive starts failed.
    """
    backoff = Backoff()
    while True:
        fault = await service.fault()
        log_error(log, f"{fault}; restarting it")
        await service.clear()
        await start_again(service, backoff, start_timeout, log)


async def start_again(
    service: Service, backoff: Backoff, start_timeout: float, log: logging.Logger
) -> None:
    """Start a service, with retries.

    Raises:
        LaunchError: all attempts failed.
    """
    for attempt in itertools.count(1):
        await asyncio.sleep(backoff.next())
        try:
            async with asyncio.timeout(start_timeout):
                await service.start()
            backoff.started()
            return
        except (LaunchError, TimeoutError) as error:
            log_error(log, str(error) or f"{service.name} did not start in time")
            if attempt == MAX_FAILED_STARTS:
                raise LaunchError(f"gave up after {attempt} attempts") from error
            await service.clear()


class TritonRecovery:
    """Keeps Triton and its models running.

    Args:
        admin_key: key for Triton's administrative APIs.
    """

    def __init__(
        self,
        triton: TritonService,
        supervisor: Supervisor,
        settings: LauncherSettings,
        log: logging.Logger,
        status: Status,
        admin_key: str,
    ) -> None:
        self._triton = triton
        self._supervisor = supervisor
        self._settings = settings
        self._log = log
        self._status = status
        self._admin_key = admin_key

    async def keep(self) -> NoReturn:
        """Recover from every fault.

        Raises:
            LaunchError: several consecutive starts failed.
        """
        backoff = Backoff()
        while True:
            fault = await first(self._triton.stages.fault(), self._triton.fault())
            await self.recover(fault, backoff)

    async def recover(self, fault: Fault, backoff: Backoff) -> None:
        """Recover from a fault; returns when all models are loaded again."""
        began = asyncio.get_running_loop().time()
        # Stage 1 can be reloaded while its requests wait. The streams of stage 2 are lost with its
        # process, and Triton would leave their clients waiting forever.
        is_reloaded = fault.part == "preprocessing" and await self._reload(fault, backoff)
        if not is_reloaded:
            log_error(self._log, f"{fault}; starting Triton again")
            self._status.report(PARTS, "restarting", _again(fault))
            await self._triton.clear()
            await start_again(self._triton, backoff, self._settings.start_timeout, self._log)
        self._status.clear()
        seconds = asyncio.get_running_loop().time() - began
        self._log.info("%s is back after %.1f s", fault.part, seconds)

    async def _reload(self, fault: Fault, backoff: Backoff) -> bool:
        """Reload a model of the running Triton; returns whether that succeeded."""
        if not is_alive(self._supervisor.children[self._triton.name].pid):
            return False
        log_error(self._log, f"{fault}; reloading it")
        self._status.report([fault.part], "restarting", _again(fault))
        url = f"{self._settings.triton_http_url}/v2/repository/models/{fault.part}"
        await asyncio.sleep(backoff.next())
        self._triton.stages.retire(fault.part)
        problem: str | Fault = await first(
            self._post_reload(url), self._worse_than(fault), self._triton.fault()
        )
        if problem:
            log_error(self._log, f"{fault.part}: Triton failed to reload it: {problem}")
            return False
        backoff.started()
        return True

    async def _post_reload(self, url: str) -> str:
        """Ask Triton to reload a model; returns the error, empty on success."""
        headers = {ADMIN_HEADER: self._admin_key}
        timeout = self._settings.start_timeout
        async with httpx2.AsyncClient(trust_env=False, headers=headers, timeout=timeout) as client:
            for verb in ("unload", "load"):
                try:
                    response = await client.post(f"{url}/{verb}")
                except httpx2.TransportError as error:
                    return f"{verb}: {error!r}"
                if response.status_code != 200:
                    return f"{verb}: {response.text}"
        return ""

    async def _worse_than(self, fault: Fault) -> Fault:
        """Returns when another model has a fault; further faults of the same model are logged."""
        while (other := await self._triton.stages.fault()).part == fault.part:
            log_error(self._log, str(other))
        return other


def _again(fault: Fault) -> str:
    return f"Being started again. {fault}."
