# mypy: ignore-errors
"""Z.ai's own SDK: its thinking switch, do_sample, a bare base64 picture, tools, a stream."""

import json

from zai import ZaiClient, core

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR, STAR_URI, TOOL, ok

client = ZaiClient(api_key=KEY, base_url=f"{BASE}/v1", max_retries=0)
messages = [{"role": "user", "content": QUESTION}]
ask = {"model": MODEL, "messages": messages, "do_sample": False, "request_id": "zai-sdk-test"}
plain = ask | {"thinking": {"type": "disabled"}, "user_id": "someone"}

message = client.chat.completions.create(**plain, tools=[TOOL]).choices[0].message
call = message.tool_calls[0]
assert json.loads(call.function.arguments) == {"city": "Paris"}, message
history = [
    *messages,
    message.model_dump(exclude_none=True),
    {"role": "tool", "tool_call_id": call.id, "content": RESULT},
]
answer = client.chat.completions.create(**plain | {"messages": history}, tools=[TOOL])
assert RESULT in answer.choices[0].message.content, answer

thinking = {"type": "enabled", "clear_thinking": False}
message = client.chat.completions.create(**ask, thinking=thinking).choices[0].message
assert message.reasoning_content and message.content, message

chunks = list(client.chat.completions.create(**plain, tools=[TOOL], stream=True, tool_stream=True))
assert chunks[-1].choices[0].finish_reason == "tool_calls", chunks[-1]
pieces = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
arguments = "".join(piece.function.arguments for piece in pieces)
assert json.loads(arguments) == {"city": "Paris"}, arguments

for picture in (STAR, STAR_URI):
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": "What is in this image?"},
    ]
    looked = plain | {"messages": [{"role": "user", "content": content}]}
    assert "star" in client.chat.completions.create(**looked).choices[0].message.content

try:
    client.chat.completions.create(**ask | {"max_tokens": -3})
    raise AssertionError("a negative max_tokens was accepted")
except core.APIRequestFailedError as error:
    assert error.status_code == 400 and "max_tokens" in error.response.text, error

ok("zai", "zai-sdk")
