# mypy: ignore-errors
"""Pydantic AI by chat completions, responses and messages: a tool, typed output, a picture."""

import asyncio
import base64
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR, ok


class Paint(BaseModel):
    """What to paint with."""

    colour: Literal["red", "blue"]


def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return RESULT


async def streamed(agent: Agent) -> str:
    async with agent.run_stream(QUESTION) as stream:
        return await stream.get_output()


by_openai = OpenAIProvider(base_url=f"{BASE}/v1", api_key=KEY)
picture = BinaryContent(base64.b64decode(STAR), media_type="image/png")
for model in (
    OpenAIChatModel(MODEL, provider=by_openai),
    OpenAIResponsesModel(MODEL, provider=by_openai),
    AnthropicModel(MODEL, provider=AnthropicProvider(base_url=BASE, api_key=KEY)),
):
    settings = {"temperature": 0, "max_tokens": 400}
    agent = Agent(model, tools=[get_weather], model_settings=settings)
    assert RESULT in agent.run_sync(QUESTION).output, model
    assert RESULT in asyncio.run(streamed(agent)), model
    agent = Agent(model, model_settings=settings)
    assert "star" in agent.run_sync([picture, "What is in this image?"]).output, model
    # For Anthropic it knows by the model's name what is native.
    native = [] if isinstance(model, AnthropicModel) else [NativeOutput(Paint)]
    for output in (Paint, *native):
        agent = Agent(model, output_type=output, model_settings=settings)
        assert isinstance(agent.run_sync("red or blue?").output, Paint), model

ok("pydantic-ai", "pydantic-ai-slim")
