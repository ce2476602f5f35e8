"""The manual's troubleshooting table (5.1), line by line. Out of memory is in test_chaos.py."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests

from e2e.calls import DESCRIPTIONS, chat, content, post
from e2e.loading import HeldModels
from tools.stack import START_TIMEOUT, Stack
from waiting import wait_until

ORIGIN = "http://page.example"


@dataclass
class Starting:
    """A server, and its models, which it loads when they are let go."""

    stack: Stack
    models: HeldModels

    def ready(self) -> Stack:
        """The server, when it is."""
        self.models.let_go()
        self.stack.wait_ready()
        return self.stack


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starting]:
    """A server that has just been started, with the settings that the table speaks of."""
    folder = tmp_path_factory.mktemp("troubleshooting")
    models = HeldModels(folder)
    settings = {"GLM_MAX_IMAGE_SIDE": "112", "GLM_CORS_ORIGINS": ORIGIN}
    server = Stack(folder / "launcher.log", **settings, **models.settings)
    yield Starting(server, models)
    server.kill()


@pytest.mark.timing
def test_a_model_that_is_not_loaded_yet(started: Starting) -> None:
    starting = started.stack
    health = f"{starting.base_url}/v1/health"

    def listens() -> bool:
        try:
            return requests.get(f"{health}/live", timeout=60).status_code == 200
        except requests.ConnectionError:
            return False

    wait_until(listens, START_TIMEOUT)
    assert requests.get(health, timeout=60).json()["checks"]["generation"] == "loading"
    told: set[str] = set()
    refused: set[str] = set()
    while (report := requests.get(health, timeout=60)).status_code == 503:
        told.add(report.json()["message"])
        if refused & told:
            started.models.let_go()
        response = post(starting, chat("hello"))
        if response.status_code == 503:
            refused.add(response.json()["error"]["message"])
            assert int(response.headers["retry-after"]) >= 1
    assert refused & told
    assert any("generation loading" in message for message in told), told
    assert content(post(started.ready(), chat("hello")))


def test_pictures_are_scaled_down_where_memory_is_short(started: Starting) -> None:
    starting = started.ready()
    answer = post(starting, chat("What is in this image?", "browser-two.png"))
    assert content(answer) == DESCRIPTIONS["browser-two.png"]
    details = answer.json()["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] == (112 // 28) ** 2  # it has 1000 x 1000 pixels


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,iVBORw0KGgo", "data:image/png;base64,not base64", "image/png;"]
)
def test_broken_base64_is_named(started: Starting, url: str) -> None:
    starting = started.ready()
    body = chat("What is it?", "plot-42.png")
    body["messages"][0]["content"][0]["image_url"]["url"] = url
    response = post(starting, body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == "messages[0].content[0].image_url.url"
    assert error["message"].startswith(error["param"])


def test_another_origin_is_let_in_by_a_setting(started: Starting) -> None:
    starting = started.ready()
    for origin, allowed in ((ORIGIN, ORIGIN), ("http://other.example", None)):
        response = requests.get(
            f"{starting.base_url}/v1/models", headers={"origin": origin}, timeout=60
        )
        assert response.headers.get("access-control-allow-origin") == allowed
