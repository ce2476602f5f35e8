"""Models of others beside ours in one repository: client/examples/triton_models, by BLS and as an
ensemble."""

import base64
import json
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from tritonclient import grpc

from e2e.calls import metrics, running
from tools.stack import ROOT, Stack
from waiting import wait_until

PICTURES = ROOT / "client" / "examples" / "pictures"
EXAMPLES = ROOT / "client" / "examples" / "triton_models"
CANCELLED = 'glm_requests_total{finish_reason="cancelled"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("models")
    repository = folder / "repository"
    repository.mkdir()
    for models in (ROOT / "model_repository", EXAMPLES):
        for model in models.iterdir():
            if (model / "config.pbtxt").is_file():
                (repository / model.name).symlink_to(model)
    log, settings = folder / "launcher.log", {"GLM_MODEL_REPOSITORY": str(repository)}
    with running(log, GLM_WEB="false", **settings) as stack:
        yield stack


def _picture(name: str) -> str:
    return base64.b64encode((PICTURES / f"{name}.png").read_bytes()).decode()


def _ask(server: Stack, model: str, how: str = "generate", **fields: Any) -> requests.Response:
    url = f"{server.triton_http_url}/v2/models/{model}/{how}"
    return requests.post(url, json=fields, timeout=60)


def test_bls_answers_in_one_response(server: Stack) -> None:
    answer = _ask(server, "describe", image=_picture("star")).json()
    assert (answer["description"], answer["finish_reason"]) == ("An orange star.", "stop")
    several = _ask(server, "describe", image=_picture("number"), question="Which number is it?")
    assert "37" in several.json()["description"]


def test_bls_passes_errors_on(server: Stack) -> None:
    answer = _ask(server, "describe", image="no picture")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("image[0]: ")


@pytest.mark.timing
def test_bls_passes_a_cancellation_on(server: Stack) -> None:
    before = metrics(server)[CANCELLED]
    image = grpc.InferInput("image", [1], "BYTES")
    picture = (PICTURES / "star.png").read_bytes()
    image.set_data_from_numpy(np.array([picture], dtype=np.object_))
    ended: queue.Queue[Any] = queue.Queue()

    def is_counted() -> bool:
        """One may be answered before its cancellation is noticed; then another one is asked."""
        call = client.async_infer(
            "describe", [image], callback=lambda result, error: ended.put(error)
        )
        call.cancel()
        assert ended.get(timeout=60) is not None
        return metrics(server)[CANCELLED] > before

    with grpc.InferenceServerClient(server.grpc_url) as client:
        wait_until(is_counted)
    wait_until(lambda: metrics(server)["glm_requests_running"] == 0)


def test_an_ensemble_answers_whole_and_in_pieces(server: Stack) -> None:
    whole = _ask(server, "caption", image=_picture("triangle"), style="short").json()
    assert whole["caption"].endswith("A green triangle.") and whole["finish_reason"] == "stop"
    asked = {"image": _picture("triangle"), "style": "long", "stream": True}
    lines = _ask(server, "caption", "generate_stream", **asked).text.splitlines()
    pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert "".join(piece["caption"] for piece in pieces) == whole["caption"]
    assert pieces[-1]["finish_reason"] == "stop"


def test_an_ensemble_passes_errors_of_its_steps_on(server: Stack) -> None:
    bad_style = _ask(server, "caption", image=_picture("star"), style="loud")
    assert bad_style.status_code == 400 and "style: must be" in bad_style.json()["error"]
    bad_image = _ask(server, "caption", image="no picture", style="short")
    assert bad_image.status_code == 400 and "image[0]: " in bad_image.json()["error"]
    misspelt = _ask(server, "caption", image=_picture("star"), style="short", max_token=3)
    assert misspelt.status_code == 400 and "max_token: " in misspelt.json()["error"]
