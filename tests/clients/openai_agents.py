# mypy: ignore-errors
"""OpenAI's Agents SDK by responses and by chat completions: a tool, typed output, a stream."""

import asyncio
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR_URI, ok


class Paint(BaseModel):
    """What to paint with."""

    colour: Literal["red", "blue"]


@function_tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return RESULT


async def main() -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)
    settings = ModelSettings(temperature=0, max_tokens=400, reasoning=Reasoning(effort="none"))
    for model in (
        OpenAIResponsesModel(MODEL, client),
        OpenAIChatCompletionsModel(MODEL, client),
    ):
        agent = Agent("weather", model=model, tools=[get_weather], model_settings=settings)
        assert RESULT in (await Runner.run(agent, QUESTION)).final_output, model
        run = Runner.run_streamed(agent, QUESTION)
        assert [event async for event in run.stream_events()]
        assert RESULT in run.final_output, model

        agent = Agent("painter", model=model, output_type=Paint, model_settings=settings)
        assert isinstance((await Runner.run(agent, "red or blue?")).final_output, Paint), model

        agent = Agent("viewer", model=model, model_settings=settings)
        question = [
            {"type": "input_image", "image_url": STAR_URI, "detail": "auto"},
            {"type": "input_text", "text": "What is in this image?"},
        ]
        run = await Runner.run(agent, [{"role": "user", "content": question}])
        assert "star" in run.final_output, model


asyncio.run(main())
ok("openai-agents")
