# mypy: ignore-errors
"""Open Responses: what its compliance suite asks over HTTP, checked by its published types.

The suite itself (github.com/openresponses/openresponses, in no package registry) has tests of
WebSockets besides, which this server does not have.
"""

import json
import urllib.error
import urllib.request

import openresponses_types.types as published
from pydantic import BaseModel, TypeAdapter

from clients.common import BASE, MODEL, STAR_URI, ok

# The published types and the suite disagree on these names; the suite's are OpenAI's, as are ours.
NAMED_OTHERWISE = {
    "response.reasoning_text.delta": "response.reasoning.delta",
    "response.reasoning_text.done": "response.reasoning.done",
}
EVENTS = {
    name: kind
    for name, kind in vars(published).items()
    if isinstance(kind, type) and issubclass(kind, BaseModel) and name.endswith("StreamingEvent")
}
EVENT = TypeAdapter(eval(" | ".join(EVENTS), EVENTS))


def say(role: str, content: object, **fields: object) -> dict:
    return {"type": "message", "role": role, "content": content, **fields}


LOOK = [
    {"type": "input_text", "text": "What do you see in this image? Answer in one sentence."},
    {"type": "input_image", "image_url": STAR_URI},
]
LOCATION = {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": LOCATION},
        "required": ["location"],
    },
}
ASKED = {
    "basic": [say("user", "Say hello in exactly 3 words.")],
    "phases": [
        say("assistant", "I should answer with the saved number.", phase="commentary"),
        say("assistant", "The number is four.", phase="final_answer"),
        say("user", "Repeat only the number."),
    ],
    "system": [say("system", "You are a pirate."), say("user", "Say hello.")],
    "image": [say("user", LOOK)],
    "turns": [
        say("user", "My name is Alice."),
        say("assistant", "Hello Alice! Nice to meet you. How can I help you today?"),
        say("user", "What is my name?"),
    ],
}


def post(path: str = "", **fields: object) -> bytes:
    request = urllib.request.Request(
        f"{BASE}/v1/responses{path}",
        data=json.dumps({"model": MODEL, **fields}).encode(),
        headers={"content-type": "application/json", "authorization": "Bearer any"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read()


def whole(**fields: object) -> published.ResponseResource:
    response = published.ResponseResource.model_validate_json(post(**fields), strict=False)
    assert response.output, response
    return response


def streamed(**fields: object) -> tuple[list[str], published.ResponseResource]:
    """The types of the events, each of which is right, and the response at the end."""
    kinds, last = [], None
    for line in post(**fields, stream=True).decode().splitlines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        kinds.append(event["type"])
        event["type"] = NAMED_OTHERWISE.get(event["type"], event["type"])
        EVENT.validate_python(event)
        last = event
    return kinds, published.ResponseResource.model_validate(last["response"])


for name, asked in ASKED.items():
    assert whole(input=asked).status == "completed", name
    kinds, response = streamed(input=asked)
    assert response.status == "completed" and kinds[-1] == "response.completed", (name, kinds)

# The demo model knows this question; the suite's own names a city that it cannot write.
weather = {"input": [say("user", "What is the weather in Paris?")], "tools": [WEATHER]}
chosen = {"type": "function", "name": "get_weather"}
for fields in (weather, weather | {"tool_choice": "required"}, weather | {"tool_choice": chosen}):
    response = whole(**fields)
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls, response
    kinds, response = streamed(**fields)
    assert {
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    } <= {*kinds}, kinds
    result = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "sunny"}
    back = [*weather["input"], calls[0].model_dump(mode="json"), result]
    assert whole(input=back, tools=[WEATHER]).status == "completed"

cut = whole(input="Count from 1 to 5.", max_output_tokens=2)
assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens", cut
told = streamed(
    input="Hi",
    reasoning={"effort": "none"},
    include=["message.output_text.logprobs"],
    top_logprobs=2,
    text={"format": {"type": "json_object"}},
)
assert told[1].status == "completed", told

compact = published.CompactResource.model_validate_json(
    post("/compact", input=ASKED["turns"], prompt_cache_key="open-responses")
)
assert [item.type for item in compact.output] == ["compaction"], compact
back = [item.model_dump(mode="json") for item in compact.output]
assert whole(input=[*back, say("user", "What is my name?")]).status == "completed"

for path, fields, field in (("", {"input": 3}, "input"), ("/compact", {"model": None}, "model")):
    try:
        post(path, **{"input": "Hi", **fields})
        raise AssertionError(f"{fields} was accepted")
    except urllib.error.HTTPError as error:
        assert error.code == 400 and json.load(error)["error"]["param"] == field

ok("open-responses", "openresponses-types")
