"""What /metrics tells, and to whom."""

import asyncio
from collections.abc import Iterator

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.testclient import TestClient

from glm_client import OverloadedError
from glm_frontend.app import create_app
from glm_frontend.core.events import TokenUsage
from glm_frontend.core.record import AnswerRecord
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import REFUSALS
from glm_frontend.media.fetch import ImageFetcher
from glm_frontend.observability.metrics import Metrics
from glm_frontend.settings import Settings
from unit.frontend.fakes import CHAT, PIXEL, FakeBackend, Visitor, chat, delta, picture
from waiting import until

OK = {"method": "POST", "route": CHAT, "status": "200"}


def value(client: TestClient, name: str, **labels: str) -> float | None:
    """Of a sample; None where there is none."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return next(
        (
            sample.value
            for family in families
            for sample in family.samples
            if (sample.name, sample.labels) == (f"glm_frontend_{name}", labels)
        ),
        None,
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_and_its_tokens(client: TestClient, stream: bool) -> None:
    body = client.post(CHAT, json=chat(stream=stream))
    assert value(client, "http_requests_total", **OK) == 1
    assert value(client, "http_request_duration_seconds_count", route=CHAT) == 1
    assert value(client, "http_request_bytes_total", route=CHAT) == len(body.request.content)
    assert value(client, "http_response_bytes_total", route=CHAT) == len(body.content)
    for name, count in (("prompt", 30), ("image", 25), ("cached", 16), ("completion", 4)):
        assert value(client, f"{name}_tokens_total") == count
    assert value(client, "reasoning_tokens_total") == 2
    # Only a stream tells when its first token came.
    assert value(client, "time_to_first_token_seconds_count") == int(stream)
    assert value(client, "time_per_output_token_seconds_count") == int(stream)


def test_no_label_is_what_a_client_makes_up(client: TestClient) -> None:
    for n in range(3):
        client.get(f"/nowhere/{n}")
        client.get(f"/v1/models/{n}")
        client.request(f"VERB{n}", CHAT)
    names = [name for name in client.get("/metrics").text.split('"') if "/" in name]
    assert not [name for name in names if name[-1].isdigit()]
    assert value(client, "http_requests_total", method="GET", route="other", status="404") == 3
    route = "/v1/models/{model_id:path}"
    assert value(client, "http_requests_total", method="GET", route=route, status="404") == 3
    assert value(client, "http_requests_total", method="other", route=CHAT, status="405") == 3


def test_every_code_of_an_error_is_there_from_the_beginning(client: TestClient) -> None:
    assert {value(client, "errors_total", code=code) for code in ErrorCode} == {0}


def test_errors_by_code_also_in_streams(client: TestClient, backend: FakeBackend) -> None:
    client.post(CHAT, content=b"no json", headers={"content-type": "application/json"})
    assert value(client, "errors_total", code="invalid_json") == 1
    backend.script = (delta("<think>a thought</think>\nA "), OverloadedError("full"))
    assert client.post(CHAT, json=chat(stream=True)).status_code == 200
    assert value(client, "errors_total", code="overloaded") == 1


def test_refusals_by_what_there_was_no_room_for(client: TestClient, backend: FakeBackend) -> None:
    assert {value(client, "requests_rejected_total", reason=reason) for reason in REFUSALS} == {0}
    backend.script = (OverloadedError("full"),)
    assert client.post(CHAT, json=chat()).status_code == 429
    assert value(client, "requests_rejected_total", reason="queue") == 1


@pytest.mark.timing
async def test_in_flight_and_a_client_that_leaves() -> None:
    app = create_app(Settings(max_inflight=7), FakeBackend([delta("a"), None]))
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, CHAT, chat(stream=False))
        running = asyncio.create_task(visitor.run())
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            await until(lambda: app.state.services.limiter.inflight == 1)
            text = (await client.get("/metrics")).text
            assert "\nglm_frontend_requests_in_flight 1.0\n" in text
            assert "\nglm_frontend_requests_in_flight_limit 7.0\n" in text
            visitor.leave()
            await running
            text = (await client.get("/metrics")).text
    assert "\nglm_frontend_requests_in_flight 0.0\n" in text
    assert f'{{method="POST",route="{CHAT}",status="499"}} 1.0' in text


def test_what_is_fetched() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        status = 404 if request.url.path == "/gone" else 200
        stream = httpx2.ByteStream(b"x")
        return httpx2.Response(status, headers={"content-type": "image/png"}, stream=stream)

    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    settings, metrics = Settings(), Metrics()
    fetcher = ImageFetcher(
        settings, httpx2.MockTransport(answer), resolve, on_fetched=metrics.count_fetch
    )
    with TestClient(create_app(settings, FakeBackend(), fetcher)) as client:
        for url in ("http://a.example/x", "http://a.example/gone", PIXEL):
            client.post(CHAT, json=chat([picture(url)]))
    value = metrics.registry.get_sample_value
    name = "glm_frontend_media_fetches_total"
    assert value(name, {"kind": "image", "result": "ok"}) == 1
    assert value(name, {"kind": "image", "result": "image_fetch_failed"}) == 1
    count = "glm_frontend_media_fetch_duration_seconds_count"
    assert value(count, {"kind": "image"}) == 2  # a data URI is no fetch


def usage(completion: int) -> TokenUsage:
    return TokenUsage(prompt=1, completion=completion)


def test_times_of_a_stream_of_two_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.5, 100.6, 101.5])
    monkeypatch.setattr("glm_frontend.core.record.time.perf_counter", lambda: next(now))
    answer = AnswerRecord("chat", began=100.0)
    assert (answer.time_to_first_token, answer.time_per_output_token) == (None, None)
    answer.note_piece(usage(2), 2)
    assert (answer.time_to_first_token, answer.time_per_output_token) == (0.5, None)
    answer.note_piece(usage(4), 2)
    answer.note_piece(usage(22), 2)
    assert answer.time_to_first_token == 0.5
    assert answer.time_per_output_token == pytest.approx(0.1)  # ten more of each in a second


@pytest.fixture
def locked() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(api_keys=(SecretStr("key-1"),)), FakeBackend())) as client:
        yield client


def test_where_there_are_keys_it_wants_one(locked: TestClient) -> None:
    assert locked.get("/metrics").status_code == 401
    assert locked.get("/metrics", headers={"authorization": "Bearer key-1"}).status_code == 200
    assert "key-1" not in locked.get("/metrics", headers={"authorization": "Bearer key-1"}).text


def test_unless_the_operator_opens_it() -> None:
    settings = Settings(api_keys=(SecretStr("key-1"),), metrics_public=True)
    with TestClient(create_app(settings, FakeBackend())) as client:
        assert client.get("/metrics").status_code == 200
        assert client.get("/v1/models").status_code == 401
