"""Blue-green change of a running Triton's models: ``python -m launcher --upgrade``.

Triton does the change itself: it loads the new version beside the old one, then gives new requests
to it, and unloads the old one when its last request is answered. This asks for it, stage 1 first,
and watches. It asks over HTTP: a load over gRPC holds up the health that the frontend asks for.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from launcher.errors import LaunchError
from launcher.settings import LauncherSettings
from launcher.supervisor import PROGRESS_SECONDS, log_error
from launcher.triton import ADMIN_HEADER

# The parameter of a config.pbtxt by which a model is known to be stage 2.
STAGE_TWO = "preprocessing_model"
POLL_SECONDS = 0.2
FAILED = 1

Versions = Mapping[int, str]
"""The state of each version of a model, in Triton's words."""


async def upgrade(settings: LauncherSettings, log: logging.Logger) -> int:
    """Load the newest versions in the repository, and wait until the old ones have ended.

    Returns the exit code: 0 once new versions answer and old ones are unloaded, 1 after a failure.
    What cannot be loaded changes nothing: the old version goes on serving.
    """
    headers = admin_headers(settings.triton_http_port)
    async with httpx2.AsyncClient(
        base_url=settings.triton_http_url,
        headers=headers,
        timeout=settings.start_timeout,
        trust_env=False,
    ) as client:
        try:
            await _Upgrade(client, settings, log).run()
        except (LaunchError, httpx2.HTTPError) as error:
            log_error(log, f"upgrade failed: {error or type(error).__name__}")
            return FAILED
    return 0


def admin_headers(http_port: int, proc: Path = Path("/proc")) -> dict[str, str]:
    """The header that opens the administrative APIs of the launcher's Triton on that port.

    Its key is in the arguments of tritonserver, which the same user may read. Empty for a Triton
    that was started otherwise.
    """
    mark = f":{ADMIN_HEADER}="
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended, or belongs to somebody else
            continue
        if f"--http-port={http_port}" in arguments:
            for argument in arguments:
                if argument.startswith("--http-restricted-api=") and mark in argument:
                    return {ADMIN_HEADER: argument.partition(mark)[2]}
    return {}


class _Upgrade:
    def __init__(
        self, client: httpx2.AsyncClient, settings: LauncherSettings, log: logging.Logger
    ) -> None:
        self._client = client
        self._settings = settings
        self._log = log

    async def run(self) -> None:
        models = [name for name, versions in (await self._index()).items() if _ready(versions)]
        if not models:
            raise LaunchError("no model is loaded")
        configs = {name: await self._call("GET", f"/v2/models/{name}/config") for name in models}
        is_second = {name: STAGE_TWO in configs[name].get("parameters", {}) for name in models}
        # Stage 1 first: a new stage 2 asks the stage 1 of its own number.
        for name in sorted(models, key=is_second.__getitem__):
            await self._change(name, is_stage_two=is_second[name])

    async def _change(self, name: str, *, is_stage_two: bool) -> None:
        before = (await self._index())[name]
        self._log.info("loading model=%s versions_ready=%s", name, _ready(before))
        await self._call("POST", f"/v2/repository/models/{name}/load")
        newest = max(_ready((await self._index())[name]))
        if is_stage_two:
            await self._ask(name, newest)
        self._log.info("new requests go to model=%s version=%d", name, newest)
        await self._wait_for_the_old(name)

    async def _ask(self, name: str, version: int) -> None:
        answer = await self._call(
            "POST",
            f"/v2/models/{name}/versions/{version}/generate",
            {"text_input": "Who are you?", "sampling_parameters": '{"max_tokens": 4}'},
        )
        if not answer.get("text_output"):
            raise LaunchError(f"{name} version {version} gave no answer to a test request")

    async def _wait_for_the_old(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        began = logged = loop.time()
        limit = self._settings.request_timeout
        while "UNLOADING" in (versions := (await self._index())[name]).values():
            ending = [v for v, state in versions.items() if state == "UNLOADING"]
            if loop.time() - began > limit:
                raise LaunchError(
                    f"{name}: version {ending[0]} has not ended in {limit:g} s; new requests go "
                    "to the new one"
                )
            if loop.time() - logged >= PROGRESS_SECONDS:
                logged = loop.time()
                self._log.info(
                    "waiting for the last requests of model=%s versions=%s", name, ending
                )
            await asyncio.sleep(POLL_SECONDS)
        self._log.info("loaded model=%s versions=%s", name, _ready(versions))

    async def _index(self) -> dict[str, dict[int, str]]:
        index: dict[str, dict[int, str]] = defaultdict(dict)
        for entry in await self._call("POST", "/v2/repository/index"):
            if "version" in entry:
                index[entry["name"]][int(entry["version"])] = entry.get("state", "")
        return index

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        response = await self._client.request(method, path, json=body)
        if response.status_code != 200:
            raise LaunchError(f"{path}: {response.text}")
        return response.json() if response.content else None


def _ready(versions: Versions) -> list[int]:
    return sorted(version for version, state in versions.items() if state == "READY")
