"""Start, stop and death of the server's processes. Each test has a server of its own."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from tritonclient.grpc import InferenceServerClient, InferenceServerException

from e2e.calls import chat, content, post
from e2e.loading import HeldModels
from tools.stack import START_TIMEOUT, STOP_TIMEOUT, Stack
from waiting import wait_until

pytestmark = pytest.mark.slow

StartStack = Callable[..., Stack]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartStack]:
    """Starts servers that are cleared away after the test."""
    started: list[Stack] = []

    def start_stack(**settings: str) -> Stack:
        started.append(Stack(tmp_path / f"launcher-{len(started)}.log", **settings))
        return started[-1]

    yield start_stack
    for server in started:
        server.kill()


def assert_nothing_is_left(server: Stack, regions: set[Path]) -> None:
    assert server.pids() == []
    assert [region for region in regions if region.exists()] == []
    socket.create_server(("127.0.0.1", server.port)).close()


@pytest.mark.timing
def test_ctrl_c_stops_in_order_and_leaves_nothing(start: StartStack) -> None:
    server = start(GLM_CPU_THREAD="2")
    server.wait_ready()
    warning = "GLM_CPU_THREAD is ignored: there is no such setting; did you mean GLM_CPU_THREADS?"
    assert server.log.count(warning) == 1  # by the launcher, not by each process once more
    regions = server.regions()
    assert len(server.pids("triton_python_backend_stub")) >= 2
    assert len(regions) >= 2
    server.interrupt()
    assert server.wait_stopped() == 0, server.log
    assert_nothing_is_left(server, regions)
    stops = [server.log.index(f"stopping {name}") for name in ("web", "frontend", "triton")]
    assert stops == sorted(stops)
    assert "killed" not in server.log


def test_keys_are_the_frontend_s_only(start: StartStack, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-from-the-file name=alice\n")
    server = start(GLM_API_KEYS_FILE=str(keys), GLM_API_KEYS="sk-from-the-environment")
    server.wait_ready()  # the launcher's first request was accepted
    url = f"{server.base_url}/v1/chat/completions"
    headers = {"authorization": "Bearer sk-from-the-file"}
    answer = requests.post(url, json=chat("Hello", max_tokens=4), headers=headers)
    assert answer.status_code == 200, answer.text
    assert "sk-from" not in server.log
    stages, web = server.pids("triton_python_backend_stub"), server.pids("glm_web")
    assert stages and web
    for pid in [*stages, *web]:
        assert b"GLM_API_KEYS" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.timing
def test_answers_that_are_not_done_in_time_are_told_so(start: StartStack) -> None:
    server = start(GLM_GRACEFUL_TIMEOUT="1", GLM_WEB="false")
    server.wait_ready()
    assert not server.pids("glm_web") and "web page" not in server.log
    body = chat("hello", stream=True, ignore_eos=True, max_tokens=4000, n=16, temperature=1)
    url = f"{server.base_url}/v1/chat/completions"
    with requests.post(url, json=body, stream=True, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines)
        server.interrupt()
        *_, error, done = [line for line in lines if line]
    assert b'"code": "cancelled"' in error
    assert done == b"data: [DONE]"
    assert server.wait_stopped() == 0, server.log
    assert "killed" not in server.log


@pytest.mark.timing
def test_ctrl_c_while_models_load(start: StartStack) -> None:
    server = start()
    wait_until(lambda: bool(server.regions()), STOP_TIMEOUT)
    regions = server.regions()
    server.interrupt()
    assert server.wait_stopped() == 0, server.log
    assert_nothing_is_left(server, regions)


@pytest.mark.timing
def test_triton_that_crashes_while_it_starts_is_started_once_more(
    start: StartStack, tmp_path: Path
) -> None:
    server = start(GLM_WEB="false", **HeldModels(tmp_path).settings)
    for crash in (1, 2):
        # Some seconds after its start: by then the launcher has seen its shared memory.
        wait_until(
            lambda: "waiting for: " in server.log.rpartition("starting Triton of ")[2], STOP_TIMEOUT
        )
        regions = server.regions()
        assert regions, server.log
        (triton,) = server.pids("bin/tritonserver")
        os.kill(triton, signal.SIGABRT)
        if crash == 1:
            wait_until(lambda: server.log.count("starting Triton of ") == 2)
            assert "triton exited (signal SIGABRT)" in server.log
            assert not any(region.exists() for region in regions)
    assert server.wait_stopped() == 1, server.log
    assert server.log.count("launcher | starting Triton again") == 1
    assert_nothing_is_left(server, regions)


@pytest.mark.timing
def test_death_of_the_launcher_ends_all(start: StartStack) -> None:
    server = start()
    server.wait_ready()
    regions = server.regions()
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not server.pids(), STOP_TIMEOUT)
    assert_nothing_is_left(server, regions)


@pytest.mark.timing
def test_what_dies_is_started_again_and_nothing_is_left(start: StartStack) -> None:
    server = start()
    server.wait_ready()
    regions = server.regions()
    # All at once, the stubs first: nobody is left who could clean up.
    victims = [
        pid
        for program in ("triton_python_backend_stub", "bin/tritonserver", "glm_frontend", "glm_web")
        for pid in server.pids(program)
    ]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "is back after" in server.log, START_TIMEOUT)
    assert not regions & set(Path("/dev/shm").iterdir())
    assert not set(victims) & set(server.pids())

    def answers() -> bool:
        try:  # the web page's server asks the frontend
            return requests.get(f"{server.web_url}/v1/health", timeout=60).status_code == 200
        except requests.ConnectionError:
            return False

    wait_until(answers, START_TIMEOUT)
    assert content(post(server, chat("hello")))
    regions = server.regions()
    server.interrupt()
    assert server.wait_stopped() == 0, server.log
    assert_nothing_is_left(server, regions)


def test_a_taken_port_is_named(start: StartStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(GLM_TRITON_METRICS_PORT=str(port))
        assert server.wait_stopped() == 1
    assert f"port {port} is taken by another program (GLM_TRITON_METRICS_PORT={port}" in server.log


def test_a_bad_setting_is_named(start: StartStack) -> None:
    server = start(GLM_PORT="http")
    assert server.wait_stopped() == 2
    assert "GLM_PORT='http'" in server.log


def test_a_model_that_cannot_be_loaded_is_told(start: StartStack, tmp_path: Path) -> None:
    server = start(GLM_MODEL=str(tmp_path))
    assert server.wait_stopped() == 1
    assert "could not be loaded" in server.log
    assert_nothing_is_left(server, set())


def test_admin_api_needs_the_launcher_s_key(stack: Stack) -> None:
    index = requests.post(f"{stack.triton_http_url}/v2/repository/index", timeout=60)
    assert index.status_code == 403
    unload = f"{stack.triton_http_url}/v2/repository/models/generation/unload"
    assert requests.post(unload, timeout=60).status_code == 403
    assert requests.get(f"{stack.triton_http_url}/v2/health/ready", timeout=60).status_code == 200
    assert requests.get(f"{stack.metrics_url}/metrics", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_model_repository_index(),
        lambda client: client.unload_model("generation"),
        lambda client: client.load_model("generation"),
        lambda client: client.register_system_shared_memory("x", "/x", 1),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.update_trace_settings(settings={"trace_level": "OFF"}),
        lambda client: client.update_log_settings({"log_verbose_level": 1}),
    ],
)
def test_the_admin_protocols_are_shut_over_grpc_too(
    stack: Stack, call: Callable[[InferenceServerClient], object]
) -> None:
    with InferenceServerClient(stack.grpc_url) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="glm-admin-key"):
            call(client)
        assert client.get_inference_statistics("generation").model_stats  # these only read
