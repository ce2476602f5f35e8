"""Decisions over a real Triton: right answers, the wire's numbers, errors, and those who leave."""

import base64
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton

from glm_client import Client, GenerationRequest, InvalidRequestError, Question
from tools.stack import Stack
from waiting import wait_until

PICTURES = Path(__file__).parents[2] / "client" / "examples" / "pictures"
MODEL = "glm-4.6v-flash"
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown")


def picture(name: str) -> list[dict[str, Any]]:
    data = base64.b64encode((PICTURES / name).read_bytes()).decode()
    part = {"type": "input_image", "image_url": f"data:image/png;base64,{data}"}
    return [{"role": "user", "content": [part]}]


def sentences(kind: str) -> dict[str, Any]:
    return {
        "type": "choice",
        "instructions": f"What color is the {kind}?",
        "choices": [{"value": f"The {kind} is {colour}."} for colour in COLOURS],
        "show_options": False,
    }


def ask(stack: Stack, questions: Sequence[dict[str, Any]], given: Any) -> httpx2.Response:
    body = {"model": MODEL, "input": given, "questions": list(questions)}
    return httpx2.post(f"{stack.base_url}/v1/decisions", json=body, timeout=120)


def test_openais_sdk_gets_typed_answers(stack: Stack) -> None:
    client = openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key="none")
    given: Any = picture("star.png")
    decision = client.decisions.create(
        model=MODEL,
        input=given,
        questions=[
            {
                "type": "choice",
                "name": "shape",
                "instructions": "What shape is it?",
                "choices": [{"value": kind} for kind in ("circle", "square", "triangle", "star")],
            },
            {"type": "predicate", "instructions": "There is a star."},
            {
                "type": "score",
                "instructions": "How many shapes are there?",
                "levels": [{"label": "none"}, {"label": "one"}],
            },
        ],
        safety_identifier="someone",
    )
    choice, predicate, score = decision.answers
    assert choice.type == "choice" and choice.choice == "star" and choice.name == "shape"
    assert sum(one.probability for one in choice.probabilities) == pytest.approx(1)
    assert predicate.type == "predicate" and 0 <= predicate.probability <= 1
    assert score.type == "score"
    assert score.score == pytest.approx(score.probabilities[1].probability)
    assert decision.usage.output_tokens == 0
    assert decision.usage.total_tokens == decision.usage.input_tokens


def test_options_in_the_models_own_words_have_the_probability_of_its_answer(stack: Stack) -> None:
    (answer,) = ask(stack, [sentences("star")], picture("star.png")).json()["answers"]
    chat = httpx2.post(
        f"{stack.base_url}/v1/chat/completions",
        json={
            "model": MODEL,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": picture("star.png")[0]["content"][0]["image_url"]},
                        },
                        {"type": "text", "text": "What color is the star?"},
                    ],
                }
            ],
            "temperature": 0,
            "reasoning_effort": "none",
            "logprobs": True,
        },
        timeout=120,
    ).json()["choices"][0]
    assert answer["choice"] == chat["message"]["content"]
    whole = math.exp(sum(token["logprob"] for token in chat["logprobs"]["content"]))
    # Its share of the options' probabilities is more than its own, which leaves out the others.
    assert whole <= answer["confidence"] <= 1
    assert answer["confidence"] == pytest.approx(whole, abs=0.02)


def test_questions_about_one_picture_share_it(stack: Stack) -> None:
    kinds = ("star", "circle", "square", "triangle") * 3
    one = ask(stack, [sentences("star")], picture("star.png")).json()
    many = ask(stack, [sentences(kind) for kind in kinds[:10]], picture("star.png")).json()
    # The same question has the same answer, whatever is asked beside it.
    for place in (0, 4, 8):
        for first, other in zip(
            one["answers"][0]["probabilities"],
            many["answers"][place]["probabilities"],
            strict=True,
        ):
            assert first["probability"] == pytest.approx(other["probability"], abs=1e-4)
    details = many["usage"]["input_tokens_details"]
    assert details["cached_tokens"] >= 9 * details["image_tokens"] / 10


def test_the_wire_has_log_probabilities(stack: Stack) -> None:
    star = (PICTURES / "star.png").read_bytes()
    options = ["The star is", "The star is red.", "No."]
    with Client(stack.grpc_url) as client:
        request = GenerationRequest(
            text_input="",
            images=[star],
            chat_template_kwargs={"enable_thinking": False},
            questions=[
                Question("What color is the star?", options),
                Question([{"type": "text", "text": "Is it?"}, {"type": "image"}], ["Yes", "No"]),
            ],
        )
        with pytest.raises(InvalidRequestError) as missing:
            client.generate(request)
        assert missing.value.param == "image"
        with_both = GenerationRequest(
            messages=[{"role": "user", "content": [{"type": "image"}]}],
            images=[star, star],
            chat_template_kwargs={"enable_thinking": False},
            questions=request.questions,
        )
        answer = client.generate(with_both)
    assert len(answer.option_logprobs) == 3 + 2
    # An option that another goes on from is scored with the end of the answer.
    assert answer.option_logprobs[0] < answer.option_logprobs[1] < 0
    assert (answer.text, answer.finish_reason, answer.num_output_tokens) == ("", "stop", 0)


@pytest.mark.parametrize(
    ("questions", "param"),
    [
        ("[", "questions"),
        ([], "questions"),
        ([{"content": "a", "options": ["b"]}, {"content": 3, "options": ["b"]}],
         "questions[1].content"),
        ([{"content": "a", "options": ["b", ""]}], "questions[0].options[1]"),
        ([{"content": "a", "options": ["b", "b"]}], "questions[0].options[1]"),
        ([{"content": "a", "options": []}], "questions[0].options"),
        ([{"content": [{"type": "video"}], "options": ["b"]}], "questions[0].content[0]"),
        ([{"content": "a " * 9000, "options": ["b"]}], "questions[0]"),
        ([{"content": "a", "options": ["b " * 9000]}], "questions[0]"),
    ],
)  # fmt: skip
def test_direct_clients_are_told_which_question_is_wrong(
    stack: Stack, questions: Any, param: str
) -> None:
    text = questions if isinstance(questions, str) else json.dumps(questions)
    inputs = []
    for name, value in (("text_input", "hello"), ("questions", text)):
        tensor = triton.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([value.encode()], object))
        inputs.append(tensor)
    errors: list[Any] = []
    with triton.InferenceServerClient(stack.grpc_url) as client:
        client.start_stream(lambda result, error: errors.append(error))
        client.async_stream_infer("generation", inputs, parameters={"error_details": True})
        client.stop_stream()
    assert json.loads(errors[0].message())["param"] == param


def test_sampling_parameters_do_not_go_with_questions(stack: Stack) -> None:
    with Client(stack.grpc_url) as client, pytest.raises(InvalidRequestError) as refused:
        client.generate(
            GenerationRequest(
                text_input="a",
                questions=[Question("b", ["c"])],
                sampling_parameters={"temperature": 0.5},
            )
        )
    assert refused.value.param == "sampling_parameters"


def test_an_error_has_the_path_in_the_request(stack: Stack) -> None:
    good = {"type": "predicate", "instructions": "It is."}
    broken = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    refused = ask(stack, [good, good | {"instructions": [broken]}], "A text.")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "questions[1].instructions[0].image_url"
    long = ask(stack, [good, good | {"instructions": "word " * 9000}], "A text.")
    assert long.status_code == 400
    assert long.json()["error"]["param"] == "questions[1]"
    assert long.json()["error"]["code"] == "context_length_exceeded"


def live(stack: Stack) -> float:
    """Requests in stage 2 now, waiting or running."""
    lines = httpx2.get(f"{stack.metrics_url}/metrics").text.splitlines()
    names = ("glm_requests_running", "glm_requests_waiting")
    found = [line.split() for line in lines if line.startswith(names)]
    assert len(found) == len(names)
    return sum(float(value) for _, value in found)


def test_one_who_leaves_frees_the_engine(stack: Stack) -> None:
    questions = [sentences("star") | {"name": str(number)} for number in range(300)]
    body = {"model": MODEL, "input": picture("star.png"), "questions": questions}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{stack.base_url}/v1/decisions", json=body, timeout=0.7)
    began = time.monotonic()
    wait_until(lambda: live(stack) == 0)
    assert time.monotonic() - began < 30
    assert ask(stack, [sentences("star")], picture("star.png")).status_code == 200


def test_the_example_of_the_documentation_is_answered(stack: Stack) -> None:
    document = httpx2.get(f"{stack.base_url}/openapi.json").json()
    content = document["paths"]["/v1/decisions"]["post"]["requestBody"]["content"]
    for example in content["application/json"]["examples"].values():
        answer = httpx2.post(f"{stack.base_url}/v1/decisions", json=example["value"], timeout=120)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["answers"]) == len(example["value"]["questions"])
