"""The manual's troubleshooting table (5.1), line by line. Out of memory is in test_chaos.py."""

from collections.abc import Iterator

import pytest
import requests

from benchmarks.stack import START_TIMEOUT, Stack, wait_until
from e2e.calls import DESCRIPTIONS, chat, content, post

ORIGIN = "http://page.example"


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server that has just been started, with the settings that the table speaks of."""
    log = tmp_path_factory.mktemp("troubleshooting") / "launcher.log"
    server = Stack(log, GLM_MAX_IMAGE_SIDE="112", GLM_CORS_ORIGINS=ORIGIN)
    yield server
    server.kill()


def test_a_model_that_is_not_loaded_yet(starting: Stack) -> None:
    health = f"{starting.base_url}/v1/health"

    def listens() -> bool:
        try:
            return requests.get(f"{health}/live", timeout=10).status_code == 200
        except requests.ConnectionError:
            return False

    wait_until(listens, START_TIMEOUT)
    assert requests.get(health, timeout=10).json()["checks"]["generation"] == "loading"
    told, refused = set(), set()
    while (report := requests.get(health, timeout=10)).status_code == 503:
        told.add(report.json()["message"])
        response = post(starting, chat("hello"))
        if response.status_code == 503:
            refused.add(response.json()["error"]["message"])
            assert int(response.headers["retry-after"]) >= 1
    assert refused & told
    assert any("generation loading" in message for message in told), told
    starting.wait_ready()
    assert content(post(starting, chat("hello")))


def test_pictures_are_scaled_down_where_memory_is_short(starting: Stack) -> None:
    starting.wait_ready()
    answer = post(starting, chat("What is in this image?", "browser-two.png"))
    assert content(answer) == DESCRIPTIONS["browser-two.png"]
    details = answer.json()["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] == (112 // 28) ** 2  # it has 1000 x 1000 pixels


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,iVBORw0KGgo", "data:image/png;base64,not base64", "image/png;"]
)
def test_broken_base64_is_named(starting: Stack, url: str) -> None:
    starting.wait_ready()
    body = chat("What is it?", "plot-42.png")
    body["messages"][0]["content"][0]["image_url"]["url"] = url
    response = post(starting, body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == "messages[0].content[0].image_url.url"
    assert error["message"].startswith(error["param"])


def test_another_origin_is_let_in_by_a_setting(starting: Stack) -> None:
    starting.wait_ready()
    for origin, allowed in ((ORIGIN, ORIGIN), ("http://other.example", None)):
        response = requests.get(
            f"{starting.base_url}/v1/models", headers={"origin": origin}, timeout=10
        )
        assert response.headers.get("access-control-allow-origin") == allowed
