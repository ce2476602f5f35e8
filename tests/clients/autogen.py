# mypy: ignore-errors
"""AutoGen's OpenAIChatCompletionClient and an agent with a tool; typed output, a picture."""

import asyncio
import base64
import io
from typing import Literal

from autogen_agentchat.agents import AssistantAgent
from autogen_core import Image
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from PIL import Image as Pillow
from pydantic import BaseModel

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR, ok


class Paint(BaseModel):
    """What to paint with."""

    colour: Literal["red", "blue"]


async def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return RESULT


async def main() -> None:
    model = OpenAIChatCompletionClient(
        model=MODEL,
        base_url=f"{BASE}/v1",
        api_key=KEY,
        temperature=0,
        max_retries=0,
        model_info={
            "vision": True,
            "function_calling": True,
            "json_output": True,
            "structured_output": True,
            "family": "unknown",
        },
    )
    question = [UserMessage(content=QUESTION, source="user")]
    pieces = [piece async for piece in model.create_stream(question, include_usage=True)]
    assert pieces[-1].finish_reason == "stop" and pieces[-1].usage.completion_tokens > 0, pieces
    painted = await model.create(question, json_output=Paint)
    assert Paint.model_validate_json(painted.content), painted
    picture = Image(Pillow.open(io.BytesIO(base64.b64decode(STAR))))
    look = UserMessage(content=[picture, "What is in this image?"], source="user")
    assert "star" in (await model.create([look])).content

    for streamed in (False, True):
        agent = AssistantAgent(
            "helper",
            model,
            tools=[get_weather],
            system_message=None,
            reflect_on_tool_use=True,
            model_client_stream=streamed,
        )
        run = await agent.run(task=QUESTION)
        assert RESULT in run.messages[-1].content, run


asyncio.run(main())
ok("autogen", "autogen-ext")
