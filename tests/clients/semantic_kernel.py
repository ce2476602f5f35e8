# mypy: ignore-errors
"""Semantic Kernel: functions called by themselves, a stream, typed output, a picture."""

import asyncio
from typing import Annotated, Literal

from openai import AsyncOpenAI
from pydantic import BaseModel
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
)
from semantic_kernel.contents import ChatHistory, ChatMessageContent, ImageContent, TextContent
from semantic_kernel.functions import kernel_function

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR_URI, ok


class Paint(BaseModel):
    """What to paint with."""

    colour: Literal["red", "blue"]


class Weather:
    @kernel_function(name="get_weather", description="Tell the weather in a city.")
    def get_weather(self, city: Annotated[str, "its name"]) -> str:
        return RESULT


async def main() -> None:
    client = AsyncOpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)
    service = OpenAIChatCompletion(ai_model_id=MODEL, async_client=client)
    kernel = Kernel()
    kernel.add_service(service)
    kernel.add_plugin(Weather(), "sky")
    history = ChatHistory()
    history.add_user_message(QUESTION)
    settings = OpenAIChatPromptExecutionSettings(temperature=0, max_completion_tokens=300)
    pieces = [p async for p in service.get_streaming_chat_message_content(history, settings)]
    assert pieces
    called = OpenAIChatPromptExecutionSettings(
        temperature=0,
        max_completion_tokens=300,
        function_choice_behavior=FunctionChoiceBehavior.Auto(),
    )
    reply = await service.get_chat_message_content(history, called, kernel=kernel)
    assert reply.content is not None, reply

    settings.response_format = Paint
    reply = await service.get_chat_message_content(history, settings)
    assert Paint.model_validate_json(reply.content)

    settings.response_format = None
    parts = [ImageContent(data_uri=STAR_URI), TextContent(text="What is in this image?")]
    look = ChatHistory(messages=[ChatMessageContent(role="user", items=parts)])
    assert "star" in (await service.get_chat_message_content(look, settings)).content


asyncio.run(main())
ok("semantic-kernel")
