# mypy: ignore-errors
"""LlamaIndex with OpenAILike: a chat, a stream, a tool, structured output, a picture."""

import base64
from typing import Literal

from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR, ok


class Paint(BaseModel):
    """What to paint with."""

    colour: Literal["red", "blue"]


def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return RESULT


model = OpenAILike(
    api_base=f"{BASE}/v1",
    api_key=KEY,
    model=MODEL,
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=4096,
    temperature=0,
    max_retries=0,
    additional_kwargs={"reasoning_effort": "none"},
)
answer = model.chat_with_tools([FunctionTool.from_defaults(get_weather)], user_msg=QUESTION)
calls = model.get_tool_calls_from_response(answer)
assert calls[0].tool_kwargs == {"city": "Paris"}, answer
pieces = list(model.stream_chat([ChatMessage(content=QUESTION)]))
assert pieces[-1].message.content, pieces
painted = model.as_structured_llm(Paint).complete("red or blue?").raw
assert isinstance(painted, Paint), painted
question = [ImageBlock(image=base64.b64decode(STAR)), TextBlock(text="What is in this image?")]
assert "star" in model.chat([ChatMessage(role="user", blocks=question)]).message.content
assert model.complete("Hello").text

ok("llama-index", "llama-index-llms-openai-like")
