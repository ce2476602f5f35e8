"""The order of things: ports, the frontend, Triton, its models, a first picture; and back.

The frontend comes first, so that ``/v1/health`` tells from the start how far the loading is.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from glm_frontend.variables import LAUNCHED, unknown_variables
from launcher import first_picture
from launcher.errors import Crashed, LaunchError
from launcher.processes import Child, ReadLine, information, is_alive
from launcher.settings import PORTS, LauncherSettings, variable
from launcher.shm import RegionWatch
from launcher.status import PARTS, Status
from launcher.triton import (
    ADMIN_HEADER,
    LoadProgress,
    Triton,
    find_triton,
    line_level,
    models_in,
)
from launcher.watch import Backoff, Fault, StageWatch, unresponsive

T = TypeVar("T")

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 5.0
REGION_SECONDS = 2.0
# Each part bounds its own stop; this long after that bound it is killed.
EXIT_GRACE = 10.0

# Starts in a row that may fail, once there was one that did not.
MAX_FAILED_STARTS = 5

# A request under way needs those that come later. The frontend is told at once that it is to stop;
# it answers what is under way, that of the page, too.
STOP_ORDER = (("web", "frontend"), ("triton",))

FAILED, FORCED = 1, 130

# Settings that only the frontend is told.
SECRETS = ("api_keys", "api_keys_file")


async def serve(settings: LauncherSettings, log: logging.Logger) -> int:
    """Runs the server until Ctrl-C or SIGTERM. What dies or hangs is started again.

    Returns the exit code: 0 after a stop, 1 when something failed (the log says what), 130 after a
    stop that a second signal forced. In every case no process and no shared memory of it is left.
    """
    for problem in unknown_variables():
        log.warning("%s", problem)
    try:
        check_ports(settings)
        with tempfile.TemporaryDirectory(prefix="glm-launcher-") as folder:
            run = Path(folder)
            return await _Server(settings, log, find_triton(run), run).run()
    except LaunchError as error:
        log_error(log, str(error))
        return FAILED


def log_error(log: logging.Logger, text: str) -> None:
    """Logs each line as an error of its own, so that each carries the prefix of the log."""
    for line in text.splitlines():
        log.error("%s", line)


def _environment() -> dict[str, str]:
    """What every process that the launcher starts gets."""
    return {**os.environ, LAUNCHED: "true"}


def check_ports(settings: LauncherSettings) -> None:
    """Raises LaunchError with every port that cannot be bound, and the setting that changes it."""
    problems = []
    for port_field in settings.ports:
        host_field = PORTS[port_field]
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


class _Server:
    """Triton, the frontend and the web page, each started again when it dies or hangs."""

    def __init__(
        self, settings: LauncherSettings, log: logging.Logger, triton: Triton, run: Path
    ) -> None:
        self._settings = settings
        self._log = log
        self._triton = triton
        self._children: dict[str, Child] = {}
        self._starting: set[asyncio.Task[Child]] = set()
        self._regions = RegionWatch()
        self._admin_key = secrets.token_hex(16)
        self._status = Status(run / "status.json")
        self._heartbeats = run / "heartbeats"
        self._heartbeats.mkdir()
        self._stages = StageWatch(
            self._heartbeats,
            {
                "generation": settings.step_timeout,
                "preprocessing": settings.preprocessing_timeout,
            },
        )
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
                self._log.info("stopping (Ctrl-C again kills)")
        except LaunchError as error:
            exit_code = FAILED
            log_error(self._log, str(error))
        finally:
            await _cancelled(work, stopped)
            await self._shut_down()
        return FORCED if self._force.is_set() else exit_code

    def _on_signal(self, number: signal.Signals) -> None:
        self._signal = signal.Signals(number)
        (self._force if self._stop.is_set() else self._stop).set()

    async def _serve(self) -> None:
        watching_regions = asyncio.create_task(self._watch_regions())
        try:
            if self._settings.frontend:
                self._status.tell(PARTS, "loading", "The model is being loaded.")
                await self._start_frontend()
            parts = [self._run_triton()]
            if self._settings.frontend:
                parts.append(self._keep("frontend", self._start_frontend))
            if self._settings.frontend and self._settings.web:
                parts.append(self._run_web())
            await _first(*parts)
        finally:
            watching_regions.cancel()

    async def _run_triton(self) -> None:
        """For as long as the server runs."""
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
        self._log.info("ready after %.1f s; Ctrl-C stops", seconds)
        await self._keep_triton()

    # ---- Triton ----

    async def _start_triton_first(self) -> None:
        """Start Triton, once more if it crashes; what cannot be loaded ends the start.

        On a busy machine its Python backend aborts now and then while it starts
        (triton-inference-server/server#8882).
        """
        try:
            await self._start_triton()
        except Crashed as error:
            log_error(self._log, f"{error}\nstarting Triton again")
            await self._clear_triton()
            await self._start_triton()

    async def _start_triton(self) -> None:
        """Returns when all models are loaded."""
        settings = self._settings
        progress = LoadProgress(models_in(settings.model_repository))

        def read_line(line: str) -> int:
            progress.read(line)
            return line_level(line)

        self._log.info("starting %s, model %s", self._triton.origin, settings.model)
        environment = {
            **_environment(),
            **self._triton.environment,
            variable("model"): settings.model,
            variable("heartbeats"): str(self._heartbeats),
        }
        for secret in SECRETS:
            environment.pop(variable(secret), None)
        triton = await self._spawn(
            "triton",
            self._triton.command(settings, self._admin_key),
            environment,
            settings.triton_exit_timeout,
            read_line,
        )
        try:
            await self._answers(
                triton,
                f"{settings.triton_http_url}/v2/health/ready",
                lambda: str(progress),
                lambda: self._status.tell_progress(f"So far: {progress}."),
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

    async def _keep_triton(self) -> None:
        """For as long as the server runs."""
        backoff = Backoff()
        while True:
            fault = await _first(self._stages.fault(), self._triton_fault())
            await self._recover(fault, backoff)

    async def _recover(self, fault: Fault, backoff: Backoff) -> None:
        began = asyncio.get_running_loop().time()
        # Stage 1 can be loaded again, and its requests wait for it. The process of stage 2 takes
        # its streams with it, whose clients Triton would leave waiting for ever.
        loaded_again = fault.part == "preprocessing" and await self._load_again(fault, backoff)
        if not loaded_again:
            log_error(self._log, f"{fault}; starting Triton again")
            self._status.tell(PARTS, "restarting", _again(fault))
            await self._clear_triton()
            await self._start_again(backoff, self._start_triton, self._clear_triton)
        self._status.clear()
        seconds = asyncio.get_running_loop().time() - began
        self._log.info("%s is back after %.1f s", fault.part, seconds)

    async def _load_again(self, fault: Fault, backoff: Backoff) -> bool:
        """Unload and load a model of the running Triton; returns whether that worked."""
        if not is_alive(self._children["triton"].pid):
            return False
        log_error(self._log, f"{fault}; loading it again")
        self._status.tell([fault.part], "restarting", _again(fault))
        url = f"{self._settings.triton_http_url}/v2/repository/models/{fault.part}"
        await asyncio.sleep(backoff.next())
        self._stages.retire(fault.part)
        problem: str | Fault = await _first(
            self._ask_to_load_again(url), self._worse_than(fault), self._triton_fault()
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
        while (other := await self._stages.fault()).part == fault.part:
            log_error(self._log, str(other))
        return other

    async def _triton_fault(self) -> Fault:
        """Returns when Triton itself has ended, or does not answer."""
        url = f"{self._settings.triton_http_url}/v2/health/live"
        return await _first(
            _end_of(self._children["triton"]),
            unresponsive("triton", url, self._settings.probe_timeout),
        )

    async def _clear_triton(self) -> None:
        """Kill Triton and all its processes, and remove what they leave."""
        self._sample_regions()
        await self._children["triton"].kill()
        self._regions.remove_leftovers()
        self._stages.forget()

    # ---- the frontend and the web page ----

    async def _start_frontend(self) -> None:
        """Returns when it answers."""
        settings = self._settings
        self._log.info("starting the frontend")
        environment = {
            **_environment(),
            variable("triton_url"): settings.triton_grpc_url,
            variable("status_file"): str(self._status.path),
        }
        command = [sys.executable, "-m", "glm_frontend"]
        frontend = await self._spawn(
            "frontend", command, environment, max(settings.graceful_timeout, settings.drain_seconds)
        )
        await self._answers(frontend, self._sign_of_life("frontend"), lambda: "frontend")

    async def _run_web(self) -> None:
        """For as long as the server runs, which does without the page where that cannot start."""
        while True:
            try:
                await self._start_web()
                self._log.info("the web page is at %s", self._settings.web_url)
                await self._keep("web", self._start_web)
            except LaunchError as error:
                log_error(self._log, f"the web page: {error}; trying again later")
                if "web" in self._children:
                    await self._children["web"].kill()
                await asyncio.sleep(Backoff.MOST_SECONDS)

    async def _start_web(self) -> None:
        """Returns when it answers."""
        settings = self._settings
        environment = {**_environment(), variable("web_api_url"): settings.base_url}
        for secret in SECRETS:
            environment.pop(variable(secret), None)
        command = [sys.executable, "-m", "glm_web"]
        web = await self._spawn("web", command, environment, settings.graceful_timeout)
        await self._answers(web, self._sign_of_life("web"), lambda: "the web page")

    async def _keep(self, name: str, start: Callable[[], Awaitable[None]]) -> None:
        """For as long as the server runs."""
        backoff = Backoff()
        while True:
            fault = await _first(
                _end_of(self._children[name]),
                unresponsive(name, self._sign_of_life(name), self._settings.probe_timeout),
            )
            log_error(self._log, f"{fault}; starting it again")
            await self._children[name].kill()
            await self._start_again(backoff, start, lambda: self._children[name].kill())

    def _sign_of_life(self, name: str) -> str:
        """The URL that answers as long as the frontend, or the web page's server, runs."""
        if name == "web":
            return f"{self._settings.web_url}/limits.json"
        return f"{self._settings.base_url}/v1/health/live"

    async def _show_first_picture(self) -> None:
        settings = self._settings
        # The frontend may still wait a moment before it dials Triton again.
        await self._answers(
            self._children["triton"], f"{settings.base_url}/v1/health", lambda: "a first answer"
        )
        headers = {}
        if settings.keys:
            headers["Authorization"] = f"Bearer {settings.keys[0].secret.get_secret_value()}"
        async with httpx2.AsyncClient(
            base_url=settings.base_url, headers=headers, timeout=None, trust_env=False
        ) as client:
            answer = await first_picture.ask(client, settings.served_model_name)
        self._log.info("a first picture: %s -> %s", first_picture.QUESTION, answer)

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

    # ---- all ----

    async def _start_again(
        self,
        backoff: Backoff,
        start: Callable[[], Awaitable[None]],
        clear: Callable[[], Awaitable[None]],
    ) -> None:
        """Start a part until it runs. Raises LaunchError after some attempts."""
        for attempt in itertools.count(1):
            await asyncio.sleep(backoff.next())
            try:
                async with asyncio.timeout(self._settings.start_timeout):
                    await start()
                backoff.started()
                return
            except (LaunchError, TimeoutError) as error:
                log_error(self._log, str(error) or "it did not start in time")
                if attempt == MAX_FAILED_STARTS:
                    raise LaunchError(f"gave up after {attempt} attempts") from error
                await clear()

    async def _spawn(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        stop_timeout: float,
        read_line: ReadLine = information,
    ) -> Child:
        # A task of its own, for one that is cut off in the middle would leave an unknown process.
        starting = asyncio.create_task(
            Child.start(name, command, environment, stop_timeout + EXIT_GRACE, read_line)
        )
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        starting.add_done_callback(lambda task: self._note(name, task))
        try:
            return await asyncio.shield(starting)
        except OSError as error:  # no memory, no process, no file left
            raise LaunchError(f"{name} could not be started: {error}") from None

    def _note(self, name: str, starting: "asyncio.Task[Child]") -> None:
        if starting.exception() is None:
            self._children[name] = starting.result()

    async def _answers(
        self,
        child: Child,
        url: str,
        progress: Callable[[], str],
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Returns when `url` answers 200; says every few seconds what it waits for.

        `tell` is called all the time.

        Raises LaunchError when the child ends, Crashed when a signal ended it.
        """
        loop = asyncio.get_running_loop()
        start = told = loop.time()
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            while not child.ended.done():
                with contextlib.suppress(httpx2.TransportError):  # it does not listen yet
                    if (await client.get(url)).status_code == 200:
                        return
                if loop.time() - told >= PROGRESS_SECONDS:
                    told = loop.time()
                    self._log.info("waiting for: %s (%.0f s)", progress(), told - start)
                tell()
                await asyncio.wait({child.ended}, timeout=POLL_SECONDS)
        tail = "".join(f"\n  {line}" for line in child.tail)
        kind = Crashed if child.was_killed else LaunchError
        raise kind(f"{child.name} has ended ({child.exit_words}); its last lines:{tail}")

    async def _watch_regions(self) -> None:
        while True:
            await asyncio.sleep(REGION_SECONDS)
            self._sample_regions()

    def _sample_regions(self) -> None:
        # A generator: /proc is only read when there is an unknown region.
        self._regions.sample(
            pid for child in self._children.values() for pid in child.session_pids()
        )

    async def _shut_down(self) -> None:
        """Ends all processes, in order, and clears what they left in /dev/shm."""
        self._stop.set()  # from here on, a signal forces
        if self._starting:
            await asyncio.wait(self._starting)
        self._sample_regions()
        for names in STOP_ORDER:
            children = [self._children[name] for name in names if name in self._children]
            await asyncio.gather(*map(self._stop_child, children))
        for name in self._regions.remove_leftovers():
            self._log.info("removed shared memory that Triton left: %s", name)
        self._log.info("stopped")

    async def _stop_child(self, child: Child) -> None:
        if not child.ended.done():
            self._log.info("stopping %s", child.name)
        # At a Ctrl-C the frontend need not wait for load balancers to notice.
        interrupted = child.name == "frontend" and self._signal == signal.SIGINT
        await child.stop(self._force, signal.SIGINT if interrupted else signal.SIGTERM)


def _again(fault: Fault) -> str:
    return f"Being started again. {fault}."


async def _end_of(child: Child) -> Fault:
    await asyncio.wait({child.ended})
    return Fault(child.name, f"its process has ended ({child.exit_words})")


async def _first(*coroutines: Coroutine[Any, Any, T]) -> T:
    """The result of the one that ends first; the others are cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        await _cancelled(*tasks)


async def _cancelled(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
