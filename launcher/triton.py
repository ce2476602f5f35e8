"""Finds tritonserver in a Triton container or in the nvidia-pytriton wheel, and how to run it.

Only the binaries of the wheel are used. As it is meant to be run by its own Python API, three
things that a container provides are set up here: a folder with the Python backend and the stub of
this Python version, and the library paths of the wheel and of libpython.
"""

import importlib.util
import logging
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import LaunchError
from launcher.settings import LauncherSettings

CONTAINER = Path("/opt/tritonserver")

# Size of the region per model instance, allocated at the start, and its growth step. The patches
# of a 1024 px picture are 3.2 MB; Docker's default /dev/shm of 64 MB holds three instances of 16.
SHM_BYTES = 16 * 1024 * 1024

# Half of the interval that clients may count on: pings arrive less regularly than they are sent.
MIN_PING_MS = 5_000

# APIs that change the server or expose other requests require the key of this run. Inference,
# health, metadata, model-config and statistics, which only read, stay open.
RESTRICTED_APIS = "model-repository,shared-memory,trace,logging"
ADMIN_HEADER = "glm-admin-key"

# Logged by Triton on every machine without a GPU.
NO_GPU_LINES = (
    "Error: Failed to initialize NVML",
    "CudaDriverHelper has not been initialized",
    "DCGM unable to start",
)
# In both of its formats, of which ISO8601, with a time zone, is the launcher's default.
LOG_LINE = re.compile(
    r"(?:(?P<level>[IWEF])\d{4} [\d:.]+|[\dT:-]+Z (?P<iso_level>[IWEF])) \d+ (?P<source>\S+):\d+\]"
)
LEVELS = {"W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
LOADING = re.compile(r"\bloading: (?P<model>[^:]+):\d+")
LOADED = re.compile(r"successfully loaded '(?P<model>[^']+)'")
# A progress bar of transformers, logged by the only model with weights.
WEIGHTS = re.compile(r"Loading weights:\s*(?P<percent>\d+)%")
# The server escapes line breaks; "At:" begins a Python traceback.
LOAD_FAILED = re.compile(
    r"failed to load '(?P<model>[^']+)' version \d+: (?:Internal: )?"
    r"(?P<reason>.*?)(?:\\n\\nAt:.*)?\"?$"
)


@dataclass(frozen=True)
class Triton:
    """A tritonserver that can be started on this machine."""

    binary: Path
    origin: str
    backends: Path | None = None
    """Folder for --backend-directory; None for the server's default."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables in addition to the launcher's own environment."""

    def command(self, settings: LauncherSettings, admin_key: str) -> list[str]:
        """The command line. `admin_key` opens the administrative APIs (header ADMIN_HEADER)."""
        restricted = f"{RESTRICTED_APIS}:{ADMIN_HEADER}={admin_key}"
        command = [
            str(self.binary),
            f"--model-repository={settings.model_repository}",
            # Explicit, so that a model whose process died can be reloaded.
            "--model-control-mode=explicit",
            "--load-model=*",
            "--disable-auto-complete-config",
            f"--http-address={settings.triton_host}",
            f"--http-port={settings.triton_http_port}",
            f"--grpc-address={settings.triton_host}",
            f"--grpc-port={settings.triton_grpc_port}",
            f"--metrics-address={settings.triton_host}",
            f"--metrics-port={settings.triton_metrics_port}",
            f"--http-restricted-api={restricted}",
            f"--grpc-restricted-protocol={restricted}",
            f"--exit-timeout-secs={settings.triton_exit_timeout}",
            f"--backend-config=python,shm-default-byte-size={SHM_BYTES}",
            f"--backend-config=python,shm-growth-byte-size={SHM_BYTES}",
            # All tensors passed to Triton are on the CPU.
            "--pinned-memory-pool-byte-size=0",
            # Each line with a time zone.
            "--log-format=ISO8601",
            # Clients may send a ping every 10 s, also between requests, so that a firewall keeps
            # their connection; gRPC's default closes it unless they are five minutes apart.
            f"--grpc-http2-min-recv-ping-interval-without-data={MIN_PING_MS}",
            "--grpc-keepalive-permit-without-calls=true",
        ]
        if self.backends is not None:
            command.append(f"--backend-directory={self.backends}")
        # Last: of an option that is given twice, Triton takes the second.
        return [*command, *settings.triton_option_list]


# By default glibc returns the memory of every large tensor to the system, and faults it in again,
# page by page, for the next. PyTorch's largest tensors, such as the KV cache, may use huge pages.
# oneDNN and PyTorch each cache 1024 matrix product primitives, one per number of rows: on a CPU the
# engine grew by more than half a GB over hours.
MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
    "THP_MEM_ALLOC_ENABLE": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "256",
}


def find_triton(run_folder: Path) -> Triton:
    """Find the server of the container, else that of the wheel, which is set up in `run_folder`.

    Raises LaunchError with installation instructions if it or a library is missing.
    """
    binary = CONTAINER / "bin" / "tritonserver"
    if binary.is_file():
        return Triton(binary, f"Triton of {CONTAINER}", environment=dict(MEMORY))
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError(
            f"Triton Inference Server not found: {binary} does not exist, and the package "
            "nvidia-pytriton is not installed (`make setup` installs it)"
        )
    return _wheel_triton(Path(spec.submodule_search_locations[0]), run_folder)


def _wheel_triton(package: Path, run_folder: Path) -> Triton:
    python = Path(sys.executable)
    if not (python.parent / "python3").exists():
        # Triton's Python processes use the packages of the first python3 on the PATH.
        raise LaunchError(
            f"no python3 next to {python}: start the launcher from a virtual environment"
        )
    backends = run_folder / "backends"
    assemble_backends(package / "tritonserver", backends)
    binary = package / "tritonserver" / "bin" / "tritonserver"
    library_path = [package.parent / "nvidia_pytriton.libs"]
    stub = backends / "python" / "triton_python_backend_stub"
    library_path += libpython_folder(loaded_libraries(stub, library_path))
    missing = {
        name
        for program in (binary, stub)
        for name, path in loaded_libraries(program, library_path).items()
        if path is None
    }
    if missing:
        raise LaunchError(missing_libraries(missing))
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    return Triton(
        binary,
        "Triton of the nvidia-pytriton package",
        backends,
        {"PATH": path, "LD_LIBRARY_PATH": _library_path(library_path), **MEMORY},
    )


def assemble_backends(tritonserver: Path, target: Path) -> None:
    """Link the Python backend and the stub for this Python into ``target/python``."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = tritonserver / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise LaunchError(f"Triton has no Python {version} backend; use Python 3.11 or 3.12")
    folder = target / "python"
    folder.mkdir(parents=True)
    for source in [stub, *(tritonserver / "backends" / "python").iterdir()]:
        if source.is_file():
            (folder / source.name).symlink_to(source)


def loaded_libraries(program: Path, library_path: Iterable[Path]) -> dict[str, Path | None]:
    """The shared libraries that `program` would load, according to the loader.

    None for a library that the loader does not find.
    """
    # As ldd does, which is not installed everywhere.
    environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_LIBRARY_PATH": _library_path(library_path)}
    listing = subprocess.run(
        [program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout
    found = re.findall(r"^\s*(\S+) => (not found|/\S+)", listing, re.MULTILINE)
    return {name: None if path == "not found" else Path(path) for name, path in found}


def libpython_folder(libraries: Mapping[str, Path | None]) -> list[Path]:
    """The folder of this Python's own libpython, unless the loader would use it anyway.

    The stub embeds libpython. A Python outside the system's folders has its own; one that was built
    without can use the system's of the same version, if installed.
    """
    name = libpython_name()
    for folder in (sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"):
        own = Path(folder or "") / name
        if own.is_file():
            taken = libraries.get(name)
            return [] if taken is not None and taken.samefile(own) else [own.parent]
    return []


def libpython_name() -> str:
    return f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


def missing_libraries(names: Iterable[str]) -> str:
    """Which libraries are missing, and the command that installs them on Debian or Ubuntu."""
    packages = {
        libpython_name(): libpython_name().removesuffix(".so.1.0"),
        "libz.so.1": "zlib1g",
        "libstdc++.so.6": "libstdc++6",
        "libgcc_s.so.1": "libgcc-s1",
        "libexpat.so.1": "libexpat1",
    }
    names = sorted(names)
    known = [packages[name] for name in names if name in packages]
    message = f"Triton needs {', '.join(names)}, which is not installed."
    if known:
        message += f" Install: apt install {' '.join(known)}"
    if libpython_name() in names:
        message += (
            ". (This Python was built without its shared library; use one built with "
            "--enable-shared, or that of a distribution.)"
        )
    return message


def line_level(line: str) -> int:
    """The level of a line of the server's log: its own INFO lines are shown with --verbose only.

    Output of the models is INFO.
    """
    if not line or line.startswith(("+--", "| ")) or any(noise in line for noise in NO_GPU_LINES):
        return logging.DEBUG
    match = LOG_LINE.match(line)
    if match is None:
        return logging.INFO
    of_a_model = match["source"].endswith(".py")
    level = match["level"] or match["iso_level"]
    return LEVELS.get(level, logging.INFO if of_a_model else logging.DEBUG)


class LoadProgress:
    """Progress of loading each model, from the server's log."""

    def __init__(self, models: Iterable[str]) -> None:
        self._states = dict.fromkeys(sorted(models), "waiting")
        self._weights = ""
        self.failures: dict[str, str] = {}

    def read(self, line: str) -> None:
        """Parse a line of the log."""
        if match := WEIGHTS.search(line):
            self._weights = f"{match['percent']} % of the weights"
        for pattern, state in ((LOADING, "loading"), (LOADED, "ready"), (LOAD_FAILED, "failed")):
            if (match := pattern.search(line)) and match["model"] in self._states:
                self._states[match["model"]] = state
                if state == "failed":
                    self.failures[match["model"]] = match["reason"].replace("\\n", "\n")

    def __str__(self) -> str:
        parts = [f"{model} {state}" for model, state in self._states.items()]
        return ", ".join([*parts, self._weights] if self._weights else parts)


def models_in(repository: Path) -> list[str]:
    """The models of a repository; raises LaunchError if there is none."""
    models = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not models:
        raise LaunchError(f"no model in {repository} (no folder with a config.pbtxt)")
    return models


def _library_path(folders: Iterable[Path]) -> str:
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])
