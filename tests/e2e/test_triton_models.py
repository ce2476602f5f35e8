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
    settings = {
        "GLM_MODEL_REPOSITORY": str(repository),
        "GLM_WEB": "false",
        "GLM_TRITON_OPTIONS": "'--http-header-forward-pattern=X-.*' "
        "'--grpc-header-forward-pattern=x-.*'",
        "GLM_FORWARDED_HEADERS": "x-request-*, x-tenant",
    }
    with running(folder / "launcher.log", **settings) as stack:
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
        ended.get(timeout=60)
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


@pytest.mark.parametrize("model", ["generation", "preprocessing"])
def test_headers_that_triton_forwards_are_ignored_where_a_setting_names_them(
    server: Stack, model: str
) -> None:
    text = grpc.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"hi"], dtype=np.object_))

    def error(headers: dict[str, str]) -> str:
        arrived: queue.Queue[Any] = queue.Queue()
        with grpc.InferenceServerClient(server.grpc_url) as client:
            client.start_stream(lambda result, error: arrived.put(error), headers=headers)
            client.async_stream_infer(model, [text])
            return str(arrived.get(timeout=60) or "")

    assert error({"x-request-id": "a", "x-tenant": "b", "other": "c"}) == ""
    assert "x-other" in error({"x-other": "a"})
    url = f"{server.triton_http_url}/v2/models/preprocessing/infer"
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}
    for headers, status in (({"X-Request-Id": "a"}, 200), ({"X-Other": "a"}, 400)):
        answer = requests.post(url, json={"inputs": [tensor]}, headers=headers, timeout=60)
        assert answer.status_code == status, answer.text
