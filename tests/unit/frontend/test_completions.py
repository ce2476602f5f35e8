"""Texts that go on: prompts in all forms, and OpenAI's older shape of the answer."""

import math
from dataclasses import replace
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from glm_client import GenerationDelta, InvalidRequestError, TokenLogprob, TokenLogprobs
from unit.frontend.fakes import FakeBackend, delta, events, prompt_notes

PATH = "/v1/completions"
RED, CIRCLE = (
    TokenLogprob(7, " red", b" red", -0.5, 1),
    TokenLogprob(8, " circle", b" circle", -1.5, 2),
)
SCRIPT = (
    delta("<think>", num_input_tokens=3, num_cached_tokens=2),
    delta(" red", logprobs=(TokenLogprobs(RED, (RED, CIRCLE)),)),
    delta("", finish_reason="length"),
)
USAGE = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


@pytest.fixture(autouse=True)
def _script(backend: FakeBackend) -> None:
    backend.script = SCRIPT


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "glm-4.6v-flash", "prompt": "A"} | fields


def test_the_text_is_as_the_model_writes_it(client: TestClient, backend: FakeBackend) -> None:
    answer = client.post(PATH, json=body(temperature=0, guided_choice=["a"])).json()
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"] == [
        {"index": 0, "text": "<think> red", "logprobs": None, "finish_reason": "length"}
    ]
    assert answer["usage"].items() >= USAGE.items()
    (request,) = backend.requests
    assert (request.prompt, request.messages) == ("A", None)
    assert request.sampling_parameters == {
        "temperature": 0,
        "structured_outputs": {"choice": ["a"]},
    }


@pytest.mark.parametrize(
    ("prompt", "texts", "ids"),
    [
        (["A", "B"], ["A", "B"], [None, None]),
        ([5, 6], [None], [[5, 6]]),
        ([[5, 6], [7]], [None, None], [[5, 6], [7]]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_in_all_forms(
    client: TestClient, backend: FakeBackend, prompt: Any, texts: Any, ids: Any, stream: bool
) -> None:
    response = client.post(PATH, json=body(prompt=prompt, n=2, stream=stream))
    assert response.status_code == 200
    assert [request.prompt for request in backend.requests] == texts
    assert [request.prompt_token_ids for request in backend.requests] == ids
    chunks = events(response.text) if stream else [response.json()]
    found: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    assert found == dict.fromkeys(range(2 * len(texts)), "<think> red")
    if not stream:
        assert chunks[0]["usage"]["prompt_tokens"] == 3 * len(texts)


def test_log_probabilities(client: TestClient, backend: FakeBackend) -> None:
    logprobs = client.post(PATH, json=body(logprobs=1)).json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": [" red"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{" red": -0.5}],
        "text_offset": [0],
    }
    assert backend.requests[0].sampling_parameters == {"logprobs": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("prompt", "echo"), [("Say", "Say"), ([5, 17, 300], "A red circle")])
def test_echo(client: TestClient, prompt: Any, echo: str, stream: bool) -> None:
    response = client.post(PATH, json=body(prompt=prompt, echo=True, stream=stream))
    chunks = events(response.text) if stream else [response.json()]
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert text == f"{echo}<think> red"


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_log_probabilities(
    client: TestClient, backend: FakeBackend, stream: bool
) -> None:
    def note(text: str, logprob: float) -> TokenLogprobs:
        token = TokenLogprob(len(text), text, text.encode(), logprob, 1)
        return TokenLogprobs(token, (token,))

    prompt = (note("Sa", math.nan), note("y", -0.25))
    first, *rest = backend.script
    assert isinstance(first, GenerationDelta)
    backend.script = [replace(first, prompt_logprobs=prompt), *rest]
    response = client.post(PATH, json=body(prompt="Say", echo=True, logprobs=1, stream=stream))
    assert backend.requests[0].sampling_parameters == {"logprobs": 1, "prompt_logprobs": 1}
    chunks = events(response.text) if stream else [response.json()]
    told = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"]]
    begin = told[0]
    assert begin["tokens"][:2] == ["Sa", "y"]
    assert begin["token_logprobs"][:2] == [None, -0.25]
    assert begin["top_logprobs"][:2] == [None, {"y": -0.25}]
    offsets = [offset for part in told if part for offset in part["text_offset"]]
    assert offsets[:2] == [0, 2] and offsets[2] >= 3


@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_but_the_prompt(client: TestClient, backend: FakeBackend, stream: bool) -> None:
    notes, _ = prompt_notes()
    backend.script = [delta(" x", prompt_logprobs=notes, finish_reason="length")]
    request = body(prompt="Say", echo=True, logprobs=1, max_tokens=0, stream=stream)
    answer = client.post(PATH, json=request | {"stream_options": {"include_usage": True}})
    assert backend.requests[0].sampling_parameters["max_tokens"] == 1
    chunks = events(answer.text) if stream else [answer.json()]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == "Say"
    assert choices[0]["logprobs"]["tokens"] == ["Sa", "1", "3"]
    assert choices[-1]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 0


def test_no_answer_without_the_prompt(client: TestClient) -> None:
    error = client.post(PATH, json=body(prompt="Say", max_tokens=0)).json()["error"]
    assert (error["param"], error["code"]) == ("echo", "invalid_value")


def test_log_probabilities_of_the_prompt(client: TestClient, backend: FakeBackend) -> None:
    prompt, told = prompt_notes()
    first, *rest = backend.script
    assert isinstance(first, GenerationDelta)
    backend.script = [replace(first, prompt_logprobs=prompt), *rest]
    answer = client.post(PATH, json=body(prompt="Say", prompt_logprobs=1, n=2)).json()
    assert backend.requests[0].sampling_parameters["prompt_logprobs"] == 1
    assert [choice["prompt_logprobs"] for choice in answer["choices"]] == [told, told]
    assert answer["choices"][0]["logprobs"] is None


def test_the_first_answer_begins_all_of_them(client: TestClient, backend: FakeBackend) -> None:
    note = TokenLogprobs(TokenLogprob(1, "Say", b"Say", math.nan, 0), ())
    backend.script = []

    async def stream(request: Any, *, timeout: float | None = None) -> Any:
        yield delta("b", index=1)
        yield delta("a", index=0, prompt_logprobs=(note,))
        yield delta("B", index=1, finish_reason="stop")
        yield delta("A", index=0, finish_reason="stop")

    backend.stream = stream  # type: ignore[method-assign]
    request = body(prompt="Say", n=2, echo=True, logprobs=0, stream=True)
    texts = {0: "", 1: ""}
    told: dict[int, list[str]] = {}
    for chunk in events(client.post(PATH, json=request).text):
        for choice in chunk["choices"]:
            if choice["logprobs"] is not None:
                told[choice["index"]] = choice["logprobs"]["tokens"]
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "SayaA", 1: "SaybB"} and told == {0: ["Say"], 1: ["Say"]}


def test_usage_of_a_stream(client: TestClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = client.post(PATH, json=body(prompt=["A", "B"], stream=True, stream_options=options))
    chunks = events(response.text)
    assert response.text.endswith("data: [DONE]\n\n")
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4, 5, 6, 6]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["prompt_tokens"] == 6
    plain = events(client.post(PATH, json=body(stream=True)).text)
    assert all("usage" not in chunk for chunk in plain)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": [1, -1]}, "prompt[1]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
    ],
)
def test_bad_fields_are_named(client: TestClient, fields: dict[str, Any], param: str) -> None:
    response = client.post(PATH, json=body(**fields))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("prompt", "wire", "param"),
    [
        ("A", "prompt", "prompt"),
        (["A", "B"], "prompt", "prompt[0]"),
        ([5, 6], "prompt_token_ids[1]", "prompt[1]"),
        ([[5, 6]], "prompt_token_ids[1]", "prompt[0][1]"),
    ],
)
def test_errors_of_the_model_server_name_the_clients_field(
    client: TestClient, backend: FakeBackend, prompt: Any, wire: str, param: str
) -> None:
    backend.script = [InvalidRequestError("too long", wire)]
    error = client.post(PATH, json=body(prompt=prompt)).json()["error"]
    assert error["param"] == param


def test_the_official_sdk(client: TestClient) -> None:
    sdk = openai.OpenAI(base_url="http://testserver/v1", api_key="x", http_client=client)
    answer = sdk.completions.create(model="glm-4.6v-flash", prompt="A")
    assert answer.choices[0].text == "<think> red"
    pieces = sdk.completions.create(model="glm-4.6v-flash", prompt="A", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "<think> red"
