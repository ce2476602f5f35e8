"""The order of things: ports, Triton, its models, the frontend, a first picture; and back."""

import asyncio
import errno
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from launcher import first_picture
from launcher.errors import LaunchError
from launcher.processes import Child
from launcher.settings import PORTS, Settings, variable
from launcher.shm import RegionWatch
from launcher.triton import LoadProgress, Triton, find_triton, line_level, models_in

T = TypeVar("T")

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 5.0
REGION_SECONDS = 2.0
# Each part bounds its own stop; this long after that bound it is killed.
EXIT_GRACE = 10.0

FAILED, FORCED = 1, 130


async def serve(settings: Settings, log: logging.Logger) -> int:
    """Runs the server until Ctrl-C or SIGTERM, or until one of its processes ends.

    Returns the exit code: 0 after a stop, 1 when something failed (the log says what), 130 after a
    stop that a second signal forced. In every case no process and no shared memory of it is left.
    """
    try:
        check_ports(settings)
        with tempfile.TemporaryDirectory(prefix="glm-launcher-") as folder:
            return await _Server(settings, log).run(find_triton(Path(folder)))
    except LaunchError as error:
        log_error(log, str(error))
        return FAILED


def log_error(log: logging.Logger, text: str) -> None:
    """Logs each line as an error of its own, so that each carries the prefix of the log."""
    for line in text.splitlines():
        log.error("%s", line)


def check_ports(settings: Settings) -> None:
    """Raises LaunchError with every port that cannot be bound, and the setting that changes it."""
    problems = []
    for port_field, host_field in PORTS.items():
        host, port = getattr(settings, host_field), getattr(settings, port_field)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            problem = f"port {port} of {host} cannot be used: {os.strerror(error.errno or 0)}"
            if error.errno == errno.EADDRINUSE:
                problem = f"port {port} is taken by another program"
            problems.append(
                f"{problem} ({variable(port_field)}={port}, {variable(host_field)}={host})"
            )
    if problems:
        raise LaunchError("\n".join(problems))


class _Stop(Exception):
    """The operator asked for an end."""


class _Server:
    def __init__(self, settings: Settings, log: logging.Logger) -> None:
        self._settings = settings
        self._log = log
        self._children: list[Child] = []
        self._regions = RegionWatch()
        self._admin_key = secrets.token_hex(16)
        self._stop = asyncio.Event()
        self._force = asyncio.Event()

    async def run(self, triton: Triton) -> int:
        exit_code = 0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, self._on_signal)
        watching_regions = asyncio.create_task(self._watch_regions())
        try:
            await self._start(triton)
            await self._unless_stopped(asyncio.Event().wait())
        except _Stop:
            self._log.info("stopping (Ctrl-C again kills)")
        except LaunchError as error:
            exit_code = FAILED
            log_error(self._log, str(error))
        finally:
            watching_regions.cancel()
            await self._shut_down()
        return FORCED if self._force.is_set() else exit_code

    def _on_signal(self) -> None:
        (self._force if self._stop.is_set() else self._stop).set()

    async def _start(self, triton: Triton) -> None:
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                await self._start_triton(triton)
                await self._start_frontend()
        except TimeoutError:
            raise LaunchError(
                f"not ready in {self._settings.start_timeout:g} s ({variable('start_timeout')})"
            ) from None
        seconds = asyncio.get_running_loop().time() - started
        self._show_urls()
        self._log.info("ready after %.1f s; Ctrl-C stops", seconds)

    async def _start_triton(self, triton: Triton) -> None:
        settings = self._settings
        progress = LoadProgress(models_in(settings.model_repository))

        def read_line(line: str) -> int:
            progress.read(line)
            return line_level(line)

        self._log.info("starting %s, model %s", triton.origin, settings.model)
        environment = {**os.environ, **triton.environment, variable("model"): settings.model}
        environment.pop(variable("api_keys"), None)  # the frontend's secret only
        command = triton.command(settings, self._admin_key)
        self._children.append(
            await Child.start(
                "triton",
                command,
                environment,
                settings.triton_exit_timeout + EXIT_GRACE,
                read_line,
            )
        )
        try:
            async with httpx2.AsyncClient(trust_env=False) as client:
                url = f"{settings.triton_http_url}/v2/health/ready"
                await self._unless_stopped(self._answers(client, url, lambda: str(progress)))
        except LaunchError:
            if not progress.failures:
                raise
            raise LaunchError(
                "\n".join(
                    f"the model '{model}' could not be loaded: {reason}"
                    for model, reason in progress.failures.items()
                )
            ) from None

    async def _start_frontend(self) -> None:
        settings = self._settings
        self._log.info("starting the frontend")
        environment = {**os.environ, variable("triton_url"): settings.triton_grpc_url}
        command = [sys.executable, "-m", "glm_frontend"]
        self._children.append(
            await Child.start(
                "frontend", command, environment, settings.graceful_timeout + EXIT_GRACE
            )
        )
        headers = {}
        if settings.api_keys:
            headers["Authorization"] = f"Bearer {settings.api_keys[0].get_secret_value()}"
        async with httpx2.AsyncClient(
            base_url=settings.base_url, headers=headers, timeout=None, trust_env=False
        ) as client:
            await self._unless_stopped(self._answers(client, "/v1/health", lambda: "frontend"))
            answer = await self._unless_stopped(
                first_picture.ask(client, settings.served_model_name)
            )
        self._log.info("a first picture: %s -> %s", first_picture.QUESTION, answer)

    def _show_urls(self) -> None:
        settings = self._settings
        self._log.info(
            "\n  API      %s/v1   documentation: %s/docs\n  health   %s/v1/health\n"
            "  gRPC     %s\n  metrics  %s/metrics\n\nTry:\n\n%s\n",
            *(settings.base_url,) * 3,
            settings.triton_grpc_url,
            settings.triton_metrics_url,
            first_picture.curl_command(
                settings.base_url, settings.served_model_name, with_key=bool(settings.api_keys)
            ),
        )

    async def _answers(
        self, client: httpx2.AsyncClient, url: str, progress: Callable[[], str]
    ) -> None:
        """Returns when `url` answers 200; says every few seconds what it waits for."""
        loop = asyncio.get_running_loop()
        start = told = loop.time()
        while True:
            try:
                if (await client.get(url, timeout=5)).status_code == 200:
                    return
            except httpx2.TransportError:
                pass  # it does not listen yet
            if loop.time() - told >= PROGRESS_SECONDS:
                told = loop.time()
                self._log.info("waiting for: %s (%.0f s)", progress(), told - start)
            await asyncio.sleep(POLL_SECONDS)

    async def _unless_stopped(self, step: Coroutine[Any, Any, T]) -> T:
        """The step's result; raises _Stop on a signal and LaunchError when a process ends."""
        task, stopped = asyncio.create_task(step), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait(
                {task, stopped, *(child.ended for child in self._children)},
                return_when=asyncio.FIRST_COMPLETED,
            )
            if stopped.done():
                raise _Stop
            for child in self._children:
                if child.ended.done():
                    tail = "".join(f"\n  {line}" for line in child.tail)
                    raise LaunchError(
                        f"{child.name} has ended ({child.exit_words}); its last lines:{tail}"
                    )
            return task.result()
        finally:
            stopped.cancel()
            task.cancel()

    async def _watch_regions(self) -> None:
        while True:
            await asyncio.sleep(REGION_SECONDS)
            self._sample_regions()

    def _sample_regions(self) -> None:
        # A generator: /proc is only read when there is an unknown region.
        self._regions.sample(pid for child in self._children for pid in child.session_pids())

    async def _shut_down(self) -> None:
        """Ends all processes, the last started first, and clears what they left in /dev/shm."""
        self._stop.set()  # from here on, a signal forces
        self._sample_regions()
        for child in reversed(self._children):
            if not child.ended.done():
                self._log.info("stopping %s", child.name)
            await child.stop(self._force)
        for name in self._regions.remove_leftovers():
            self._log.info("removed shared memory that Triton left: %s", name)
        self._log.info("stopped")
