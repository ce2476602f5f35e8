"""What deploy/compose.yaml and Dockerfile.triton start, as processes with the files, environments
and commands of there."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml

from dockerfile import copy_stage, stages
from e2e.calls import chat, content, post
from e2e.loading import HeldModels
from tools.stack import ROOT, START_TIMEOUT, Stack, free_ports
from waiting import wait_until

pytestmark = pytest.mark.slow

HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"


class Services:
    """The three services that are ours."""

    def __init__(self, folder: Path) -> None:
        self.compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
        triton = self.compose["services"]["triton"]["environment"]
        self.models = HeldModels(folder)
        self.triton = Stack(
            folder / "triton.log", GLM_FRONTEND=triton["GLM_FRONTEND"], **self.models.settings
        )
        self.port, self.web_port = free_ports(2)
        # Of each name and port within compose's network, what is here in its place.
        self._here = {
            "triton:8001": self.triton.grpc_url,
            "http://frontend:8000": f"http://127.0.0.1:{self.port}",
            "10.89.77.10": "127.0.0.1",
        }
        frontend = self._start("frontend", ["-m", "glm_frontend"], GLM_PORT=self.port)
        web = self._start(
            "web", self.compose["services"]["web"]["entrypoint"][1:], GLM_WEB_PORT=self.web_port
        )
        self.processes = [web, frontend]

    def _start(self, service: str, arguments: list[str], **ports: int) -> "subprocess.Popen[bytes]":
        given = self.compose["services"][service]["environment"]
        environment = {"PATH": os.environ["PATH"]}
        environment |= {name: self._here[value] for name, value in given.items()}
        environment |= {name: str(port) for name, port in ports.items()}
        return subprocess.Popen([sys.executable, *arguments], env=environment)

    def check(self, service: str) -> bool:
        """Whether the service's health check passes; the image's where compose has no other."""
        own = self.compose["services"][service].get("healthcheck")
        url = own["test"][-1] if own else "http://127.0.0.1:8000/v1/health/live"
        ports = {8000: self.port, 7860: self.web_port, 8003: self.triton.http_port}
        here = url.replace(str(urlsplit(url).port), str(ports[urlsplit(url).port or 0]))
        run = subprocess.run([sys.executable, HEALTHCHECK, here], capture_output=True, timeout=60)
        assert run.returncode in (0, 1), run.stderr
        return run.returncode == 0

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        # uvicorn ends by the signal itself when it has ended everything.
        assert all(process.wait(60) in (0, -signal.SIGTERM) for process in self.processes)
        self.triton.process.terminate()
        assert self.triton.wait_stopped() == 0, self.triton.log


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    running = Services(tmp_path)
    yield running
    for process in running.processes:
        process.kill()
    running.triton.kill()


@pytest.mark.timing
def test_the_services_of_compose(services: Services) -> None:
    assert not services.check("triton")  # it loads
    wait_until(lambda: services.check("frontend") and services.check("web"), START_TIMEOUT)
    loading = requests.get(f"http://127.0.0.1:{services.web_port}/v1/health", timeout=60)
    assert loading.json()["status"] == "unavailable"
    services.models.let_go()
    services.triton.wait_ready()
    assert services.check("triton")
    assert not services.triton.pids("glm_frontend") and not services.triton.pids("glm_web")

    page = f"http://127.0.0.1:{services.web_port}"
    wait_until(lambda: requests.get(f"{page}/v1/health", timeout=60).status_code == 200)
    body: dict[str, Any] = chat("What is in this image?", "photo-star.jpg")
    answer = requests.post(f"{page}/v1/chat/completions", json=body, timeout=60)
    assert content(answer) == "An orange star."
    services.stop()


def _entrypoint(stage: str) -> list[str]:
    (command,) = [value for name, value in stages()[stage] if name == "ENTRYPOINT"]
    words: list[str] = json.loads(command)
    return words


def test_the_frontends_image(tmp_path: Path) -> None:
    """Installed by deploy/install.sh, without what only the models need."""
    copy_stage("frontend-build", tmp_path)
    (install,) = [value for name, value in stages()["frontend-build"] if name == "RUN"]
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("GLM_")}
    # The installer makes the environment with the first python3.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    run = subprocess.run(
        install.split(), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for source in ("client", "frontend"):  # the stage that is built from this has the venv only
        shutil.rmtree(tmp_path / source)
    copy_stage("frontend", tmp_path)
    (port,) = map(str, free_ports(1))
    environment |= {"PATH": f"{tmp_path / 'venv/bin'}:{environment['PATH']}", "GLM_PORT": port}
    python, *arguments = _entrypoint("frontend")
    process = subprocess.Popen(
        [shutil.which(python, path=environment["PATH"]) or python, *arguments],
        cwd=tmp_path,
        env=environment,
    )
    try:
        url = f"http://127.0.0.1:{port}/v1/health/live"
        check = [sys.executable, str(tmp_path / "deploy/healthcheck.py"), url]
        wait_until(lambda: subprocess.run(check, capture_output=True).returncode == 0)
    finally:
        process.terminate()
        process.wait(60)
    packages = {path.name for path in tmp_path.glob("venv/lib/python3*/site-packages/*")}
    assert "glm_frontend" in packages and not packages & {"torch", "transformers", "pytriton"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a folder as /opt/glm")
def test_the_servers_image_by_the_manuals_script(tmp_path: Path) -> None:
    """Only what the image has, in its place; started as from Jupyter, stopped as by Docker."""
    tree = tmp_path / "glm"
    copy_stage("server", tree)
    copied = [value.split() for name, value in stages()["notebook"] if name == "COPY"]
    (script,) = [words[-2] for words in copied if words[-1].endswith("推理.sh")]
    shutil.copy2(ROOT / script, tmp_path / "start.sh")
    place = 'mount -t tmpfs tmpfs /opt && mkdir /opt/glm && mount --bind "$0" /opt/glm && exec "$1"'
    stack = Stack(
        tmp_path / "launcher.log",
        ("unshare", "--mount", "bash", "-c", place, str(tree), str(tmp_path / "start.sh")),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        GLM_MODEL="/opt/glm/demo_model/checkpoint",
    )
    try:
        stack.wait_ready()
        command = Path(f"/proc/{stack.pids('tritonserver')[0]}/cmdline").read_text()
        assert "--model-repository=/opt/glm/model_repository" in command
        answer = post(stack, chat("What is in this image?", "photo-star.jpg"))
        assert content(answer) == "An orange star."
        stack.process.send_signal(signal.SIGTERM)
        assert stack.wait_stopped() == 0, stack.log
    finally:
        stack.kill()
