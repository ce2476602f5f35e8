"""A tritonserver as any operator starts one: no launcher, and a model repository of one's own."""

import hashlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from tritonclient.grpc import InferenceServerClient

from launcher.triton import find_triton
from tools.metrics import Values, read_metrics
from tools.stack import ROOT, START_TIMEOUT, STOP_TIMEOUT, free_ports, wait_until

MODELS = {"generation": "generation", "preprocessing": "preprocessing"}
ANSWER_SECONDS = 240.0


def copy_models(target: Path, names: Mapping[str, str] = MODELS) -> Path:
    """A copy of the model repository, with nothing in it that is not in git.

    Args:
        names: of the two models in the copy.
    """
    for model, name in names.items():
        folder = shutil.copytree(
            ROOT / "model_repository" / model, target / name, ignore=_ignored_by_git
        )
        config = folder / "config.pbtxt"
        text = config.read_text()
        for own, new in names.items():
            text = re.sub(rf'((?:name|string_value): ")({own})"', rf'\g<1>{new}"', text)
        config.write_text(text)
    return target


def add_version(repository: Path, model: str, version: int) -> None:
    """Copy version 1 of a model, as an operator puts a new one beside it."""
    # Under another name first: in poll mode Triton may look at any time.
    folder = repository / model
    copy = shutil.copytree(folder / "1", repository.parent / f"{model}-{version}")
    copy.rename(folder / str(version))


def set_version_policy(repository: Path, model: str, policy: str) -> None:
    """Give a model another policy, such as ``all {}``."""
    config = repository / model / "config.pbtxt"
    text, number = re.subn(
        r"^version_policy .*$", f"version_policy {{ {policy} }}", config.read_text(), flags=re.M
    )
    assert number == 1
    config.write_text(text)


def digest(folder: Path) -> str:
    """A hash of all names and contents, and of the times of the folders: any file that was written,
    if only for a moment, changes it."""
    total = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        content = path.read_bytes() if path.is_file() else b""
        total.update(f"{path} {path.stat().st_mtime_ns}".encode() + content)
    return total.hexdigest()


class PlainTriton:
    """One tritonserver on free ports, until the end of a ``with`` block.

    Args:
        folder: for its log and the launcher's backend folder.
        options: of tritonserver, besides repository and ports.
        settings: environment variables.

    Attributes:
        repository: its model repository.
        url: of its HTTP port.
    """

    def __init__(self, folder: Path, repository: Path, *options: str, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        triton = find_triton(folder)
        http_port, grpc_port, metrics_port = free_ports(3)
        self.repository = repository
        self.url = f"http://127.0.0.1:{http_port}"
        self._grpc_url = f"127.0.0.1:{grpc_port}"
        self._metrics_url = f"http://127.0.0.1:{metrics_port}"
        self._log = folder / "triton.log"
        command = [
            str(triton.binary),
            f"--model-repository={repository}",
            f"--http-port={http_port}",
            f"--grpc-port={grpc_port}",
            f"--metrics-port={metrics_port}",
            *options,
        ]
        if triton.backends is not None:
            command.append(f"--backend-directory={triton.backends}")
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("GLM_")}
        inherited.pop("TRITON_INTERPRET", None)
        model = os.environ.get("GLM_MODEL", str(ROOT / "demo_model" / "checkpoint"))
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                env=inherited | {"GLM_MODEL": model} | dict(triton.environment) | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._client = httpx2.Client(trust_env=False, timeout=START_TIMEOUT)
        self._closing = ExitStack()
        self._closing.callback(self._stop)
        self._closing.callback(self._client.close)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_live(self) -> None:
        """Returns when it accepts requests, or raises where it has ended."""
        wait_until(lambda: self._is_live() or self.process.poll() is not None, START_TIMEOUT)
        assert self.process.poll() is None, self.log[-5000:]

    def call(self, path: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
        """Status and JSON of an answer."""
        response = self._client.request(method, f"{self.url}{path}", json=body)
        return response.status_code, response.json() if response.content else None

    def load(self, model: str) -> None:
        """Load, or reload, a model by the repository API.

        Over gRPC: a load over HTTP holds up the other connections of its HTTP thread.
        """
        client = InferenceServerClient(self._grpc_url)
        try:
            client.load_model(model, client_timeout=START_TIMEOUT)
        finally:
            client.close()

    def states(self, model: str) -> dict[str, tuple[str, str]]:
        """State and reason of each version of a model."""
        _, index = self.call("/v2/repository/index")
        return {
            entry["version"]: (entry.get("state", ""), entry.get("reason", ""))
            for entry in index
            if entry["name"] == model and "version" in entry
        }

    def is_ready(self, model: str) -> bool:
        """Whether Triton says that a model is ready."""
        return self.call(f"/v2/models/{model}/ready", method="GET")[0] == 200

    def ask(
        self, text: str, model: str = "generation", version: str = "", max_tokens: int = 8
    ) -> tuple[int, Any]:
        """Status and body of a greedy answer."""
        place = f"/versions/{version}" if version else ""
        sampling = f'{{"max_tokens": {max_tokens}, "temperature": 0}}'
        body = {"text_input": text, "sampling_parameters": sampling}
        response = httpx2.post(
            f"{self.url}/v2/models/{model}{place}/generate",
            json=body,
            timeout=ANSWER_SECONDS,
            trust_env=False,
        )
        return response.status_code, response.json()

    def metrics(self) -> Values:
        """The models' own metrics, series by series."""
        return read_metrics(self._client.get(f"{self._metrics_url}/metrics").text)

    def stubs(self, model: str) -> list[int]:
        """The Python processes of a model, or of all."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
                parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):  # it has just ended
                continue
            if parent == self.process.pid and (
                f"/{model}/" if model else "python_backend_stub"
            ) in " ".join(words[:2]):
                found.append(int(path.parent.name))
        return found

    def __enter__(self) -> Self:
        self.wait_live()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    def _is_live(self) -> bool:
        try:
            self.metrics()  # its port is the last to open
            return self._client.get(f"{self.url}/v2/health/live").status_code == 200
        except httpx2.TransportError:
            return False

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Traffic:
    """Requests one after the other in some threads, until the end of a ``with`` block.

    Attributes:
        answered: the number of answers of each version.
        failed: what came instead of one.
        longest: the time that the slowest answer took, in seconds.
    """

    def __init__(self, triton: PlainTriton, threads: int = 3, versions: tuple[str, ...] = ("",)):
        self.answered: dict[str, int] = defaultdict(int)
        self.failed: list[Any] = []
        self.longest = 0.0
        self._triton = triton
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(versions[number % len(versions)], number))
            for number in range(threads)
        ]

    @property
    def total(self) -> int:
        return sum(self.answered.values())

    def wait(self, number: int) -> None:
        """Returns when that many more have been answered, or one has failed."""
        goal = self.total + number
        wait_until(lambda: self.total >= goal or bool(self.failed), START_TIMEOUT)
        assert not self.failed, self.failed

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, version: str, number: int) -> None:
        # Long ones and short ones, so that some are under way whenever something is changed.
        tokens = 4 if number % 2 else 200
        while not self._over.is_set():
            began = time.monotonic()
            try:
                status, body = self._triton.ask("Who are you?", "generation", version, tokens)
            except httpx2.TransportError as error:
                status, body = 0, repr(error)
            with self._lock:
                self.longest = max(self.longest, time.monotonic() - began)
                if status == 200:
                    self.answered[body["model_version"]] += 1
                else:
                    self.failed.append((status, body))


def _ignored_by_git(folder: str, names: list[str]) -> set[str]:
    """What Python and editors leave in folders; the files of that name belong to the models."""
    return {name for name in names if name == "__pycache__" and (Path(folder) / name).is_dir()}
