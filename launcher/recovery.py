"""What dies or hangs is started again; of Triton only the model with the fault, if that works."""

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

# Starts in a row that may fail, once there was one that did not.
MAX_FAILED_STARTS = 5


async def keep(service: Service, start_timeout: float, log: logging.Logger) -> NoReturn:
    """Start a service that runs again whenever it has a fault.

    Raises:
        LaunchError: it could not be started several times in a row.
    """
    backoff = Backoff()
    while True:
        fault = await service.fault()
        log_error(log, f"{fault}; starting it again")
        await service.clear()
        await start_again(service, backoff, start_timeout, log)


async def start_again(
    service: Service, backoff: Backoff, start_timeout: float, log: logging.Logger
) -> None:
    """Start a service until it runs.

    Raises:
        LaunchError: after some attempts.
    """
    for attempt in itertools.count(1):
        await asyncio.sleep(backoff.next())
        try:
            async with asyncio.timeout(start_timeout):
                await service.start()
            backoff.started()
            return
        except (LaunchError, TimeoutError) as error:
            log_error(log, str(error) or "it did not start in time")
            if attempt == MAX_FAILED_STARTS:
                raise LaunchError(f"gave up after {attempt} attempts") from error
            await service.clear()


class TritonRecovery:
    """Keeps Triton and its models.

    Args:
        admin_key: what Triton asks for before it unloads or loads a model.
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
        """For as long as the server runs.

        Raises:
            LaunchError: it could not be started several times in a row.
        """
        backoff = Backoff()
        while True:
            fault = await first(self._triton.stages.fault(), self._triton.fault())
            await self.recover(fault, backoff)

    async def recover(self, fault: Fault, backoff: Backoff) -> None:
        """Repair a fault; returns when all models are loaded again."""
        began = asyncio.get_running_loop().time()
        # Stage 1 can be loaded again, and its requests wait for it. The process of stage 2 takes
        # its streams with it, whose clients Triton would leave waiting for ever.
        loaded_again = fault.part == "preprocessing" and await self._load_again(fault, backoff)
        if not loaded_again:
            log_error(self._log, f"{fault}; starting Triton again")
            self._status.tell(PARTS, "restarting", _again(fault))
            await self._triton.clear()
            await start_again(self._triton, backoff, self._settings.start_timeout, self._log)
        self._status.clear()
        seconds = asyncio.get_running_loop().time() - began
        self._log.info("%s is back after %.1f s", fault.part, seconds)

    async def _load_again(self, fault: Fault, backoff: Backoff) -> bool:
        """Unload and load a model of the running Triton; returns whether that worked."""
        if not is_alive(self._supervisor.children[self._triton.name].pid):
            return False
        log_error(self._log, f"{fault}; loading it again")
        self._status.tell([fault.part], "restarting", _again(fault))
        url = f"{self._settings.triton_http_url}/v2/repository/models/{fault.part}"
        await asyncio.sleep(backoff.next())
        self._triton.stages.retire(fault.part)
        problem: str | Fault = await first(
            self._ask_to_load_again(url), self._worse_than(fault), self._triton.fault()
        )
        if problem:
            log_error(self._log, f"{fault.part}: Triton did not load it again: {problem}")
            return False
        backoff.started()
        return True

    async def _ask_to_load_again(self, url: str) -> str:
        """Returns why it did not work; empty when it did."""
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
        """Returns when another model has a fault. Others of the same model end with it."""
        while (other := await self._triton.stages.fault()).part == fault.part:
            log_error(self._log, str(other))
        return other


def _again(fault: Fault) -> str:
    return f"Being started again. {fault}."
