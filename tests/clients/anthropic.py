# mypy: ignore-errors
"""Anthropic's SDK: messages, streams, tools by hand and by its runner, a picture, errors."""

import anthropic

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, SCHEMA, STAR, ok

client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
tool = {
    "name": "get_weather",
    "description": "Tell the weather in a city.",
    "input_schema": SCHEMA,
}
# The SDK has no argument for the temperature any more.
ask = {
    "model": MODEL,
    "max_tokens": 300,
    "messages": [{"role": "user", "content": QUESTION}],
    "extra_body": {"temperature": 0},
}

assert client.models.list().data[0].id == MODEL
assert client.messages.count_tokens(model=MODEL, messages=ask["messages"]).input_tokens > 0

# A call, its result, the answer.
message = client.messages.create(**ask, tools=[tool])
assert message.stop_reason == "tool_use", message
call = message.content[-1]
assert call.type == "tool_use" and call.input == {"city": "Paris"}, message
result = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
history = [
    *ask["messages"],
    {"role": "assistant", "content": message.content},
    {"role": "user", "content": [result]},
]
message = client.messages.create(**ask | {"messages": history}, tools=[tool])
assert RESULT in message.content[-1].text and message.stop_reason == "end_turn", message

with client.messages.stream(**ask, tools=[tool]) as stream:
    kinds = [event.type for event in stream]
    message = stream.get_final_message()
assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds
assert message.content[-1].input == {"city": "Paris"}, message
assert message.usage.output_tokens > 0, message

with client.messages.stream(**ask, thinking={"type": "adaptive"}) as stream:
    message = stream.get_final_message()
assert message.content[0].type == "thinking", message

source = {"type": "base64", "media_type": "image/png", "data": STAR}
question = [{"type": "image", "source": source}, {"type": "text", "text": "What is in this image?"}]
message = client.messages.create(**ask | {"messages": [{"role": "user", "content": question}]})
assert "star" in message.content[0].text, message


@anthropic.beta_tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return RESULT if city == "Paris" else "unknown"


runner = client.beta.messages.tool_runner(**ask, tools=[get_weather])
assert RESULT in runner.until_done().content[-1].text

try:
    client.messages.create(**ask | {"extra_body": {"temperature": 9}})
    raise AssertionError("temperature 9 was accepted")
except anthropic.BadRequestError as error:
    assert "temperature" in error.message, error
try:
    client.messages.create(**ask | {"model": "other"})
    raise AssertionError("a model that is not there was accepted")
except anthropic.NotFoundError as error:
    assert error.body["error"]["type"] == "not_found_error", error.body

ok("anthropic")
