"""Log probabilities of options as decisions."""

import math
from collections.abc import Sequence

from glm_frontend.apis.decisions.schema import (
    ChoiceAnswer,
    ChoiceProbability,
    ChoiceQuestion,
    Decision,
    DecisionRequest,
    LevelProbability,
    PredicateAnswer,
    PredicateQuestion,
    Question,
    ScoreAnswer,
)
from glm_frontend.apis.responses.schema import (
    InputTokensDetails,
    OutputTokensDetails,
    ResponseUsage,
)
from glm_frontend.core.events import TokenUsage


def encode(
    body: DecisionRequest, logprobs: Sequence[Sequence[float]], usage: TokenUsage
) -> Decision:
    """The response.

    Args:
        logprobs: of the options of each question.
    """
    return Decision(
        model=body.model,
        answers=[
            _answer(question, normalised(own))
            for question, own in zip(body.questions, logprobs, strict=True)
        ],
        usage=ResponseUsage(
            input_tokens=usage.prompt,
            input_tokens_details=InputTokensDetails(
                cached_tokens=usage.cached, cache_write_tokens=0, image_tokens=usage.image
            ),
            output_tokens=0,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=usage.prompt,
        ),
    )


def normalised(logprobs: Sequence[float]) -> list[float]:
    """Probabilities of answers, given that the answer is one of them."""
    most = max(logprobs)
    shares = [math.exp(logprob - most) for logprob in logprobs]
    total = math.fsum(shares)
    return [share / total for share in shares]


def _answer(
    question: Question, probabilities: Sequence[float]
) -> PredicateAnswer | ChoiceAnswer | ScoreAnswer:
    if isinstance(question, PredicateQuestion):
        return PredicateAnswer(type="predicate", name=question.name, probability=probabilities[0])
    confidence = max(probabilities)
    if isinstance(question, ChoiceQuestion):
        values = [choice.value for choice in question.choices]
        return ChoiceAnswer(
            type="choice",
            name=question.name,
            choice=values[probabilities.index(confidence)],
            probabilities=[
                ChoiceProbability(value=value, probability=probability)
                for value, probability in zip(values, probabilities, strict=True)
            ],
            confidence=confidence,
        )
    return ScoreAnswer(
        type="score",
        name=question.name,
        score=math.fsum(number * one for number, one in enumerate(probabilities)),
        probabilities=[
            LevelProbability(value=number, label=level.label, probability=probability)
            for number, (level, probability) in enumerate(
                zip(question.levels, probabilities, strict=True)
            )
        ],
        confidence=confidence,
    )
