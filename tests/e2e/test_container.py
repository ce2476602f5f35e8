"""What deploy/compose.yaml starts, as processes with the environments and commands of there."""

import os
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

from benchmarks.stack import ROOT, START_TIMEOUT, Stack, free_ports, wait_until
from e2e.calls import chat, content

HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"


class Services:
    """The three services that are ours."""

    def __init__(self, folder: Path) -> None:
        self.compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
        triton = self.compose["services"]["triton"]["environment"]
        self.triton = Stack(folder / "triton.log", GLM_FRONTEND=triton["GLM_FRONTEND"])
        self.port, self.web_port = free_ports(2)
        # Of each name and port within compose's network, what is here in its place.
        self._here = {
            "triton:8001": self.triton.grpc_url,
            "http://frontend:8000": f"http://127.0.0.1:{self.port}",
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
        run = subprocess.run([sys.executable, HEALTHCHECK, here], capture_output=True, timeout=30)
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


def test_the_services_of_compose(services: Services) -> None:
    assert not services.check("triton")  # it loads
    wait_until(lambda: services.check("frontend") and services.check("web"), START_TIMEOUT)
    loading = requests.get(f"http://127.0.0.1:{services.web_port}/v1/health", timeout=10)
    assert loading.json()["status"] == "unavailable"
    services.triton.wait_ready()
    assert services.check("triton")
    assert not services.triton.pids("glm_frontend") and not services.triton.pids("glm_web")

    page = f"http://127.0.0.1:{services.web_port}"
    wait_until(lambda: requests.get(f"{page}/v1/health", timeout=10).status_code == 200, 30)
    body: dict[str, Any] = chat("What is in this image?", "photo-star.jpg")
    answer = requests.post(f"{page}/v1/chat/completions", json=body, timeout=60)
    assert content(answer) == "An orange star."
    services.stop()
