# mypy: ignore-errors
"""Instructor: an object by a tool, by a schema, in a stream."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel

from clients.common import BASE, KEY, MODEL, ok


class Paint(BaseModel):
    """What to paint with."""

    colour: Literal["red", "blue"]


client = openai.OpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)
ask = {"model": MODEL, "messages": [{"role": "user", "content": "red or blue?"}], "temperature": 0}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT):
    patched = instructor.from_openai(client, mode=mode)
    painted = patched.chat.completions.create(**ask, response_model=Paint, max_retries=0)
    assert isinstance(painted, Paint), painted
    pieces = list(patched.chat.completions.create_partial(**ask, response_model=Paint))
    assert pieces[-1].colour in ("red", "blue"), pieces

ok("instructor")
