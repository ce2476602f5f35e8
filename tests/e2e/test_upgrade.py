"""A new version of the models in a running server: `python -m launcher --upgrade`."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from e2e.calls import chat, post
from tools.metrics import read_metrics
from tools.plain_triton import add_version, copy_models, digest
from tools.stack import ROOT, Stack
from waiting import wait_until


class Clients:
    """Some that ask over HTTP, one question after the other, until they are stopped."""

    def __init__(self, stack: Stack, number: int = 3) -> None:
        self.answers: list[int] = []
        self._stack = stack
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when the last answer is there."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._over.is_set():
            body = chat("Who are you?", max_tokens=100, ignore_eos=True)
            self.answers.append(post(self._stack, body).status_code)


def _upgrade(stack: Stack, repository: Path) -> subprocess.CompletedProcess[str]:
    settings = {
        "GLM_TRITON_HTTP_PORT": str(stack.http_port),
        "GLM_MODEL_REPOSITORY": str(repository),
    }
    return subprocess.run(
        [sys.executable, "-m", "launcher", "--upgrade"],
        cwd=ROOT,
        env={name: v for name, v in os.environ.items() if name[:4] != "GLM_"} | settings,
        capture_output=True,
        text=True,
        timeout=240,
    )


def _answered(stack: Stack) -> dict[str, float]:
    """Requests counted by each version."""
    counted: dict[str, float] = {}
    text = requests.get(f"{stack.metrics_url}/metrics", timeout=60).text
    for (name, labels), value in read_metrics(text).items():
        if name == "glm_requests_total":
            version = dict(labels)["version"]
            counted[version] = counted.get(version, 0) + value
    return counted


@pytest.mark.alone
def test_an_upgrade_loses_no_request(tmp_path: Path) -> None:
    repository = copy_models(tmp_path / "models")
    before_serving = digest(repository)
    stack = Stack(tmp_path / "launcher.log", GLM_MODEL_REPOSITORY=str(repository))
    try:
        stack.wait_ready()
        clients = Clients(stack)
        wait_until(lambda: len(clients.answers) > 3)
        assert digest(repository) == before_serving, "something was written there"
        for model in ("preprocessing", "generation"):
            add_version(repository, model, 2)
        done = _upgrade(stack, repository)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "new requests go to model=generation version=2" in done.stdout + done.stderr
        assert _answered(stack)["1"] > 0
        before = len(clients.answers)
        wait_until(lambda: len(clients.answers) > before + 6)

        # One that cannot be loaded changes nothing.
        add_version(repository, "generation", 3)
        with (repository / "generation" / "3" / "glm_engine" / "device.py").open("a") as file:
            file.write("def check_weights_fit(*_): raise ValueError('not enough memory: 1 GiB')\n")
        too_large = _upgrade(stack, repository)
        assert too_large.returncode == 1
        assert "not enough memory: 1 GiB" in too_large.stdout + too_large.stderr
        before = len(clients.answers)
        wait_until(lambda: len(clients.answers) > before + 6)
        clients.stop()
        assert set(clients.answers) == {200}

        # What the old processes did is no fault, and only the new ones are left.
        assert "reloading it" not in stack.log and "starting Triton again" not in stack.log
        assert len(stack.pids("generation/1/model.py")) == 0
        assert len(stack.pids("generation/2/model.py")) == 1
        assert _answered(stack)["2"] > 0
    finally:
        stack.kill()
