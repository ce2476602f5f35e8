"""``POST /v1/decisions``, in the form of OpenAI's Decisions API."""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)

from glm_frontend.apis.responses.schema import Input, InputPart, ResponseUsage
from glm_frontend.apis.shared.schema import CACHE_SALT_FIELD, MAX_PARTS, CacheSalt
from glm_frontend.http.bodies import TAG, RequestModel, at_most, chosen_by, text_or_list

MAX_QUESTIONS = 400
MAX_OPTIONS = 255

_LEVELS = f"2 to {MAX_OPTIONS} of them, in their order."


def _json_part_as_text(part: Any) -> Any:
    match part:
        case {"type": "input_json", "data": dict() | list() as data}:
            return {"type": "input_text", "text": json.dumps(data, ensure_ascii=False)}
    return part


def _json_as_text(given: Any) -> Any:
    """Parts of JSON are text for the model; in messages and in a list of parts alike."""
    if not isinstance(given, list):
        return given
    return [
        {**item, "content": [*map(_json_part_as_text, item["content"])]}
        if isinstance(item, dict) and isinstance(item.get("content"), list)
        else _json_part_as_text(item)
        for item in given
    ]


Instructions = Annotated[
    Annotated[str, StringConstraints(min_length=1), Tag(f"{TAG}text")]
    | Annotated[list[InputPart], Field(min_length=1), *at_most(MAX_PARTS), Tag(f"{TAG}list")],
    text_or_list("parts"),
    BeforeValidator(_json_as_text),
]
Name = Annotated[str, StringConstraints(max_length=256)]


def _value_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return f"{TAG}text"
    return f"{TAG}flag" if isinstance(value, bool) else None


ChoiceValue = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | Annotated[bool, Tag(f"{TAG}flag")],
    Discriminator(
        _value_tag,
        custom_error_type="choice_value",
        custom_error_message="must be a string, true or false",
    ),
]


class Asked(RequestModel):
    """What all questions have."""

    name: Name | None = Field(
        None,
        description="Comes back with the answer, and is the key of the JSON with which the model "
        "would answer, so let it say what is asked for. Without one the key is `answer`.",
    )
    instructions: Instructions = Field(
        description="What is asked: text, or a list of text, picture and JSON parts."
    )


class PredicateQuestion(Asked):
    """How likely it is that a statement about the input is true."""

    type: Literal["predicate"]


class ChoiceOption(RequestModel):
    """One option."""

    value: ChoiceValue = Field(description="A text, or true or false.")
    description: str | None = Field(None, description="What it means; the model reads it.")


_SHOWN = (
    "false: the model does not see the options, and each is scored as a whole answer to the "
    "instructions, word for word. Then write them as the model would answer. Default true. (An "
    "extension of this server.)"
)


class ChoiceQuestion(Asked):
    """Which of some options it is."""

    type: Literal["choice"]
    choices: Annotated[list[ChoiceOption], Field(min_length=2), *at_most(MAX_OPTIONS)] = Field(
        description=f"2 to {MAX_OPTIONS} different ones."
    )
    show_options: bool | None = Field(None, description=_SHOWN)


class Level(RequestModel):
    """One level."""

    label: str
    description: str | None = Field(None, description="What it means; the model reads it.")


class ScoreQuestion(Asked):
    """Which level of a scale it is."""

    type: Literal["score"]
    levels: Annotated[list[Level], Field(min_length=2), *at_most(MAX_OPTIONS)] = Field(
        description=_LEVELS
    )
    show_options: bool | None = Field(None, description=_SHOWN)


Question = Annotated[
    Annotated[PredicateQuestion, Tag(f"{TAG}predicate")]
    | Annotated[ChoiceQuestion, Tag(f"{TAG}choice")]
    | Annotated[ScoreQuestion, Tag(f"{TAG}score")],
    chosen_by("type", "predicate", "choice", "score"),
]


class DecisionRequest(RequestModel):
    """Questions about one input."""

    model: str = Field(description="The name of the served model; GET /v1/models tells it.")
    input: Annotated[Input, BeforeValidator(_json_as_text)] = Field(
        description="What the questions are about: text, or a list of items as of `/v1/responses`: "
        "messages with text, pictures and JSON, and calls with their outputs."
    )
    questions: Annotated[list[Question], Field(min_length=1), *at_most(MAX_QUESTIONS)] = Field(
        description=f"1 to {MAX_QUESTIONS}. Each is answered by itself: none sees the others."
    )
    cache_salt: CacheSalt | None = CACHE_SALT_FIELD


class PredicateAnswer(BaseModel):
    """The answer to a predicate."""

    type: Literal["predicate"]
    name: str | None
    probability: float = Field(description="That the statement is true.")


class ChoiceProbability(BaseModel):
    """How likely an option is."""

    value: ChoiceValue
    probability: float


class ChoiceAnswer(BaseModel):
    """The answer to a choice."""

    type: Literal["choice"]
    name: str | None
    choice: ChoiceValue = Field(description="The likeliest.")
    probabilities: list[ChoiceProbability] = Field(
        description="Of all options, in the order of the question; together 1."
    )
    confidence: float = Field(description="The probability of the likeliest.")


class LevelProbability(BaseModel):
    """How likely a level is."""

    value: int = Field(description="Its number, from 0.")
    label: str
    probability: float


class ScoreAnswer(BaseModel):
    """The answer to a score."""

    type: Literal["score"]
    name: str | None
    score: float = Field(description="The mean of the levels' numbers, by their probabilities.")
    probabilities: list[LevelProbability] = Field(description="Of all levels; together 1.")
    confidence: float = Field(description="The probability of the likeliest.")


class Decision(BaseModel):
    """The answers, in the order of the questions."""

    model: str
    answers: list[PredicateAnswer | ChoiceAnswer | ScoreAnswer]
    usage: ResponseUsage = Field(
        description="Tokens of all questions together, each with the input. Those that a question "
        "has in common with the first are among the cached ones. There are no output tokens."
    )
