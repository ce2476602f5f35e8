"""Answers that are given once more, without the model server."""

import asyncio
import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.testclient import TestClient

from glm_client import (
    CallDelta,
    CallStart,
    InvalidRequestError,
    TextDelta,
    ThoughtDelta,
    TokenLogprob,
    TokenLogprobs,
)
from glm_frontend.app import create_app
from glm_frontend.core.answer_codec import from_bytes, to_bytes
from glm_frontend.core.answer_store import MemoryStore
from glm_frontend.core.boxes import Box
from glm_frontend.core.events import AnswerEvent, Event, Finish, TokenUsage, fold
from glm_frontend.media.fetch import ImageFetcher
from glm_frontend.settings import Settings, SettingsError, load_settings
from unit.frontend.fakes import (
    CHAT,
    MESSAGES,
    MODEL,
    MULTIMODAL,
    PIXEL,
    RESPONSES,
    FakeBackend,
    Visitor,
    chat,
)
from unit.frontend.fakes import picture as picture_part

TURNS = [{"role": "user", "content": "What is it?"}]
COMPLETIONS = "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": TURNS, "temperature": 0},
    RESPONSES: {"model": MODEL, "input": "What is it?", "temperature": 0},
    MESSAGES: {"model": MODEL, "messages": TURNS, "max_tokens": 50, "temperature": 0},
    COMPLETIONS: {"model": MODEL, "prompt": "What is it?", "temperature": 0},
    MULTIMODAL: {"prompt": "What is it?", "images": [PIXEL], "temperature": 0},
}
PASSING = {"id", "created", "created_at", "completed_at"}


def _answer(response: Any) -> Any:
    """The body, without what is new in each."""
    assert response.status_code == 200, response.text

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kept(item) for key, item in value.items() if key not in PASSING}
        return [kept(item) for item in value] if isinstance(value, list) else value

    return kept(response.json())


def _text(response: Any) -> str:
    """The text of a streamed chat completion."""
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


@pytest.mark.parametrize("path", BODIES)
def test_the_second_time_the_model_is_not_asked(
    client: TestClient, backend: FakeBackend, path: str
) -> None:
    first, second = (client.post(path, json=BODIES[path]) for _ in range(2))
    assert [one.headers["x-glm-cache"] for one in (first, second)] == ["miss", "hit"]
    assert _answer(first) == _answer(second)
    assert len(backend.requests) == 1


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("first_streams", [True, False])
def test_whole_and_streamed_answers_are_one(
    client: TestClient, backend: FakeBackend, path: str, first_streams: bool
) -> None:
    plain, streamed = BODIES[path], BODIES[path] | {"stream": True}
    bodies = [streamed, plain, streamed] if first_streams else [plain, streamed, plain]
    answers = [client.post(path, json=body) for body in bodies]
    assert [one.headers["x-glm-cache"] for one in answers] == ["miss", "hit", "hit"]
    assert len(backend.requests) == 1
    assert all(one.status_code == 200 for one in answers)
    if path == CHAT:
        texts = {
            _text(one) if body is streamed else one.json()["choices"][0]["message"]["content"]
            for one, body in zip(answers, bodies, strict=True)
        }
        assert len(texts) == 1 and all(texts)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5, "seed": 1},
        {"temperature": 0.5, "seed": 2},
        {"max_tokens": 7},
        {"cache_salt": "mine"},
        {"messages": [{"role": "user", "content": "What is it ?"}]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"stop": ["x"]},
        {"logprobs": True},
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    ],
)
def test_another_request_is_another(
    client: TestClient, backend: FakeBackend, change: dict[str, Any]
) -> None:
    client.post(CHAT, json=BODIES[CHAT])
    answer = client.post(CHAT, json=BODIES[CHAT] | change)
    assert answer.headers["x-glm-cache"] == "miss"
    assert client.post(CHAT, json=BODIES[CHAT] | change).headers["x-glm-cache"] == "hit"
    assert len(backend.requests) == 2


@pytest.mark.parametrize("temperature", [{"temperature": 0.7}, {"temperature": None}, {}])
def test_what_is_drawn_at_random_is_not_kept(
    client: TestClient, backend: FakeBackend, temperature: dict[str, Any]
) -> None:
    body = {"model": MODEL, "messages": TURNS} | temperature
    for _ in range(2):
        assert "x-glm-cache" not in client.post(CHAT, json=body).headers
    assert len(backend.requests) == 2


@pytest.mark.parametrize(
    ("directives", "first", "then"),
    [
        ("no-store", None, "miss"),
        ("no-cache", "miss", "hit"),
        ("No-Cache, no-store", None, "miss"),
        ("max-age=0", "hit", "hit"),
    ],
)
def test_cache_control(
    client: TestClient, backend: FakeBackend, directives: str, first: str | None, then: str
) -> None:
    """``no-cache``: computed anew, and kept; ``no-store``: neither given nor kept."""
    if directives == "max-age=0":
        client.post(CHAT, json=BODIES[CHAT])
    headers = {"cache-control": directives}
    answer = client.post(CHAT, json=BODIES[CHAT], headers=headers)
    assert answer.headers.get("x-glm-cache") == first
    assert client.post(CHAT, json=BODIES[CHAT]).headers["x-glm-cache"] == then
    asked = len(backend.requests)
    client.post(CHAT, json=BODIES[CHAT], headers=headers)
    assert len(backend.requests) == asked + (directives != "max-age=0")


def test_tenants_have_their_own() -> None:
    backend = FakeBackend()
    app = create_app(Settings(api_keys=(SecretStr("one"), SecretStr("two"))), backend)
    with TestClient(app) as client:
        found = [
            client.post(CHAT, json=BODIES[CHAT], headers={"authorization": f"Bearer {key}"})
            for key in ("one", "two", "one", "two")
        ]
    assert [one.headers["x-glm-cache"] for one in found] == ["miss", "miss", "hit", "hit"]


def test_off_keeps_nothing() -> None:
    backend = FakeBackend()
    with TestClient(create_app(Settings(response_cache=SecretStr("off")), backend)) as client:
        for _ in range(2):
            assert "x-glm-cache" not in client.post(CHAT, json=BODIES[CHAT]).headers
    assert len(backend.requests) == 2


def test_a_picture_is_known_by_its_bytes(backend: FakeBackend) -> None:
    """Whether it came as a data URI or by a URL."""
    picture = base64.b64decode(PIXEL.partition(",")[2])

    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    def serve(request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "image/png"}
        return httpx2.Response(200, stream=httpx2.ByteStream(picture), headers=headers)

    own = Settings()
    fetcher = ImageFetcher(own, httpx2.MockTransport(serve), resolve)
    with TestClient(create_app(own, backend, fetcher)) as client:
        results = []
        for url in (PIXEL, "https://example.com/a.png", "https://example.com/b.png"):
            body = chat([picture_part(url), {"type": "text", "text": "?"}], temperature=0)
            results.append(client.post(CHAT, json=body).headers["x-glm-cache"])
    assert results == ["miss", "hit", "hit"]


def test_errors_are_not_kept(client: TestClient, backend: FakeBackend) -> None:
    script, backend.script = backend.script, [InvalidRequestError("is bad", "messages[0]")]
    first = client.post(CHAT, json=BODIES[CHAT])
    assert first.status_code == 400
    backend.script = script
    assert client.post(CHAT, json=BODIES[CHAT]).headers["x-glm-cache"] == "miss"


def test_a_kept_answer_counts_no_tokens(client: TestClient) -> None:
    def counted() -> tuple[float, float, float]:
        lines = client.get("/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line and line[0] != "#")
        names = (
            "glm_frontend_completion_tokens_total",
            'glm_frontend_response_cache_total{result="hit"}',
            'glm_frontend_response_cache_total{result="miss"}',
        )
        completion, hits, misses = (float(values[name]) for name in names)
        return completion, hits, misses

    client.post(CHAT, json=BODIES[CHAT])
    before = counted()
    answer = client.post(CHAT, json=BODIES[CHAT])
    after = counted()
    assert answer.json()["usage"]["completion_tokens"] == before[0]
    assert (after[0], after[1], after[2]) == (before[0], before[1] + 1, before[2])


async def _visit(app: Any, path: str, body: dict[str, Any]) -> tuple[Visitor, asyncio.Task[Any]]:
    visitor = Visitor(app, path, body)
    return visitor, asyncio.create_task(visitor.run())


async def _wait_for(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def waiting_backend(backend: FakeBackend) -> Iterator[FakeBackend]:
    """Its answers wait for ever in the middle."""
    backend.script = [*backend.script[:2], None]
    yield backend


@pytest.mark.parametrize("stream", [True, False])
async def test_a_run_ends_with_its_last_reader(waiting_backend: FakeBackend, stream: bool) -> None:
    app = create_app(Settings(), waiting_backend)
    async with app.router.lifespan_context(app):
        body = BODIES[CHAT] | {"stream": stream}
        visits = [await _visit(app, CHAT, body) for _ in range(3)]
        await _wait_for(lambda: waiting_backend.waiting == 1)
        for _ in range(20):  # whatever the others would do
            await asyncio.sleep(0)
        assert len(waiting_backend.requests) == 1
        for visitor, task in visits[:2]:
            visitor.leave()
            await task
        assert waiting_backend.cancelled == 0
        visits[2][0].leave()
        await visits[2][1]
        await _wait_for(lambda: waiting_backend.cancelled == 1)


async def test_who_comes_in_the_middle_gets_everything(backend: FakeBackend) -> None:
    """The first leaves; the second, which has joined it, still gets the whole answer."""
    gate = asyncio.Event()
    original = backend.stream

    async def stream(request: Any, *, timeout: float | None = None) -> Any:
        async for item in original(request, timeout=timeout):
            yield item
            await gate.wait()

    backend.stream = stream  # type: ignore[method-assign]
    app = create_app(Settings(), backend)
    async with app.router.lifespan_context(app):
        body = BODIES[CHAT] | {"stream": True}
        first, first_task = await _visit(app, CHAT, body)
        await _wait_for(lambda: first.messages)
        second, second_task = await _visit(app, CHAT, body)
        await _wait_for(lambda: second.messages)
        first.leave()
        await first_task
        gate.set()
        await second_task
        sent = b"".join(message.get("body", b"") for message in second.messages).decode()
        headers = dict(second.messages[0]["headers"])
        assert headers[b"x-glm-cache"] == b"shared"
        assert sent.endswith("data: [DONE]\n\n") and " circle." in sent
        assert len(backend.requests) == 1 and backend.cancelled == 0


async def test_an_error_reaches_everybody_with_the_names_of_its_api(backend: FakeBackend) -> None:
    gate = asyncio.Event()

    async def stream(request: Any, *, timeout: float | None = None) -> Any:
        backend.requests.append(request)
        await gate.wait()
        raise InvalidRequestError("is bad", "messages[0].content")
        yield

    backend.stream = stream  # type: ignore[method-assign]
    app = create_app(Settings(), backend)
    async with app.router.lifespan_context(app):
        chat = BODIES[CHAT] | {"chat_template_kwargs": {"enable_thinking": True}}
        visits = [await _visit(app, CHAT, chat) for _ in range(2)]
        await _wait_for(lambda: backend.requests)
        await asyncio.sleep(0.05)
        gate.set()
        for visitor, task in visits:
            await task
            assert visitor.messages[0]["status"] == 400
            error = json.loads(visitor.messages[1]["body"])["error"]
            assert error["param"] == "messages[0].content"
        assert len(backend.requests) == 1


# ---- the store ----


async def test_memory_is_bounded_in_bytes_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("glm_frontend.core.answer_store.time.monotonic", lambda: now[0])
    store = MemoryStore(max_bytes=800, seconds=10)
    for number in range(10):
        await store.put(b"%d" % number, bytes(100))
    assert await store.get(b"0") is None and await store.get(b"1") is None
    assert await store.get(b"2") == bytes(100)
    await store.put(b"large", bytes(101))
    assert await store.get(b"large") is None
    now[0] = 10.5
    assert await store.get(b"2") is None


@pytest.mark.parametrize("value", ["on", "http://host", "memory:"])
def test_a_bad_store_is_named_and_its_password_is_not(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GLM_RESPONSE_CACHE", f"{value}:secret")
    with pytest.raises(SettingsError, match="GLM_RESPONSE_CACHE: must be off, memory") as error:
        load_settings()
    assert "secret" not in str(error.value)
    monkeypatch.setenv("GLM_RESPONSE_CACHE", "redis://:secret@host")
    assert "secret" not in repr(load_settings())


TEXT = st.text(max_size=5)
TOKENS = st.builds(
    TokenLogprob,
    st.integers(0, 2**31),
    TEXT,
    st.binary(max_size=4),
    st.floats(allow_nan=False, max_value=0),
    st.integers(1, 10),
)
NOTES = st.builds(TokenLogprobs, TOKENS, st.lists(TOKENS, max_size=2).map(tuple))
ALL_NOTES = st.lists(NOTES, max_size=2).map(tuple)
BOXES = st.builds(Box, st.tuples(*[st.integers(0, 9)] * 4), st.none() | TEXT)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(ThoughtDelta, TEXT, ALL_NOTES),
    st.builds(TextDelta, TEXT, ALL_NOTES),
    st.builds(CallStart, st.integers(0, 2), TEXT),
    st.builds(CallDelta, st.integers(0, 2), TEXT),
)
ENDS = st.builds(
    Finish,
    st.sampled_from(["stop", "length"]),
    st.none() | TEXT | st.integers(0, 9),
    st.none() | st.lists(BOXES, max_size=2),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), EVENTS), max_size=8), ENDS)
def test_what_is_kept_is_what_was_answered(
    pieces: Sequence[tuple[int, Event]], end: Finish
) -> None:
    usage = TokenUsage(1, 2, 3, 4, 5)
    calls = [(choice, CallStart(i, "f")) for choice in (0, 1) for i in range(3)]
    events = [
        AnswerEvent(choice, event, usage)
        for choice, event in [*calls, *pieces, (0, end), (1, Finish("stop"))]
    ]
    again = from_bytes(to_bytes(events))
    assert all(event.usage == usage for event in again)
    assert [(a.thought, a.text, a.calls, a.logprobs) for a in fold(again)] == [
        (a.thought, a.text, a.calls, a.logprobs) for a in fold(events)
    ]
    for one, other in zip(fold(again), fold(events), strict=True):
        assert one.finish == other.finish
    kinds = [type(event.event) for event in again]
    assert kinds.count(Finish) == 2 and len(again) <= len(events)


@pytest.mark.parametrize("data", [b"{}", b"[]", b"x", b'{"usage": [1], "events": [[0, "new", 1]]}'])
def test_what_another_version_has_kept_is_no_answer(data: bytes) -> None:
    with pytest.raises(ValueError):
        from_bytes(data)
