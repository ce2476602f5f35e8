"""From a checked request for decisions to the one request of all APIs."""

from collections.abc import Sequence

import glm_client
from glm_frontend.apis.decisions.prompt import (
    DEFAULT_KEY,
    PREDICATE_TEXT,
    TASK,
    Option,
    Value,
    answer_text,
    choice_text,
    cloze_text,
    score_text,
)
from glm_frontend.apis.decisions.schema import (
    ChoiceQuestion,
    DecisionRequest,
    PredicateQuestion,
    Question,
    ScoreQuestion,
)
from glm_frontend.apis.responses.decode import add_input, read_part
from glm_frontend.core.conversation import ConversationBuilder, Part, wire_part
from glm_frontend.core.request import AnswerRequest, of_conversation
from glm_frontend.errors import invalid
from glm_frontend.media.fetch import Picture

_BOTH: Sequence[Value] = (True, False)


def decode(body: DecisionRequest) -> AnswerRequest:
    """The request that ``body`` makes.

    Raises:
        APIError: two options of a question are the same; or a function's output has no call.
    """
    conversation = ConversationBuilder()
    add_input(conversation, body.input)
    asked: list[tuple[list[Part], Sequence[str]]] = []
    renamed = {"messages": "input"}
    for number, question in enumerate(body.questions):
        path = f"questions[{number}]"
        _check_options(question, path)
        parts = _instructions(question, f"{path}.instructions")
        text, options = _text_and_options(question)
        if text:  # the task first: it is the same in all questions
            parts = [
                Part(f"{TASK}\n", f"{path}.instructions"),
                *parts,
                Part(f"\n{text}", f"{path}.{_OPTIONS[question.type]}"),
            ]
        asked.append((parts, options))
        for place, part in enumerate(parts):
            renamed[f"{path}.content[{place}]"] = part.path
        renamed[f"{path}.content"] = f"{path}.instructions"
        renamed[f"{path}.options"] = f"{path}.{_OPTIONS[question.type]}"
    request = of_conversation(
        conversation,
        renamed,
        template_kwargs={"enable_thinking": False},
        cache_salt=body.cache_salt or "",
        questions=[
            glm_client.Question([wire_part(part) for part in parts], options)
            for parts, options in asked
        ],
    )
    request.paths.files.extend(
        part.content for parts, _ in asked for part in parts if isinstance(part.content, Picture)
    )
    return request


_OPTIONS = {"predicate": "instructions", "choice": "choices", "score": "levels"}


def _instructions(question: Question, path: str) -> list[Part]:
    if isinstance(question.instructions, str):
        return [Part(question.instructions, path)]
    return [read_part(part, f"{path}[{i}]") for i, part in enumerate(question.instructions)]


def _options(question: ChoiceQuestion | ScoreQuestion) -> list[tuple[str, Option]]:
    """Each option, and where it stands below the question."""
    if isinstance(question, ChoiceQuestion):
        return [
            (f"choices[{i}].value", (one.value, one.description))
            for i, one in enumerate(question.choices)
        ]
    return [
        (f"levels[{i}].label", (one.label, one.description))
        for i, one in enumerate(question.levels)
    ]


def _check_options(question: Question, path: str) -> None:
    if isinstance(question, PredicateQuestion):
        return
    is_shown = question.show_options is not False
    seen: dict[str, str] = {}
    for place, (value, description) in _options(question):
        text = answer_text(DEFAULT_KEY, value) if is_shown else cloze_text(value)
        if not text:
            raise invalid(f"{path}.{place}", "is empty")
        if text in seen:
            raise invalid(f"{path}.{place}", f"is the same as {seen[text]}")
        if description and not is_shown:
            raise invalid(
                f"{path}.{place.rpartition('.')[0]}.description",
                "has no effect where show_options is false; leave it out",
            )
        seen[text] = place


def _text_and_options(question: Question) -> tuple[str, Sequence[str]]:
    """What follows the instructions, and the answers of which one is to be chosen."""
    key = question.name or DEFAULT_KEY
    if isinstance(question, PredicateQuestion):
        return PREDICATE_TEXT, [answer_text(key, value) for value in _BOTH]
    options = [option for _, option in _options(question)]
    values = [value for value, _ in options]
    if question.show_options is False:
        return "", [cloze_text(value) for value in values]
    text = (choice_text if isinstance(question, ChoiceQuestion) else score_text)(options)
    return text, [answer_text(key, value) for value in values]
