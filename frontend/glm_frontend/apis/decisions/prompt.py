"""How a question is put to the model, and how each of its options would be answered.

By default the model sees the options, and an answer is a JSON object with one key, as
``response_format`` would enforce it: the closing quote keeps "red" apart from "red and blue", and
true from "true". The key is the question's name, which says what is asked for.

A question whose options are not shown is scored as a cloze: each option is a whole answer in the
model's own words. (Small models answer these better than lists of options: "OLMES: A Standard for
Language Model Evaluations", Gu et al., 2024.)
"""

import json
import re
from collections.abc import Sequence

DEFAULT_KEY = "answer"
TASK = "Answer as JSON."
"""Comes once, before all questions, which then share it."""

_PLAIN = re.compile(r"[^\s,:\"](?:[^,:\"\n]*[^\s,:\"])?")

Value = str | bool
Option = tuple[Value, str | None]
"""The value of an option, and its description."""


def answer_text(key: str, value: Value) -> str:
    """What the model writes if it answers with ``value``."""
    return _json({key: value})


def cloze_text(value: Value) -> str:
    """The same, of a question whose options are not shown."""
    return value if isinstance(value, str) else _json(value)


PREDICATE_TEXT = "true or false"
"""What follows a statement that may be true."""


def choice_text(options: Sequence[Option]) -> str:
    """What follows a question with options in no order."""
    return _text("", options)


def score_text(levels: Sequence[Option]) -> str:
    """What follows a question with levels in their order."""
    return _text("In order: ", levels)


def _text(head: str, options: Sequence[Option]) -> str:
    values = [_shown(value) for value, _ in options]
    if not any(description for _, description in options):
        return f"{head}{', '.join(values[:-1])} or {values[-1]}"
    lines = [
        f"- {value}: {description}" if description else f"- {value}"
        for value, (_, description) in zip(values, options, strict=True)
    ]
    return "\n".join([*([head.rstrip()] if head else []), *lines])


def _shown(value: Value) -> str:
    """An option in a list; without quotes, which take as many tokens as words, if it is plain."""
    if isinstance(value, str) and value not in ("true", "false") and _PLAIN.fullmatch(value):
        return value
    return _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
