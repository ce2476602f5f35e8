"""The model repository in a tritonserver without the launcher; `make reloads` is the long form."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stress.reloads import EXPLICIT, POLL, change_versions, poll, reload_under_load
from tools.plain_triton import PlainTriton, copy_models, digest

RENAMED = {"generation": "vision", "preprocessing": "prompts"}

# Where cores are short, Triton 24.10 crashes now and then (triton-inference-server/server#8882).
pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainTriton]:
    """One in explicit mode, with both models."""
    folder = tmp_path_factory.mktemp("explicit")
    with PlainTriton(folder / "server", copy_models(folder / "models"), *EXPLICIT) as server:
        yield server


def test_reloads_under_load_lose_nothing(triton: PlainTriton) -> None:
    reload_under_load(triton, 2)  # one of each model


def test_two_versions_live_side_by_side(triton: PlainTriton) -> None:
    change_versions(triton, 20)


def test_poll_mode_reloads_what_has_changed_and_nothing_else(tmp_path: Path) -> None:
    with PlainTriton(tmp_path / "server", copy_models(tmp_path / "models"), *POLL) as server:
        poll(server, 6)


def test_renamed_models_and_a_missing_stage_one(tmp_path: Path) -> None:
    """Generation is not ready without the model that its config.pbtxt names, and says so."""
    repository = copy_models(tmp_path / "models", RENAMED)
    options = ("--model-control-mode=explicit", "--load-model=vision", "--exit-on-error=false")
    with PlainTriton(tmp_path / "server", repository, *options) as server:
        assert not server.is_ready("vision")
        state, reason = server.states("vision")["1"]
        assert state == "UNAVAILABLE"
        assert "vision needs the model 'prompts', which is not loaded" in reason
        server.load("prompts")
        server.load("vision")
        assert server.is_ready("vision")

        # Stage 1 is unloaded again: a request fails, and soon.
        assert server.call("/v2/repository/models/prompts/unload", {})[0] == 200
        began = time.monotonic()
        status, answer = server.ask("Who are you?", "vision")
        assert status != 200 and "'prompts'" in answer["error"], answer
        assert time.monotonic() - began < 10

        server.load("prompts")
        before = digest(repository)
        status, answer = server.ask("Who are you?", "vision")
        assert status == 200 and answer["text_output"]
        assert digest(repository) == before
        assert {dict(labels)["model"] for _, labels in server.metrics()} == {"vision"}
