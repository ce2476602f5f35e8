# mypy: ignore-errors
"""OpenAI's SDK: chats and responses, whole, streamed and parsed; tools, a picture, errors."""

import json
from typing import Literal

import openai
from pydantic import BaseModel

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR_URI, TOOL, ok


class Paint(BaseModel):
    colour: Literal["red", "blue"]


client = openai.OpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)
ask = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
plain = ask | {"reasoning_effort": "none"}

assert client.models.list().data[0].id == MODEL
assert client.models.retrieve(MODEL).id == MODEL

# A call, its result, the answer.
answer = client.chat.completions.create(**plain, tools=[TOOL])
message = answer.choices[0].message
assert answer.choices[0].finish_reason == "tool_calls", answer
assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Paris"}, answer
result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": RESULT}
history = [*ask["messages"], message.model_dump(exclude_none=True), result]
answer = client.chat.completions.create(**plain | {"messages": history}, tools=[TOOL])
assert RESULT in answer.choices[0].message.content, answer

# The helper puts a stream together.
with client.chat.completions.stream(**plain, tools=[TOOL]) as stream:
    kinds = [event.type for event in stream]
    whole = stream.get_final_completion()
assert "tool_calls.function.arguments.done" in kinds, kinds
assert json.loads(whole.choices[0].message.tool_calls[0].function.arguments) == {"city": "Paris"}

chunks = list(
    client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
)
assert chunks[-1].usage.completion_tokens > 0 and chunks[-2].choices[0].finish_reason, chunks

parsed = client.chat.completions.parse(**plain, response_format=Paint).choices[0].message.parsed
assert isinstance(parsed, Paint)

picture = {"type": "image_url", "image_url": {"url": STAR_URI, "detail": "auto"}}
question = [picture, {"type": "text", "text": "What is in this image?"}]
answer = client.chat.completions.create(
    **plain | {"messages": [{"role": "user", "content": question}]}
)
assert "star" in answer.choices[0].message.content, answer

# Responses
tool = {"type": "function", **TOOL["function"], "strict": False}
asked = {"model": MODEL, "temperature": 0, "reasoning": {"effort": "none"}, "store": False}
response = client.responses.create(**asked, input=QUESTION, tools=[tool])
call = next(item for item in response.output if item.type == "function_call")
assert json.loads(call.arguments) == {"city": "Paris"}, response
result = {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
response = client.responses.create(
    **asked,
    input=[{"role": "user", "content": QUESTION}, *response.output, result],
    tools=[tool],
)
assert RESULT in response.output_text, response
with client.responses.stream(**asked, input=QUESTION, tools=[tool]) as stream:
    kinds = [event.type for event in stream]
    assert stream.get_final_response().status == "completed"
assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
assert isinstance(
    client.responses.parse(**asked, input="red or blue?", text_format=Paint).output_parsed, Paint
)
question = [
    {"type": "input_image", "image_url": STAR_URI, "detail": "auto"},
    {"type": "input_text", "text": "What is in this image?"},
]
response = client.responses.create(**asked, input=[{"role": "user", "content": question}])
assert "star" in response.output_text, response

# Errors come as the SDK's own.
try:
    client.chat.completions.create(**ask | {"temperature": 9})
    raise AssertionError("temperature 9 was accepted")
except openai.BadRequestError as error:
    assert error.param == "temperature" and error.code == "invalid_value", error.body
try:
    client.chat.completions.create(**ask | {"model": "other"})
    raise AssertionError("a model that is not there was accepted")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error.body

ok("openai")
