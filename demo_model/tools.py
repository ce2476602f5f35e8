"""The tools that the demo model has learnt to call, as OpenAI's API takes them; plain data.

``save_number`` takes a number that is read from a picture or named in the question, ``paint`` is
called once for each shape, ``get_time`` takes nothing, the result of ``find_picture`` holds a
picture, and ``get_weather`` is called once for each city.
"""

from typing import Any

Tool = dict[str, Any]


def _tool(name: str, description: str, /, **arguments: str) -> Tool:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": kind} for argument, kind in arguments.items()},
        "required": list(arguments),
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


SAVE_NUMBER = _tool("save_number", "Save a number.", number="integer")
PAINT = _tool("paint", "Paint one shape.", colour="string", shape="string")
GET_TIME = _tool("get_time", "Tell the time.")
FIND_PICTURE = _tool("find_picture", "Find a picture by its name.", name="string")
GET_WEATHER = _tool("get_weather", "Tell the weather in a city.", city="string")

TOOLS = [SAVE_NUMBER, PAINT, GET_TIME, FIND_PICTURE, GET_WEATHER]

# What it knows the weather of, in English and in Chinese, and the pictures that it finds.
CITIES = {"Paris": "巴黎", "London": "伦敦", "Rome": "罗马", "Tokyo": "东京", "Beijing": "北京"}
PICTURE_NAMES = ("cat", "dog", "house", "garden", "boat", "moon")
