"""Answers that are given once more, by real servers: in memory, and in a Redis of two frontends."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e.calls import DESCRIPTIONS, chat, content, post, program, settled
from tools.stack import Stack, free_ports
from waiting import wait_until

PICTURE = "photo-star.jpg"
HEADER = "x-glm-cache"


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("response-cache")
    server = Stack(folder / "launcher.log", GLM_RESPONSE_CACHE="memory")
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def _steps(stack: Stack) -> dict[str, float]:
    """What the engine has done."""
    found = settled(stack)
    names = ("glm_prompt_tokens_total", "glm_generation_tokens_total", "glm_images_encoded_total")
    return {name: found[name] for name in names if name in found}


def test_a_hit_costs_no_step_of_the_engine(caching: Stack) -> None:
    body = chat("Describe the image.", PICTURE)
    first = post(caching, body)
    assert content(first) == DESCRIPTIONS[PICTURE] and first.headers[HEADER] == "miss"
    before = _steps(caching)
    again = post(caching, body)
    streamed = post(caching, body | {"stream": True})
    assert _steps(caching) == before and before
    assert (again.headers[HEADER], streamed.headers[HEADER]) == ("hit", "hit")
    assert content(again) == content(first)
    assert again.json()["usage"] == first.json()["usage"]
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_the_same_at_the_same_time_is_computed_once(caching: Stack) -> None:
    body = chat("Describe the image.", "plot-three.jpg", seed=11)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(caching, body), range(8)))
    assert {content(answer) for answer in answers} == {DESCRIPTIONS["plot-three.jpg"]}
    assert sorted(answer.headers[HEADER] for answer in answers).count("miss") == 1


def _redis(port: int, folder: Path) -> subprocess.Popen[bytes]:
    server = shutil.which("redis-server")
    assert server is not None, "apt-get install redis-server"
    process = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    wait_until(answers)
    return process


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_several_frontends_share_a_redis_and_go_on_without_it(
    caching: Stack, tmp_path: Path
) -> None:
    port, one, other = free_ports(3)
    redis = _redis(port, tmp_path)
    settings = {
        "GLM_TRITON_URL": caching.grpc_url,
        "GLM_RESPONSE_CACHE": f"redis://127.0.0.1:{port}/0",
    }
    frontends = [f"http://127.0.0.1:{p}" for p in (one, other)]

    def ask(url: str, body: dict[str, Any]) -> requests.Response:
        answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=120)
        assert content(answer) == DESCRIPTIONS[PICTURE]
        return answer

    try:
        with (
            program("glm_frontend", frontends[0] + "/v1/health", GLM_PORT=str(one), **settings),
            program("glm_frontend", frontends[1] + "/v1/health", GLM_PORT=str(other), **settings),
        ):
            body = chat("Describe the image.", PICTURE)
            found = [ask(url, body).headers[HEADER] for url in (*frontends, frontends[0])]
            assert found == ["miss", "hit", "hit"]
            redis.send_signal(signal.SIGKILL)
            redis.wait()
            began = time.monotonic()
            assert ask(frontends[0], body).headers[HEADER] == "miss"
            assert time.monotonic() - began < 30
            redis = _redis(port, tmp_path)
            # It is asked again once the pause is over.
            wait_until(lambda: ask(frontends[1], body).headers[HEADER] == "hit")
    finally:
        redis.kill()
        redis.wait()
