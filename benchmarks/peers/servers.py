"""How each server is started with the same checkpoint, and what it wants in a request."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tools.load import Server, picture
from tools.report import ROOT

PEERS = Path(os.environ.get("PEERS", Path.home() / ".cache" / "glm-peers"))
START_SECONDS = 300


@dataclass(frozen=True)
class Peer:
    """A server that can be started.

    Attributes:
        command: arguments and environment, for a checkpoint and a port.
        needs: a file that is there once it is set up.
        fields, keep_alive: see ``load.Server``.
        model: what it calls the model; None where it wants the checkpoint's path.
    """

    name: str
    command: Callable[[Path, int], tuple[list[str], dict[str, str]]]
    needs: Path
    fields: dict[str, Any]
    keep_alive: bool = True
    model: str | None = "model"


def _ours(dtype: str) -> Callable[[Path, int], tuple[list[str], dict[str, str]]]:
    def command(checkpoint: Path, port: int) -> tuple[list[str], dict[str, str]]:
        ports = dict(zip(("GRPC", "METRICS", "HTTP"), _free_ports(3), strict=True))
        environment = {f"GLM_TRITON_{name}_PORT": str(free) for name, free in ports.items()}
        environment |= {"GLM_PORT": str(port), "GLM_WEB": "false", "GLM_MODEL": str(checkpoint)}
        environment |= {"GLM_SERVED_MODEL_NAME": "model", "GLM_DTYPE": dtype}
        environment["GLM_RESPONSE_CACHE"] = "off"
        return [sys.executable, "-m", "launcher"], environment

    return command


def _vllm(dtype: str, *options: str) -> Callable[[Path, int], tuple[list[str], dict[str, str]]]:
    def command(checkpoint: Path, port: int) -> tuple[list[str], dict[str, str]]:
        arguments = [
            str(PEERS / "vllm/bin/vllm"), "serve", str(checkpoint), "--served-model-name", "model",
            "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--max-model-len", "4096",
            "--limit-mm-per-prompt", '{"video": 0}', "--skip-mm-profiling",
            *options,
        ]  # fmt: skip
        environment = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_HOST_IP": "127.0.0.1",
        }
        return arguments, environment

    return command


def _llamacpp(checkpoint: Path, port: int) -> tuple[list[str], dict[str, str]]:
    folder = PEERS / "gguf" / checkpoint.name
    source = PEERS / "llama_cpp_python-0.3.36/vendor/llama.cpp"
    for name, options in (("text", []), ("vision", ["--mmproj"])):
        if not (folder / f"{name}.gguf").exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [PEERS / "llamacpp/bin/python", source / "convert_hf_to_gguf.py", checkpoint,
                 "--outfile", folder / f"{name}.gguf", "--outtype", "f32", *options],
                env={**os.environ, "PYTHONPATH": str(source / "gguf-py"), "HF_HUB_OFFLINE": "1"},
                check=True,
            )  # fmt: skip
    arguments = [
        str(PEERS / "llama-build/bin/llama-server"), "-m", str(folder / "text.gguf"),
        "--mmproj", str(folder / "vision.gguf"), "--alias", "model", "--jinja",
        "--host", "127.0.0.1", "--port", str(port),
        "-np", "64", "-c", str(64 * 1024), "-t", "1", "-tb", "1",
    ]  # fmt: skip
    # One thread was the best of what was tried on two cores that the client shares.
    return arguments, {"OMP_WAIT_POLICY": "passive"}


def _transformers(checkpoint: Path, port: int) -> tuple[list[str], dict[str, str]]:
    venv = PEERS / "transformers"
    arguments = [
        str(venv / "bin/transformers"), "serve", str(checkpoint), "--host", "127.0.0.1",
        "--port", str(port), "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip
    cache = PEERS / "hub-cache"  # it lists what is in it, and fails where it is not there
    cache.mkdir(parents=True, exist_ok=True)
    (libraries,) = venv.glob("lib/python3.*/site-packages/torchvision.libs")
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    return arguments, environment | {"LD_LIBRARY_PATH": str(libraries)}


# It knows no ignore_eos, and takes generation settings as JSON in a string.
_TRANSFORMERS_FIELDS = {
    "ignore_eos": None,
    "stream_options": None,
    "generation_config": json.dumps(
        {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False}
    ),
}


# As one would start it for its API rather than for its speed.
_API = (
    "--reasoning-parser=glm45",
    "--enable-auto-tool-choice",
    "--tool-call-parser=glm45",
    "--enable-prompt-tokens-details",
)
VLLM = Peer("vLLM", _vllm("float32", *_API), PEERS / "vllm/.done", {})
OURS = Peer("ours", _ours("auto"), Path(sys.executable), {})
ALL = [
    Peer("ours fp32", _ours("float32"), Path(sys.executable), {}),
    Peer("ours bf16", _ours("bfloat16"), Path(sys.executable), {}),
    Peer("vLLM fp32", _vllm("float32"), PEERS / "vllm/.done", {}),
    Peer("vLLM bf16", _vllm("bfloat16"), PEERS / "vllm/.done", {}),
    Peer(
        "llama.cpp f32",
        _llamacpp,
        PEERS / "llamacpp/.done",
        # Without it the server renders a prompt that forbids thinking.
        {"chat_template_kwargs": {"enable_thinking": True}},
        # It closes connections that are kept alive now and then.
        keep_alive=False,
    ),
    Peer(
        "transformers serve fp32",
        _transformers,
        PEERS / "transformers/.done",
        _TRANSFORMERS_FIELDS,
        model=None,
    ),
]


@contextmanager
def running(peer: Peer, checkpoint: Path, log: Path) -> Iterator[Server]:
    """Start a server, wait until it has answered about a picture, and stop it afterwards.

    Raises:
        RuntimeError: it did not answer.
    """
    (port,) = _free_ports(1)
    arguments, environment = peer.command(checkpoint, port)
    server = Server(
        f"http://127.0.0.1:{port}", peer.model or str(checkpoint), peer.fields, peer.keep_alive
    )
    with log.open("w") as file:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(server, process, log)
        yield server
    finally:
        # The whole group afterwards: some of them leave processes of theirs behind.
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    body = server.body(picture(0), 4)
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx2.HTTPError):
            answer = httpx2.post(
                f"{server.url}/v1/chat/completions", content=body, timeout=60, trust_env=False,
                headers={"content-type": "application/json"},
            )  # fmt: skip
            if answer.status_code == 200:
                return
        time.sleep(1)
    raise RuntimeError(f"no answer from the server; see {log}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
