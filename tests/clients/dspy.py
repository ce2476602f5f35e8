# mypy: ignore-errors
"""DSPy: typed predictions by its JSON adapter, one about a picture."""

from typing import Literal

import dspy

from clients.common import BASE, COLOUR, KEY, MODEL, STAR_URI, ok

model = dspy.LM(
    f"openai/{MODEL}",
    api_base=f"{BASE}/v1",
    api_key=KEY,
    temperature=0,
    max_tokens=300,
    cache=False,
    num_retries=0,
    reasoning_effort="none",
    # It does not know that this model can have one, and would rely on the prompt.
    response_format={"type": "json_schema", "json_schema": {"name": "paint", "schema": COLOUR}},
)


class Paint(dspy.Signature):
    """What to paint with."""

    question: str = dspy.InputField()
    colour: Literal["red", "blue"] = dspy.OutputField()


class Look(dspy.Signature):
    """What is in this image?"""

    picture: dspy.Image = dspy.InputField()
    colour: Literal["red", "blue"] = dspy.OutputField()


dspy.configure(lm=model, adapter=dspy.JSONAdapter())
assert dspy.Predict(Paint)(question="red or blue?").colour in ("red", "blue")
assert dspy.Predict(Look)(picture=dspy.Image(STAR_URI)).colour in ("red", "blue")
assert model(messages=[{"role": "user", "content": "Hello"}])[0]

ok("dspy")
