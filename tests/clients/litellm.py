# mypy: ignore-errors
"""LiteLLM as a library, by OpenAI's and by Anthropic's API."""

import json

import litellm

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR_URI, TOOL, ok

by_openai = {"model": f"openai/{MODEL}", "api_base": f"{BASE}/v1", "api_key": KEY}
by_anthropic = {"model": f"anthropic/{MODEL}", "api_base": BASE, "api_key": KEY}
question = [
    {"type": "image_url", "image_url": {"url": STAR_URI}},
    {"type": "text", "text": "What is in this image?"},
]
for api in (by_openai, by_anthropic):
    messages = [{"role": "user", "content": QUESTION}]
    ask = {**api, "temperature": 0, "max_tokens": 300, "num_retries": 0}
    message = litellm.completion(**ask, messages=messages, tools=[TOOL]).choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Paris"}, message
    messages += [
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": RESULT},
    ]
    message = litellm.completion(**ask, messages=messages, tools=[TOOL]).choices[0].message
    assert RESULT in message.content, message

    chunks = list(litellm.completion(**ask, messages=messages[:1], stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop", chunks[-1]
    message = litellm.completion(**ask, messages=[{"role": "user", "content": question}])
    assert "star" in message.choices[0].message.content, message
    try:
        litellm.completion(**{**ask, "temperature": 9}, messages=messages[:1])
        raise AssertionError("temperature 9 was accepted")
    except litellm.BadRequestError as error:
        assert "temperature" in str(error), error

response = litellm.responses(**by_openai, input=QUESTION, temperature=0, max_output_tokens=300)
assert response.status == "completed", response

ok("litellm")
