"""Starts and stops the server in order: ports, frontend, Triton with its models, smoke test.

The frontend comes first, so that ``/v1/health`` reports the progress of loading from the start.
"""

import asyncio
import errno
import logging
import os
import secrets
import signal
import socket
import tempfile
from pathlib import Path

import httpx2

from glm_frontend.variables import unknown_variables
from launcher import first_picture
from launcher.errors import Crashed, LaunchError
from launcher.recovery import TritonRecovery, keep
from launcher.services import FrontendService, PageService, TritonService
from launcher.settings import PORTS, LauncherSettings, variable
from launcher.status import PARTS, Status
from launcher.supervisor import Supervisor, cancelled, first, log_error
from launcher.triton import Triton, find_triton
from launcher.watch import Backoff

# Running requests need the later groups. The frontend is stopped at once, and finishes running
# requests, including those of the page.
STOP_ORDER = (("web", "frontend"), ("triton",))

FAILED, FORCED = 1, 130


async def serve(settings: LauncherSettings, log: logging.Logger) -> int:
    """Run the server until Ctrl-C or SIGTERM; restarts processes that die or hang.

    Returns the exit code: 0 after a stop, 1 after a failure (see the log), 130 after a stop forced
    by a second signal. No processes and no shared memory are left behind in any case.
    """
    for problem in unknown_variables():
        log.warning("%s", problem)
    try:
        check_ports(settings)
        with tempfile.TemporaryDirectory(prefix="glm-launcher-") as folder:
            run = Path(folder)
            return await _Run(settings, log, find_triton(run), run).run()
    except LaunchError as error:
        log_error(log, str(error))
        return FAILED


def check_ports(settings: LauncherSettings) -> None:
    """Raise LaunchError for all ports that cannot be bound, naming their settings."""
    problems = []
    for port_field in settings.ports:
        host_field = PORTS[port_field]
        host, port = getattr(settings, host_field), getattr(settings, port_field)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            problem = f"cannot bind port {port} of {host}: {os.strerror(error.errno or 0)}"
            if error.errno == errno.EADDRINUSE:
                problem = f"port {port} is taken by another program"
            problems.append(
                f"{problem} ({variable(port_field)}={port}, {variable(host_field)}={host})"
            )
    if problems:
        raise LaunchError("\n".join(problems))


class _Run:
    """One run of the server, from start to stop."""

    def __init__(
        self, settings: LauncherSettings, log: logging.Logger, triton: Triton, run: Path
    ) -> None:
        self._settings = settings
        self._log = log
        self._status = Status(run / "status.json")
        heartbeats = run / "heartbeats"
        heartbeats.mkdir()
        admin_key = secrets.token_hex(16)
        self._supervisor = supervisor = Supervisor(log)
        self._triton = TritonService(
            supervisor, settings, log, triton, self._status, heartbeats, admin_key
        )
        self._recovery = TritonRecovery(
            self._triton, supervisor, settings, log, self._status, admin_key
        )
        self._frontend = FrontendService(supervisor, settings, log, self._status)
        self._page = PageService(supervisor, settings)
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._signal = signal.SIGTERM

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, self._on_signal, number)
        work = asyncio.create_task(self._serve())
        stopped = asyncio.create_task(self._stop.wait())
        exit_code = 0
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                self._log.info("stopping (press Ctrl-C again to kill)")
        except LaunchError as error:
            exit_code = FAILED
            log_error(self._log, str(error))
        finally:
            await cancelled(work, stopped)
            self._stop.set()  # from here on, a signal forces the stop
            await self._supervisor.shut_down(STOP_ORDER, self._force, self._signal)
            self._log.info("stopped")
        return FORCED if self._force.is_set() else exit_code

    def _on_signal(self, number: signal.Signals) -> None:
        self._signal = signal.Signals(number)
        (self._force if self._stop.is_set() else self._stop).set()

    async def _serve(self) -> None:
        watching_regions = asyncio.create_task(self._supervisor.watch_regions())
        try:
            if self._settings.frontend:
                self._status.report(PARTS, "loading", "The model is being loaded.")
                await self._frontend.start()
            parts = [self._run_triton()]
            if self._settings.frontend:
                parts.append(keep(self._frontend, self._settings.start_timeout, self._log))
            if self._settings.frontend and self._settings.web:
                parts.append(self._run_page())
            await first(*parts)
        finally:
            watching_regions.cancel()

    async def _run_triton(self) -> None:
        """Start Triton, and keep it running."""
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                await self._start_triton_first()
                self._status.clear()
                if self._settings.frontend:
                    await self._show_first_picture()
        except TimeoutError:
            raise LaunchError(
                f"not ready in {self._settings.start_timeout:g} s ({variable('start_timeout')})"
            ) from None
        seconds = asyncio.get_running_loop().time() - started
        self._show_urls()
        self._log.info("ready after %.1f s; press Ctrl-C to stop", seconds)
        await self._recovery.keep()

    async def _start_triton_first(self) -> None:
        """Start Triton, retrying once after a crash; a model that fails to load ends the start.

        On a busy machine its Python backend occasionally aborts during startup
        (triton-inference-server/server#8882).
        """
        try:
            await self._triton.start()
        except Crashed as error:
            log_error(self._log, f"{error}\nstarting Triton again")
            await self._triton.clear()
            await self._triton.start()

    async def _run_page(self) -> None:
        """Start the web page, and keep it running; its failures do not stop the server."""
        while True:
            try:
                await self._page.start()
                self._log.info("web page ready url=%s", self._settings.web_url)
                await keep(self._page, self._settings.start_timeout, self._log)
            except LaunchError as error:
                log_error(self._log, f"web page failed, retrying later: {error}")
                await self._page.clear()
                await asyncio.sleep(Backoff.MOST_SECONDS)

    async def _show_first_picture(self) -> None:
        settings = self._settings
        # The frontend may still be waiting to reconnect to Triton.
        await self._supervisor.wait_ready(
            self._supervisor.children[self._triton.name],
            f"{settings.base_url}/v1/health",
            lambda: "a first answer",
        )
        headers = {}
        if settings.keys:
            headers["Authorization"] = f"Bearer {settings.keys[0].secret.get_secret_value()}"
        async with httpx2.AsyncClient(
            base_url=settings.base_url, headers=headers, timeout=None, trust_env=False
        ) as client:
            answer = await first_picture.ask(client, settings.served_model_name)
        self._log.info("smoke test passed: %s -> %s", first_picture.QUESTION, answer)

    def _show_urls(self) -> None:
        settings = self._settings
        page = f"  web page {settings.web_url}\n" if settings.web else ""
        api = (
            f"  API      {settings.base_url}/v1   documentation: {settings.base_url}/docs\n"
            f"  health   {settings.base_url}/v1/health\n"
        )
        triton = (
            f"  gRPC     {settings.triton_grpc_url}\n"
            f"  metrics  {settings.triton_metrics_url}/metrics"
        )
        if not settings.frontend:
            self._log.info("\n%s\n", triton)
            return
        example = first_picture.curl_command(
            settings.base_url, settings.served_model_name, with_key=bool(settings.keys)
        )
        triton += f" and {settings.base_url}/metrics"
        self._log.info("\n%s%s%s\n\nTry:\n\n%s\n", page, api, triton, example)
