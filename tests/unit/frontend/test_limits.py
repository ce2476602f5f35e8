"""Permits: held until the last byte, and a 429 when there is none."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.testclient import TestClient

from glm_client import OverloadedError
from glm_frontend.admission.inflight_bytes import InflightBytes
from glm_frontend.admission.permits import InflightLimiter
from glm_frontend.admission.rates import RateLimiter, parse_rates
from glm_frontend.admission.refusals import REFUSAL_SHARE, Refusals
from glm_frontend.app import _routes_with_permit, create_app
from glm_frontend.errors import APIError, overloaded
from glm_frontend.http.middleware import RefusalMiddleware
from glm_frontend.settings import Settings
from unit.frontend.fakes import ANSWER, CHAT, FakeBackend, Visitor, chat
from waiting import Clock, until


def test_permits_come_back() -> None:
    limiter = InflightLimiter(2)
    with limiter.acquire(), limiter.acquire():
        with pytest.raises(APIError) as error:
            limiter.acquire()
        assert error.value.status == 429
    with limiter.acquire():
        assert limiter.inflight == 1
    assert limiter.inflight == 0


@pytest.mark.timing
@pytest.mark.parametrize("stream", [False, True])
async def test_one_too_many_gets_a_429(stream: bool) -> None:
    backend = FakeBackend([ANSWER[0], None])
    app = create_app(Settings(max_inflight=1), backend)
    async with app.router.lifespan_context(app):
        first = Visitor(app, CHAT, chat(stream=stream))
        running = asyncio.create_task(first.run())
        await until(lambda: backend.requests and (not stream or len(first.messages) >= 2))

        second = Visitor(app, CHAT, chat())
        await second.run()
        assert second.status == 429
        assert (b"retry-after", b"1") in second.messages[0]["headers"]

        first.leave()
        await running
        backend.script = ANSWER
        third = Visitor(app, CHAT, chat())
        await third.run()
        assert third.status == 200


async def test_errors_give_the_permit_back() -> None:
    app = create_app(Settings(max_inflight=1), FakeBackend())
    async with app.router.lifespan_context(app):
        for _ in range(3):
            visitor = Visitor(app, CHAT, chat(max_tokens=0))
            await visitor.run()
            assert visitor.status == 400


def test_one_principal_cannot_take_all() -> None:
    limiter = InflightLimiter(50, is_fair=True)
    taken = 0
    with suppress(APIError):
        while True:
            limiter.acquire("flood")
            taken += 1
    assert taken == 40  # four fifths
    limiter.acquire("trickle")


@pytest.mark.parametrize("max_inflight", range(2, 30))
def test_one_leaves_room_for_another_however_small_the_server(max_inflight: int) -> None:
    limiter = InflightLimiter(max_inflight, is_fair=True)
    with suppress(APIError):
        while True:
            limiter.acquire("flood")
    limiter.acquire("trickle")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())), st.integers(1, 20))
def test_there_is_always_room_for_who_has_none(
    events: list[tuple[str, bool]], max_inflight: int
) -> None:
    limiter = InflightLimiter(max_inflight, is_fair=True)
    held: Counter[str] = Counter()
    for principal, comes in events:
        if comes:
            try:
                limiter.acquire(principal)
            except APIError:
                full = limiter.inflight == max_inflight
                assert full or held[principal], "refused, though it had none and there was room"
            else:
                held[principal] += 1
        elif held[principal]:
            limiter.give_back(principal)
            held[principal] -= 1
        assert limiter.inflight == held.total() <= max_inflight


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_queue_is_not_asked_again_at_once(stream: bool) -> None:
    backend = FakeBackend([OverloadedError("queue full", 2)])
    settings = Settings(api_keys=(SecretStr("a"), SecretStr("b")))

    def ask(key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        response = client.post(CHAT, json=chat(stream=stream), headers=headers)
        if response.status_code != 200:
            assert response.headers["retry-after"] == "2"
            assert response.json()["error"]["code"] == "overloaded"
        return int(response.status_code)

    app = create_app(settings, backend)
    with TestClient(app) as client:
        app.state.services.refusals._clock = clock = Clock()
        assert [ask("a"), ask("a")] == [429, 429]
        assert len(backend.requests) == 1
        backend.script = ANSWER
        assert ask("b") == 200  # another's queue
        clock.now += 2 * REFUSAL_SHARE
        assert ask("a") == 200


@pytest.mark.parametrize(("told", "seconds"), [(1, 0.0), (2, 0.5), (60, 1.0)])
def test_for_how_long_it_is_not_asked(told: int, seconds: float) -> None:
    now = 100.0
    refusals = Refusals(clock=lambda: now)
    refusals.note("a", overloaded("The queue is full.", "queue", told))
    if seconds:
        now += seconds - 0.01
        with pytest.raises(APIError, match="The queue is full"):
            refusals.check("a")
        now += 0.02
    refusals.check("a")


def test_who_is_refused_gets_in_where_others_leave() -> None:
    now = 100.0
    refusals = Refusals(clock=lambda: now)
    refusals.note_answer("a")  # nothing is held against it

    def passes() -> int:
        count = 0
        with suppress(APIError):
            while count < 100:
                refusals.check("a")
                count += 1
        return count

    refusals.note("a", overloaded("The queue is full.", "queue", 2))
    assert passes() == 0
    for _ in range(4):
        refusals.note_answer("a")
        refusals.note_answer("b")
    assert passes() == 6  # one for each, and two to find out
    refusals.note_answer("a")
    refusals.note("a", overloaded("The queue is full.", "queue", 2))
    assert passes() == 0
    now += 0.5
    assert passes() == 100


async def test_an_answer_lets_the_next_one_pass() -> None:
    backend = FakeBackend(ANSWER)
    app = create_app(Settings(), backend)
    async with app.router.lifespan_context(app):
        refusals = app.state.services.refusals
        refusals._clock = Clock()

        async def status() -> int:
            visitor = Visitor(app, CHAT, chat(stream=True))
            await visitor.run()
            return visitor.status

        refusals.note("", overloaded("The queue is full.", "queue", 4))
        assert await status() == 429
        refusals.note_answer("")
        assert [await status() for _ in range(3)] == [200, 200, 200]
        refusals.note("", overloaded("The queue is full.", "queue", 4))
        assert await status() == 429


@pytest.mark.parametrize("early", [True, False])
def test_a_certain_refusal_is_the_same_wherever_it_is_said(
    early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not early:
        monkeypatch.setattr(RefusalMiddleware, "_refusal", lambda self, scope: None)
    with _app(api_keys=(SecretStr("a-key"), SecretStr("b-key"))) as client:
        app: Any = client.app
        services = app.state.services
        services.refusals._clock = Clock()  # the refusal is for a second, which all this may take
        name = services.keys.check("a-key").name
        services.refusals.note(name, overloaded("The queue is full.", "queue", 60))

        def ask(path: str, key: str, **headers: str) -> Any:
            headers["authorization"] = f"Bearer {key}"
            if path == "/tokenizer_info":
                return client.get(path, headers=headers)
            return client.post(path, json=chat(), headers=headers)

        response = ask(CHAT, "a-key", **{"x-request-id": "mine"})
        assert response.status_code == 429
        assert response.json()["error"] == {
            "message": "The queue is full.",
            "type": "rate_limit_error",
            "param": None,
            "code": "overloaded",
            "request_id": "mine",
        }
        assert response.headers["retry-after"] == "60"
        assert response.headers["x-request-id"] == "mine"
        for path in _routes_with_permit():
            assert ask(path, "a-key").status_code == 429, path
        message = client.post("/v1/messages", json=chat(), headers={"x-api-key": "a-key"})
        assert message.json()["error"]["type"] == "rate_limit_error"
        assert ask("/v1/messages", "a-key").json()["error"]["type"] == "rate_limit_error"
        assert ask(CHAT, "b-key").status_code == 200
        assert ask(CHAT, "c-key").status_code == 401
        assert client.post(CHAT, json=chat()).status_code == 401
        assert client.post("/tokenize", json={}, headers={"x-api-key": "a-key"}).status_code == 401
        counts = client.get("/metrics", headers={"authorization": "Bearer a-key"}).text
        assert 'glm_frontend_requests_rejected_total{reason="queue"} ' in counts
        assert f'route="{CHAT}",status="429"' in counts.replace(" ", "")
        services.draining.set()
        assert ask(CHAT, "a-key").status_code == 503


def test_the_routes_that_can_be_full() -> None:
    assert {CHAT, "/v1/completions", "/v1/responses", "/v1/messages"} <= set(_routes_with_permit())
    assert not {"/v1/models", "/v1/health", "/metrics"} & set(_routes_with_permit())


def _app(**settings: Any) -> TestClient:
    return TestClient(create_app(Settings(**settings), FakeBackend()))


def test_a_rate_limit_is_told_before_and_when_it_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", Clock())
    with _app(rate_limit="100/hour;2/minute") as client:
        remaining = []
        for _ in range(2):
            response = client.post(CHAT, json=chat())
            assert response.status_code == 200
            assert response.headers["x-ratelimit-limit-requests"] == "2"
            remaining.append(response.headers["x-ratelimit-remaining-requests"])
        assert remaining == ["1", "0"]
        refused = client.post(CHAT, json=chat())
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            429,
            "rate_limit_exceeded",
        )
        assert 50 < int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        for path in ("/v1/health", "/v1/models"):
            assert client.get(path).status_code == 200


def test_each_key_has_a_rate_of_its_own(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("a-key\nb-key rate=3/minute\n")
    with _app(api_keys=(SecretStr("c-key"),), api_keys_file=file, rate_limit="1/minute") as client:
        allowed = {}
        for key in ("a-key", "b-key", "c-key"):
            headers = {"authorization": f"Bearer {key}"}
            statuses = [
                client.post(CHAT, json=chat(), headers=headers).status_code for _ in range(5)
            ]
            allowed[key] = statuses.count(200)
            assert set(statuses) == {200, 429}
    assert allowed == {"a-key": 1, "b-key": 3, "c-key": 1}


class Slow(Visitor):
    """Sends the first byte of its body, and the rest when it is told to."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()

    async def _receive(self) -> Any:
        if not self.begun.is_set():
            self.begun.set()
            return {"type": "http.request", "body": self._body[:1], "more_body": True}
        await self.go_on.wait()
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body[1:], "more_body": False}
        return await super()._receive()


async def test_a_body_that_trickles_in_holds_no_permit() -> None:
    app = create_app(Settings(max_inflight=1), FakeBackend())
    async with app.router.lifespan_context(app):
        slow = Slow(app, CHAT, chat())
        running = asyncio.create_task(slow.run())
        await slow.begun.wait()
        quick = Visitor(app, CHAT, chat())
        await quick.run()
        assert quick.status == 200
        slow.go_on.set()
        await running
        assert slow.status == 200


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    app = create_app(Settings(body_timeout=0.05), FakeBackend())
    async with app.router.lifespan_context(app):
        slow = Slow(app, CHAT, chat())
        await slow.run()
        assert slow.status == 408
        assert "body_timeout" in slow.text and "0.05 s" in slow.text


async def test_bodies_are_bounded_together_but_one_alone_passes() -> None:
    app = create_app(Settings(max_inflight_bytes=100), FakeBackend())
    async with app.router.lifespan_context(app):
        alone = Visitor(app, CHAT, chat("x" * 200))
        await alone.run()
        assert alone.status == 200
        slow = Slow(app, CHAT, chat())
        running = asyncio.create_task(slow.run())
        await slow.begun.wait()
        large = Visitor(app, CHAT, chat("x" * 200))
        await large.run()
        assert large.status == 429
        assert (b"retry-after", b"1") in large.messages[0]["headers"]
        slow.go_on.set()
        await running
        assert slow.status == 200


def test_one_keys_bytes_leave_room_for_anothers() -> None:
    inflight = InflightBytes(1000, is_fair=True)
    flood = [inflight.of_request() for _ in range(9)]
    for request in flood[:8]:
        request.hold(100, "flood")
    with pytest.raises(APIError) as error:
        flood[8].hold(100, "flood")
    assert (error.value.status, error.value.refusal) == (429, "share")
    flood[8].give_back()
    other = inflight.of_request()
    other.hold(100, "other")
    other.hold(50)  # as when a picture is fetched
    for request in (*flood, other):
        request.give_back()
    inflight.of_request().hold(2000, "alone")


def test_bytes_of_all_keys_together_are_bounded() -> None:
    inflight = InflightBytes(1000)
    first, second = inflight.of_request(), inflight.of_request()
    first.hold(900, "")
    with pytest.raises(APIError) as error:
        second.hold(200, "")
    assert (error.value.status, error.value.refusal) == (429, "bytes")


def test_a_refused_request_counts_nowhere_and_not_all_that_came_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("glm_frontend.admission.rates.MAX_WINDOWS", 10)
    limiter = RateLimiter(parse_rates("1/minute;5/hour"))
    for _ in range(4):
        with suppress(APIError):
            limiter.hit("a")
    assert limiter.hit("b")["x-ratelimit-remaining-requests"] == "0"
    hour = parse_rates("5/hour")[0]
    assert limiter._windows.get_window_stats(hour, "a").remaining == 4
    for number in range(100):
        limiter.hit(f"client-{number}")
        assert len(limiter._storage.events) <= 12
