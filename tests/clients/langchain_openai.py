# mypy: ignore-errors
"""LangChain with ChatOpenAI: tools, structured output, a stream, a picture."""

from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR_URI, ok


class Paint(BaseModel):
    """What to paint with."""

    colour: Literal["red", "blue"]


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return RESULT


for responses in (False, True):
    model = ChatOpenAI(
        base_url=f"{BASE}/v1",
        api_key=KEY,
        model=MODEL,
        temperature=0,
        max_retries=0,
        use_responses_api=responses,
        reasoning_effort="none",
    )
    bound = model.bind_tools([get_weather])
    messages = [HumanMessage(QUESTION)]
    messages.append(bound.invoke(messages))
    call = messages[-1].tool_calls[0]
    assert call["args"] == {"city": "Paris"}, messages
    messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    assert RESULT in bound.invoke(messages).text, messages

    for method in ("json_schema", "function_calling"):
        painted = model.with_structured_output(Paint, method=method).invoke("red or blue?")
        assert isinstance(painted, Paint), painted
    pieces = list(model.stream(QUESTION))
    assert "".join(piece.text for piece in pieces), pieces
    question = [
        {"type": "image_url", "image_url": {"url": STAR_URI}},
        {"type": "text", "text": "What is in this image?"},
    ]
    assert "star" in model.invoke([HumanMessage(question)]).text

ok("langchain-openai")
