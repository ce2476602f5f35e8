"""Questions about one conversation, each with the options for its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glm_preprocessing.chat import parse_json
from glm_preprocessing.errors import InvalidInput

MAX_QUESTIONS = 400
"""As many as OpenAI's Decisions API takes."""
MAX_OPTIONS = 255
"""Of one question, as there."""
MAX_OPTIONS_IN_ALL = 10_000

_IMAGES = ("image", "image_url")


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        content: parts of a message: texts and images.
        options: whole answers, of which the model is to choose one.
    """

    content: Sequence[Any]
    options: Sequence[str]

    @property
    def num_images(self) -> int:
        """Number of its own images."""
        return sum(part["type"] in _IMAGES for part in self.content)


def parse_questions(text: str) -> list[Question]:
    """Read the input ``questions``.

    Raises:
        InvalidInput: names the question, and its part or option.
    """
    given = parse_json(text, "questions")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_QUESTIONS:
        raise InvalidInput("questions", f"must be a list of 1 to {MAX_QUESTIONS} questions")
    questions = [_question(one, f"questions[{number}]") for number, one in enumerate(given)]
    count = sum(len(question.options) for question in questions)
    if count > MAX_OPTIONS_IN_ALL:
        raise InvalidInput(
            "questions", f"too many options: {count} in all (maximum {MAX_OPTIONS_IN_ALL})"
        )
    return questions


def _question(given: Any, field: str) -> Question:
    if not isinstance(given, dict):
        raise InvalidInput(field, "must be a JSON object")
    content, options = given.get("content"), given.get("options")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not parts:
        raise InvalidInput(f"{field}.content", "must be text or a list of parts")
    for number, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") not in ("text", *_IMAGES):
            raise InvalidInput(
                f"{field}.content[{number}]", "must be a part of the type text, image or image_url"
            )
    if not isinstance(options, list) or not 1 <= len(options) <= MAX_OPTIONS:
        raise InvalidInput(f"{field}.options", f"must be a list of 1 to {MAX_OPTIONS} texts")
    for number, option in enumerate(options):
        if not isinstance(option, str) or not option:
            raise InvalidInput(f"{field}.options[{number}]", "must be text, and not empty")
        if option in options[:number]:
            raise InvalidInput(
                f"{field}.options[{number}]", f"is the same as options[{options.index(option)}]"
            )
    return Question(parts, options)


def asked(messages: Any, question: Question) -> Any:
    """The messages with a question at the end of the user's turn, or as a new one.

    What ``messages`` have wrong is left for the parser to say.
    """
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user":
        if not isinstance(messages, list):
            return messages
        return [*messages, {"role": "user", "content": question.content}]
    content = last.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return messages
    if content and isinstance(content[-1], dict) and content[-1].get("type") == "text":
        content = [*content, {"type": "text", "text": "\n\n"}]
    return [*messages[:-1], {**last, "content": [*content, *question.content]}]
