# mypy: ignore-errors
"""smolagents: the model by itself, whole and streamed, with a tool and a picture."""

import base64
import io

from PIL import Image
from smolagents import ChatMessage, OpenAIServerModel, ToolCallingAgent, tool

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, STAR, ok


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: its name
    """
    return RESULT


model = OpenAIServerModel(
    MODEL, api_base=f"{BASE}/v1", api_key=KEY, temperature=0, reasoning_effort="none"
)
asked = [ChatMessage(role="user", content=[{"type": "text", "text": QUESTION}])]
answer = model.generate(asked, tools_to_call_from=[get_weather])
assert answer.tool_calls[0].function.name == "get_weather", answer
assert "".join(piece.content or "" for piece in model.generate_stream(asked))
picture = Image.open(io.BytesIO(base64.b64decode(STAR)))
question = [{"type": "image", "image": picture}, {"type": "text", "text": "What is in this image?"}]
assert "star" in model.generate([ChatMessage(role="user", content=question)]).content

# The agent's own prompt is long, and what the demo model makes of it does not matter.
agent = ToolCallingAgent(tools=[get_weather], model=model, max_steps=2, verbosity_level=0)
assert agent.run(QUESTION) is not None

ok("smolagents")
