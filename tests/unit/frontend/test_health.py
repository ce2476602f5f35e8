"""Health: only an answer is proof."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from glm_client import (
    DeadlineExceededError,
    GLMError,
    InternalError,
    OverloadedError,
    UnavailableError,
)
from glm_client.errors import error_from_text
from glm_frontend.core.health import FRESH_SECONDS, HealthProbe
from unit.frontend.fakes import CHAT, FakeBackend, chat
from waiting import TIMEOUT, Clock

OK = {"triton": "ok", "preprocessing": "ok", "generation": "ok"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lost(text: str) -> UnavailableError:
    """What Triton says of a process that died."""
    error = error_from_text(text)
    assert isinstance(error, UnavailableError)
    return error


@pytest.fixture
def probe(backend: FakeBackend, clock: Clock) -> HealthProbe:
    return HealthProbe(backend, clock=clock)


async def test_an_answer_is_proof(probe: HealthProbe, backend: FakeBackend) -> None:
    health = await probe.check()
    assert (health.status, health.checks) == ("ok", OK)
    (request,) = backend.requests
    assert request.sampling_parameters["max_tokens"] == 1
    assert backend.timeouts == [5]


async def test_a_server_that_was_never_there_may_be_loading(
    probe: HealthProbe, backend: FakeBackend, clock: Clock
) -> None:
    backend.live = False
    assert (await probe.check()).checks["triton"] == "loading"
    backend.live = True
    clock.now += FRESH_SECONDS
    assert (await probe.check()).checks["triton"] == "ok"
    backend.live = False
    clock.now += FRESH_SECONDS
    health = await probe.check()
    assert (health.status, health.checks["triton"]) == ("unavailable", "unreachable")


async def test_what_the_launcher_starts_again(
    backend: FakeBackend, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "status.json"
    probe = HealthProbe(backend, file, clock)
    probe.note_failure(lost("Stub process 'generation_0_0' is not healthy"))
    file.write_text(
        json.dumps({"checks": {"generation": "restarting"}, "message": "generation: it hung"})
    )
    health = await probe.check()
    assert (health.status, health.message) == ("unavailable", "generation: it hung")
    assert health.checks == OK | {"generation": "restarting"}
    assert not backend.requests
    file.unlink()
    assert (await probe.check()).checks == OK  # the failure of before is forgotten
    assert len(backend.requests) == 1


def test_that_it_lives_does_not_depend_on_the_model(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.live = False
    assert client.get("/v1/health").status_code == 503
    response = client.get("/v1/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "live"})


async def test_models_that_are_loading(probe: HealthProbe, backend: FakeBackend) -> None:
    backend.ready = {"preprocessing": True, "generation": False}
    health = await probe.check()
    assert (health.status, health.checks) == ("unavailable", OK | {"generation": "loading"})
    assert "generation" in health.message
    assert not backend.requests


@pytest.mark.parametrize(
    ("error", "changed"),
    [
        (
            error_from_text("Stub process 'generation_0_0' is not healthy"),
            {"generation": "failed"},
        ),
        (
            UnavailableError("it is not available", stage="preprocessing"),
            {"preprocessing": "failed"},
        ),
        (InternalError("?"), {"generation": "failed"}),
    ],
)
async def test_no_answer(
    probe: HealthProbe, backend: FakeBackend, error: GLMError, changed: dict[str, str]
) -> None:
    backend.script = [error]
    health = await probe.check()
    assert (health.status, health.checks) == ("unavailable", OK | changed)


def test_a_full_server_answers_and_is_not_to_be_taken_out(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = [OverloadedError("queue full: 8")]
    response = client.get("/v1/health")
    assert (response.status_code, response.json()["status"]) == (200, "full")
    assert response.json()["checks"] == OK | {"generation": "overloaded"}
    assert backend.requests[0].tenant == "health"


async def test_callers_share_one_check(probe: HealthProbe, backend: FakeBackend) -> None:
    reports = await asyncio.gather(*(probe.check() for _ in range(5)))
    assert len(backend.requests) == 1
    assert all(report.status == "ok" for report in reports)


async def test_a_caller_that_leaves_does_not_end_the_check(
    probe: HealthProbe, backend: FakeBackend
) -> None:
    first = asyncio.create_task(probe.check())
    await asyncio.sleep(0)
    second = asyncio.create_task(probe.check())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).status == "ok"
    assert len(backend.requests) == 1


async def test_a_report_is_fresh_for_a_while(
    probe: HealthProbe, backend: FakeBackend, clock: Clock
) -> None:
    await probe.check()
    clock.now += FRESH_SECONDS - 0.1
    await probe.check()
    assert len(backend.requests) == 1
    clock.now += 0.1
    await probe.check()
    assert len(backend.requests) == 2


async def test_a_real_answer_is_proof_as_well(
    probe: HealthProbe, backend: FakeBackend, clock: Clock
) -> None:
    probe.note_success()
    backend.script = [InternalError("?")]
    assert (await probe.check()).status == "ok"
    clock.now += FRESH_SECONDS
    assert (await probe.check()).status == "unavailable"
    probe.note_success()
    assert (await probe.check()).status == "ok"


async def test_a_failure_weighs_more_than_a_success(probe: HealthProbe, clock: Clock) -> None:
    probe.note_failure(lost("Stub process 'preprocessing_0_1' is not healthy"))
    probe.note_success()
    health = await probe.check()
    assert (health.status, health.checks) == ("unavailable", OK | {"preprocessing": "failed"})
    clock.now += FRESH_SECONDS
    assert (await probe.check()).status == "ok"


def test_the_endpoint(client: TestClient) -> None:
    response = client.get("/v1/health")
    assert response.status_code == 200
    assert response.json()["checks"] == OK


def test_the_endpoint_when_a_stage_is_dead(client: TestClient, backend: FakeBackend) -> None:
    backend.script = [error_from_text("Stub process 'preprocessing_0_0' is not healthy")]
    response = client.get("/v1/health")
    body: dict[str, Any] = response.json()
    assert response.status_code == 503
    assert (body["status"], body["checks"]["preprocessing"]) == ("unavailable", "failed")
    assert body["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_failures_of_the_chat_count(
    client: TestClient, backend: FakeBackend, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm_frontend.core.health.FRESH_SECONDS", 1000)  # it need not be quick
    answer, backend.script = backend.script, [UnavailableError("gone")]
    client.post(CHAT, json=chat(stream=stream))
    backend.script = answer
    assert client.get("/v1/health").status_code == 503


@pytest.mark.parametrize("stream", [False, True])
def test_answers_of_the_chat_count(
    client: TestClient, backend: FakeBackend, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm_frontend.core.health.FRESH_SECONDS", 1000)  # it need not be quick
    client.post(CHAT, json=chat(stream=stream))
    assert client.get("/v1/health").status_code == 200
    assert len(backend.requests) == 1


async def test_a_server_that_hangs_is_told_from_one_that_answers(
    probe: HealthProbe, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr("glm_frontend.core.health.PROBE_TIMEOUT", 0.05)
    monkeypatch.setattr(backend, "server_live", hang)
    health = await asyncio.wait_for(probe.check(), TIMEOUT)
    assert (health.status, health.checks["triton"]) == ("unavailable", "unreachable")


async def test_a_slow_answer_is_load_and_no_death(probe: HealthProbe, backend: FakeBackend) -> None:
    backend.script = [DeadlineExceededError("too late")]
    health = await probe.check()
    assert (health.status, health.checks["generation"]) == ("unavailable", "overloaded")
