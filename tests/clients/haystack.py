# mypy: ignore-errors
"""Haystack's OpenAIChatGenerator and OpenAIResponsesChatGenerator: a tool, a stream, a picture."""

from haystack.components.generators.chat import (
    OpenAIChatGenerator,
    OpenAIResponsesChatGenerator,
)
from haystack.dataclasses import ChatMessage, ImageContent
from haystack.tools import Tool
from haystack.utils import Secret

from clients.common import BASE, COLOUR, KEY, MODEL, QUESTION, RESULT, SCHEMA, STAR, ok

tool = Tool("get_weather", "Tell the weather in a city.", SCHEMA, lambda city: RESULT)
picture = ImageContent(STAR, mime_type="image/png")
schema = {"name": "paint", "strict": True, "schema": COLOUR}
for component, settings in (
    (OpenAIChatGenerator, {"reasoning_effort": "none"}),
    (OpenAIResponsesChatGenerator, {"reasoning": {"effort": "none"}}),
):
    model = component(
        api_key=Secret.from_token(KEY),
        model=MODEL,
        api_base_url=f"{BASE}/v1",
        generation_kwargs={"temperature": 0, **settings},
    )
    messages = [ChatMessage.from_user(QUESTION)]
    reply = model.run(messages, tools=[tool])["replies"][0]
    assert reply.tool_call.arguments == {"city": "Paris"}, reply
    messages += [reply, ChatMessage.from_tool(RESULT, origin=reply.tool_call)]
    assert RESULT in model.run(messages, tools=[tool])["replies"][0].text

    pieces = []
    reply = model.run(messages[:1], tools=[tool], streaming_callback=pieces.append)["replies"][0]
    assert pieces and reply.tool_call.arguments == {"city": "Paris"}, reply
    question = ChatMessage.from_user(content_parts=[picture, "What is in this image?"])
    assert "star" in model.run([question])["replies"][0].text

ok("haystack", "haystack-ai")
