# mypy: ignore-errors
"""Outlines over OpenAI's SDK: text, a stream, an object, a choice's schema."""

from typing import Literal

import openai
import outlines
from pydantic import BaseModel

from clients.common import BASE, KEY, MODEL, ok


class Paint(BaseModel):
    colour: Literal["red", "blue"]


client = openai.OpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)
model = outlines.from_openai(client, MODEL)
assert model("Who are you?", temperature=0)
assert "".join(model.stream("Who are you?", temperature=0))
assert Paint.model_validate_json(model("red or blue?", Paint, temperature=0))

# As it speaks to a vLLM server: regular expressions, choices and grammars.
model = outlines.from_vllm(client, MODEL)
assert model("red or blue?", Literal["red", "blue"], temperature=0) in ("red", "blue")
assert model("A number", outlines.types.Regex("[0-9]{3}"), temperature=0).isdigit()

ok("outlines")
