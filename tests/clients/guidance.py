# mypy: ignore-errors
"""guidance, as it speaks to OpenAI's API and to a vLLM server: text, an object, a choice, a regular
expression, a grammar of its own."""

import re

import guidance
from guidance import assistant, gen, models, select, user
from pydantic import BaseModel

from clients.common import BASE, KEY, MODEL, QUESTION, ok


class Paint(BaseModel):
    red: bool


where = {"base_url": f"{BASE}/v1", "api_key": KEY, "echo": False}

lm = models.OpenAI(MODEL, **where)
with user():
    lm += "Who are you?"
with assistant():
    lm += gen("text", temperature=0)
assert lm["text"], lm
with user():
    lm += QUESTION
with assistant():
    lm += guidance.json("paint", schema=Paint)
Paint.model_validate_json(lm["paint"])

lm = models.experimental.VLLMModel(MODEL, **where)
with user():
    lm += "red or blue?"
with assistant():
    lm += select(["red", "blue"], name="colour")
assert lm["colour"] in ("red", "blue"), lm
with user():
    lm += "A number and a colour."
with assistant():
    lm += "It is " + gen("number", regex="[0-9]{3}") + ", " + select(["red", "blue"], name="next")
assert re.fullmatch("[0-9]{3}", lm["number"]) and lm["next"] in ("red", "blue"), lm

ok("guidance")
