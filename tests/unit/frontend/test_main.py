"""``python -m glm_frontend``: bad settings stop it, good ones reach the server."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from glm_frontend.__main__ import main


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What uvicorn was started with."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("uvicorn.run", lambda app, **options: calls.append({"app": app, **options}))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield calls
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_bad_setting_stops_the_start(
    served: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GLM_PORT", "abc")
    assert main() == 2
    assert capsys.readouterr().err.startswith("GLM_PORT='abc': ")
    assert not served


def test_settings_reach_the_server(
    served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLM_PORT", "9000")
    monkeypatch.setenv("GLM_GRACEFUL_TIMEOUT", "7")
    monkeypatch.setenv("GLM_LOG_LEVEL", "error")
    assert main() == 0
    (options,) = served
    assert (options["host"], options["port"]) == ("127.0.0.1", 9000)
    assert options["timeout_graceful_shutdown"] == 7
    assert logging.getLogger().level == logging.ERROR
