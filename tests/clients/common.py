"""What all clients here ask: the server's address, a picture, a tool, and the words at the end."""

import base64
import os
import sys
from importlib.metadata import version
from pathlib import Path

BASE = os.environ["BASE"]
MODEL = "glm-4.6v-flash"
KEY = "any"

_STAR = Path(__file__).resolve().parents[2] / "client" / "examples" / "pictures" / "star.png"
STAR = base64.b64encode(_STAR.read_bytes()).decode()
STAR_URI = f"data:image/png;base64,{STAR}"

# The demo model calls this tool, and repeats its result.
QUESTION = "What is the weather in Paris?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather in a city.",
        "parameters": SCHEMA,
    },
}
RESULT = "18 degrees, sunny"
# Nothing but "red" or "blue": what the server enforces does not depend on the model.
COLOUR = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def ok(name: str, package: str = "", number: str = "") -> None:
    """The last line of a script in which nothing failed."""
    sys.stdout.write(f"{name} {number or version(package or name)}: ok\n")
