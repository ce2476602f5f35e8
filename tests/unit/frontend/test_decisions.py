"""Decisions: typed questions in, probabilities out, errors that name the question."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from openai.types import Decision
from starlette.testclient import TestClient

from glm_client import InvalidRequestError, OverloadedError, Question
from unit.frontend.fakes import DECISIONS, PIXEL, FakeBackend, delta

COLOURS = [{"value": "red"}, {"value": "green"}, {"value": "blue"}]
CHOICE = {
    "type": "choice",
    "name": "colour",
    "instructions": "What color is it?",
    "choices": COLOURS,
}
PREDICATE = {"type": "predicate", "instructions": "There is a star."}
SCORE = {
    "type": "score",
    "name": "count",
    "instructions": "How many?",
    "levels": [{"label": "none"}, {"label": "some"}, {"label": "many", "description": "over 5"}],
}
PICTURE = [{"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]}]


def body(*questions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "glm-4.6v-flash", "input": PICTURE, "questions": [*questions]} | fields


def answer(*logprobs: float) -> tuple[Any, ...]:
    return (
        delta(
            "",
            finish_reason="stop",
            option_logprobs=logprobs,
            num_input_tokens=50,
            num_image_tokens=25,
            num_cached_tokens=16,
        ),
    )


@pytest.fixture(autouse=True)
def _script(backend: FakeBackend) -> None:
    backend.script = answer(math.log(0.06), math.log(0.03), math.log(0.01))


def ask(client: TestClient, *questions: dict[str, Any], **fields: Any) -> Any:
    response = client.post(DECISIONS, json=body(*questions, **fields))
    assert response.status_code == 200, response.text
    return response.json()


def parts_of(question: Question) -> Sequence[Mapping[str, Any]]:
    assert not isinstance(question.content, str)
    return question.content


def refused(client: TestClient, *questions: Any, **fields: Any) -> tuple[str, str]:
    response = client.post(DECISIONS, json=body(*questions, **fields))
    assert response.status_code == 400, response.text
    return response.json()["error"]["param"], response.json()["error"]["message"]


def test_probabilities_are_of_the_options_alone_in_their_order(client: TestClient) -> None:
    answered = ask(client, CHOICE)
    (choice,) = answered["answers"]
    assert choice["choice"] == "red"
    assert [one["value"] for one in choice["probabilities"]] == ["red", "green", "blue"]
    assert [one["probability"] for one in choice["probabilities"]] == pytest.approx([0.6, 0.3, 0.1])
    assert choice["confidence"] == pytest.approx(0.6)
    assert choice["name"] == "colour"
    assert answered["usage"] == {
        "input_tokens": 50,
        "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0, "image_tokens": 25},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 50,
    }


def test_a_score_is_the_mean_of_the_levels(client: TestClient) -> None:
    (score,) = ask(client, SCORE)["answers"]
    assert score["score"] == pytest.approx(0 * 0.6 + 1 * 0.3 + 2 * 0.1)
    assert [(one["value"], one["label"]) for one in score["probabilities"]] == [
        *enumerate(["none", "some", "many"])
    ]


def test_a_predicate_has_the_probability_that_it_is_true(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = answer(math.log(0.2), math.log(0.6))
    (predicate,) = ask(client, PREDICATE)["answers"]
    assert predicate == {
        "type": "predicate",
        "name": None,
        "probability": pytest.approx(0.25),
    }
    (request,) = backend.requests
    assert request.questions[0].options == ['{"answer": true}', '{"answer": false}']


def test_probabilities_of_very_unlikely_options_are_still_told_apart(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = answer(-2000.0, -2000.0 + math.log(3), -5000.0)
    (choice,) = ask(client, CHOICE)["answers"]
    found = [one["probability"] for one in choice["probabilities"]]
    assert found == pytest.approx([0.25, 0.75, 0])


def test_all_questions_are_one_request_without_a_thought(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = answer(-1.0, -2.0, -3.0, -4.0, -5.0, -3.0)
    choice, score = ask(client, CHOICE, SCORE)["answers"]
    assert choice["choice"] == "red" and score["score"] > 1
    (request,) = backend.requests
    assert len(request.images) == 1
    assert request.messages == [{"role": "user", "content": [{"type": "image"}]}]
    assert request.chat_template_kwargs == {"enable_thinking": False}
    assert not request.sampling_parameters
    texts = ["".join(part["text"] for part in parts_of(one)) for one in request.questions]
    assert texts == [
        "Answer as JSON.\nWhat color is it?\nred, green or blue",
        "Answer as JSON.\nHow many?\nIn order:\n- none\n- some\n- many: over 5",
    ]
    assert request.questions[0].options == [
        f'{{"colour": "{colour}"}}' for colour in ("red", "green", "blue")
    ]


def test_true_is_not_the_text_true(client: TestClient, backend: FakeBackend) -> None:
    choices = [{"value": True}, {"value": "true"}, {"value": "a, b"}]
    (answer,) = ask(client, CHOICE | {"choices": choices})["answers"]
    assert answer["choice"] is True
    assert [one["value"] for one in answer["probabilities"]] == [True, "true", "a, b"]
    (question,) = backend.requests[0].questions
    assert question.options == ['{"colour": true}', '{"colour": "true"}', '{"colour": "a, b"}']
    assert parts_of(question)[-1]["text"] == '\ntrue, "true" or "a, b"'


def test_options_that_are_not_shown_are_whole_answers(
    client: TestClient, backend: FakeBackend
) -> None:
    choices = [{"value": "It is red."}, {"value": "It is green."}, {"value": "No."}]
    ask(client, CHOICE | {"choices": choices, "show_options": False})
    (question,) = backend.requests[0].questions
    assert question.content == [{"type": "text", "text": "What color is it?"}]
    assert question.options == ["It is red.", "It is green.", "No."]


def test_instructions_and_input_may_have_parts(client: TestClient, backend: FakeBackend) -> None:
    instructions = [
        {"type": "input_text", "text": "Is it this one?"},
        {"type": "input_image", "image_url": PIXEL, "detail": "low"},
        {"type": "input_json", "data": {"size": [1, 2]}},
    ]
    given = [
        {"role": "developer", "content": "Be strict."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_json", "data": [{"a": None}]},
                {"type": "input_image", "image_url": PIXEL},
            ],
        },
    ]
    ask(client, CHOICE | {"instructions": instructions}, input=given)
    (request,) = backend.requests
    assert request.messages == [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": [{"type": "text", "text": '[{"a": null}]'}, {"type": "image"}]},
    ]
    assert len(request.images) == 2
    assert list(request.image_max_pixels) == [0, 512 * 512]
    kinds = [part["type"] for part in parts_of(request.questions[0])]
    assert kinds == ["text", "text", "image", "text", "text"]


def test_openais_sdk_reads_the_answers(client: TestClient, backend: FakeBackend) -> None:
    backend.script = answer(*[-1.0] * 6)
    decision = Decision.model_validate(ask(client, CHOICE, SCORE, input="A text."), strict=False)
    assert [answer.type for answer in decision.answers] == ["choice", "score"]


HINTS = {
    "prompt_cache_key": "a",
    "prompt_cache_options": {"mode": "implicit"},
    "safety_identifier": None,
    "metadata": {"a": "b"},
}


def test_hints_are_accepted(client: TestClient) -> None:
    response = client.post(DECISIONS, json=body(CHOICE, **HINTS, of_tomorrow=1))
    assert response.status_code == 200
    assert response.headers["x-glm-ignored-fields"] == "of_tomorrow"


@pytest.mark.parametrize(
    ("question", "param"),
    [
        ({"type": "choice"}, "instructions"),
        ({**CHOICE, "choices": [{"value": "red"}]}, "choices"),
        ({**CHOICE, "choices": [{"value": str(i)} for i in range(256)]}, "choices"),
        ({**CHOICE, "choices": [{"value": "red"}, {"value": 3}]}, "choices[1].value"),
        ({**CHOICE, "choices": [{"value": "red"}, {"description": "a"}]}, "choices[1].value"),
        (
            {**CHOICE, "choices": [{"value": "a"}, {"value": "b"}, {"value": "a"}]},
            "choices[2].value",
        ),
        ({**CHOICE, "instructions": ""}, "instructions"),
        ({**CHOICE, "instructions": [{"type": "input_file"}]}, "instructions[0].type"),
        ({**CHOICE, "name": 3}, "name"),
        ({**CHOICE, "name": "a" * 257}, "name"),
        ({**SCORE, "levels": [{"label": "a"}, {"label": "a"}]}, "levels[1].label"),
        ({**SCORE, "levels": []}, "levels"),
        ({**PREDICATE, "type": "boolean"}, "type"),
        (
            {**CHOICE, "choices": [{"value": True}, {"value": "true"}], "show_options": False},
            "choices[1].value",
        ),
        (
            {**CHOICE, "choices": [{"value": "a"}, {"value": ""}], "show_options": False},
            "choices[1].value",
        ),
        (
            {
                **CHOICE,
                "choices": [{"value": "a"}, {"value": "b", "description": "c"}],
                "show_options": False,
            },
            "choices[1].description",
        ),
    ],
)
def test_an_error_names_the_question(
    client: TestClient, backend: FakeBackend, question: dict[str, Any], param: str
) -> None:
    named, message = refused(client, PREDICATE, question)
    assert named == f"questions[1].{param}"
    assert message.startswith(f"{named}: ")
    assert not backend.requests


@pytest.mark.parametrize("questions", [[], [PREDICATE] * 401, None])
def test_the_number_of_questions_is_bounded(client: TestClient, questions: Any) -> None:
    assert refused(client, questions=questions)[0] == "questions"


@pytest.mark.parametrize(
    ("wire", "param"),
    [
        ("questions[1]", "questions[1]"),
        ("questions[1].content[0]", "questions[1].instructions"),
        ("questions[1].options[2]", "questions[1].choices[2]"),
        ("messages[0].content[0]", "input[0].content[0]"),
        ("image[0]", "input[0].content[0].image_url"),
        ("image[1]", "questions[1].instructions[0].image_url"),
        ("questions", "questions"),
    ],
)
def test_what_the_model_server_refuses_has_the_names_of_the_request(
    client: TestClient, backend: FakeBackend, wire: str, param: str
) -> None:
    backend.script = [InvalidRequestError("is bad", wire)]
    shown = CHOICE | {"instructions": [{"type": "input_image", "image_url": PIXEL}]}
    assert refused(client, PREDICATE, shown)[0] == param


def test_a_full_queue_is_a_429(client: TestClient, backend: FakeBackend) -> None:
    backend.script = [OverloadedError("the queue is full")]
    assert client.post(DECISIONS, json=body(CHOICE)).status_code == 429


def test_its_tokens_are_counted(client: TestClient) -> None:
    ask(client, CHOICE)
    metrics = client.get("/metrics").text
    assert "glm_frontend_prompt_tokens_total 50.0" in metrics
    assert "glm_frontend_cached_tokens_total 16.0" in metrics
    assert 'route="/v1/decisions"' in metrics
