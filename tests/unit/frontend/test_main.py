"""``python -m glm_frontend``: bad settings stop it, good ones reach the server."""

import logging
from collections.abc import Iterator

import pytest
import uvicorn

from glm_frontend.__main__ import main
from glm_frontend.http.drain import DrainingServer


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[uvicorn.Config]]:
    """What uvicorn was started with."""
    calls: list[uvicorn.Config] = []

    def run(server: DrainingServer) -> None:
        calls.append(server.config)
        server.started = True

    monkeypatch.setattr(DrainingServer, "run", run)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield calls
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_bad_setting_stops_the_start(
    served: list[uvicorn.Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GLM_PORT", "abc")
    assert main() == 2
    assert capsys.readouterr().err.startswith("GLM_PORT='abc': ")
    assert not served


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [
        ("127.0.0.1", "", False),
        ("::1", "", False),
        ("localhost", "", False),
        ("0.0.0.0", "sk-a", False),
        ("0.0.0.0", "", True),
        ("glm.example", "", True),
    ],
)
def test_an_open_door_is_told(
    served: list[uvicorn.Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    keys: str,
    warns: bool,
) -> None:
    monkeypatch.setenv("GLM_HOST", host)
    monkeypatch.setenv("GLM_API_KEYS", keys)
    assert main() == 0
    told = "".join(capsys.readouterr())
    assert ("there are no keys" in told) == warns


def test_settings_reach_the_server(
    served: list[uvicorn.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLM_PORT", "9000")
    monkeypatch.setenv("GLM_LOG_LEVEL", "error")
    assert main() == 0
    (config,) = served
    assert (config.host, config.port) == ("127.0.0.1", 9000)
    assert logging.getLogger().level == logging.ERROR


def test_an_unknown_variable_is_reported(
    served: list[uvicorn.Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it is for a frontend or a page in a container of its own."""
    monkeypatch.setenv("GLM_MAX_INFLIGT", "3")
    assert main() == 0
    assert (
        "GLM_MAX_INFLIGT is ignored: there is no such setting; did you mean GLM_MAX_INFLIGHT?"
        in (capsys.readouterr().err)
    )
