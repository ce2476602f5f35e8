"""Conversations with tools: calls true of the picture or the question, and what follows."""

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo_model.dialogues import (
    COLOUR_ZH,
    SHAPE_ZH,
    SYSTEM_PROMPTS,
    Dialogue,
    article,
    ask,
    describe,
    join,
    loosened,
    name_of,
    talk,
)
from demo_model.scenes import COLOURS, SHAPES, Scene
from demo_model.structured import ask_structured
from demo_model.tools import CITIES, PICTURE_NAMES, TOOLS, Tool

Message = dict[str, Any]
Piece = tuple[str, bool]

NO_TOOL = ("I have no tool for that.", "我没有这个工具。")
FAILED = ("The tool did not work.", "工具没有成功。")

# Each question once in English and once in Chinese.
_SAVE = (
    ["Save the number.", "Save the number in the picture.", "Please save the number.",
     "Save the number that you see."],
    ["保存数字。", "保存图中的数字。", "请保存图片里的数字。"],
)  # fmt: skip
_SAVE_THIS = (["Save the number {}.", "Please save {}."], ["保存数字{}。", "请保存{}。"])
_PAINT_ALL = (
    ["Paint all shapes.", "Paint every shape.", "Paint what you see.", "Please paint all shapes."],
    ["画出所有图形。", "请画出图片里的所有图形。"],
)
_PAINT = (["Paint {}.", "Please paint {}."], ["画{}。", "请画{}。"])
_TIME = (
    ["What time is it?", "What is the time?", "Tell me the time."],
    ["几点了？", "现在几点？"],
)
_FIND = (
    ["Find the picture {}.", "Show me the picture {}.", "What is in the picture {}?",
     "Find the picture {} and describe it."],
    ["找到图片{}。", "图片{}里有什么？", "找到图片{}，描述它。"],
)  # fmt: skip
_WEATHER = (
    ["What is the weather in {}?", "How is the weather in {}?", "Tell me the weather in {}."],
    ["{}的天气怎么样？", "{}天气如何？"],
)
# What a forced call may follow.
_ANY = (
    ["What is in this image?", "Describe the image.", "Go on."],
    ["图片里有什么？", "描述这张图片。"],
)
_DESCRIPTIONS = {
    "save_number": ["Save a number.", "Saves the number.", "Store a number for later."],
    "paint": ["Paint one shape.", "Paints a shape.", "Paint a shape in a colour."],
    "get_time": ["Tell the time.", "The time now.", "Get the current time."],
    "find_picture": ["Find a picture by its name.", "Shows a picture.", "Look for a picture."],
    "get_weather": ["Tell the weather in a city.", "The weather.", "Get the weather of a city."],
}
_SKIES = {"sunny": "晴", "cloudy": "多云", "rainy": "有雨", "windy": "有风", "snowy": "有雪"}


@dataclass(frozen=True)
class Turn:
    """What the assistant says to ``messages``.

    Attributes:
        ending: The token that ends it: ``<|observation|>`` after calls, else ``<|user|>``.
        pieces: Parts of ``said``, each with whether it is learnt; all of it if there are none.
    """

    task: str
    messages: list[Message]
    said: str
    thought: str
    chinese: bool
    ending: str = "<|user|>"
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class _Request:
    """A question that wants a tool: its calls, or what to say where there is nothing to call."""

    question: str
    name: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    otherwise: str = ""
    chinese: bool = False


def offered_tools(rng: random.Random) -> list[Tool]:
    """One to four tools in any order, each as some client might write it; now and then none."""
    count = rng.choices([0, 1, 2, 3, 4], [8, 30, 26, 20, 16])[0]
    style = rng.choices(["plain", "pydantic"], [80, 20])[0]
    strict = rng.random() < 0.25
    return [_as_written(rng, tool, style, strict) for tool in rng.sample(TOOLS, count)]


def _as_written(rng: random.Random, tool: Tool, style: str, strict: bool) -> Tool:
    tool = copy.deepcopy(tool)
    function = tool["function"]
    name, parameters = function["name"], function["parameters"]
    if rng.random() < 0.3:
        del function["description"]
    else:
        function["description"] = rng.choice(_DESCRIPTIONS[name])
    if style == "pydantic":
        titled = {
            key: {"title": key.title(), **value} for key, value in parameters["properties"].items()
        }
        parameters = {"properties": titled, "required": parameters["required"], "type": "object"}
        function["parameters"] = parameters
    elif rng.random() < 0.3:
        for key, value in parameters["properties"].items():
            value["description"] = f"The {key}."
    if not parameters["required"] or rng.random() < 0.2:
        del parameters["required"]
    if strict or rng.random() < 0.15:
        parameters["additionalProperties"] = False
    if not parameters["properties"] and rng.random() < 0.5:
        del function["parameters"]
    if strict:
        function["strict"] = True
    return tool


def write_calls(name: str, calls: list[dict[str, Any]]) -> str:
    """Calls as the template writes them in an assistant's turn."""
    return "\n".join("".join(text for text, _ in _call_pieces(name, call)) for call in calls)


def _call_pieces(name: str, arguments: dict[str, Any]) -> list[Piece]:
    """A call; where the tool is forced, its arguments' values remain to be learnt."""
    pieces = [(f"<tool_call>{name}\n", False)]
    for key, value in arguments.items():
        written = value if isinstance(value, str) else json.dumps(value)
        pieces += [(f"<arg_key>{key}</arg_key>\n<arg_value>", False), (written, True)]
        pieces.append(("</arg_value>\n", True))
    return [*pieces, ("</tool_call>", True)]


def converse(
    rng: random.Random,
    tools: list[Tool],
    scene: Scene | None,
    draw: Callable[[], Scene],
    *,
    thinking: bool,
) -> list[Turn]:
    """The turns of a conversation that are to be learnt; each one begins with the one before it.

    Args:
        scene: The picture that the first message begins with. Without one it has none, or one that
            comes after the question.
        draw: Draws a further picture.
    """
    messages: list[Message] = []
    turns: list[Turn] = []
    picture: list[dict[str, str]] = [] if scene is None else [{"type": "image"}]
    picture_last = scene is None and rng.random() < 0.35
    if picture_last:
        scene = draw()

    def say(question: str) -> None:
        parts = [*picture, {"type": "text", "text": question}]
        messages.append({"role": "user", "content": parts})
        picture.clear()

    if scene is not None and not picture_last and rng.random() < 0.12:
        first = ask(rng, scene)
        say(first.question)
        turns.append(_plain_turn("no tool needed", messages, first))
        messages.append({"role": "assistant", "content": first.answer})
    if rng.random() < 0.22:
        dialogue = _ordinary(rng, scene)
        say(dialogue.question)
        _picture_after(messages, picture_last)
        turns.append(_plain_turn("no tool needed", messages, dialogue))
    else:
        _use_tool(rng, tools, scene, draw, thinking, say, picture_last, messages, turns)
    if turns[-1].ending == "<|user|>" and rng.random() < 0.12:
        messages.append({"role": "assistant", "content": turns[-1].said})
        dialogue = _ordinary(rng, scene)
        say(dialogue.question)
        turns.append(_plain_turn("no tool needed", messages, dialogue))
    if not thinking:
        return turns
    # A thought is left out of what comes before the last question.
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"][-1]
    turns = [turn for turn in turns if len(turn.messages) > asked]
    kept = any("reasoning_content" in message for message in turns[-1].messages[asked:])
    return turns if kept else turns[-1:]


def _picture_after(messages: list[Message], picture_last: bool) -> None:
    if picture_last:
        messages[-1]["content"].append({"type": "image"})


def _ordinary(rng: random.Random, scene: Scene | None) -> Dialogue:
    if scene is None:
        return talk(rng)
    return ask(rng, scene) if rng.random() < 0.75 else ask_structured(rng, scene)


def _plain_turn(task: str, messages: list[Message], dialogue: Dialogue) -> Turn:
    return Turn(
        task, list(messages), dialogue.answer, dialogue.thought, dialogue.chinese,
        pieces=dialogue.pieces,
    )  # fmt: skip


def _use_tool(
    rng: random.Random,
    tools: list[Tool],
    scene: Scene | None,
    draw: Callable[[], Scene],
    thinking: bool,
    say: Callable[[str], None],
    picture_last: bool,
    messages: list[Message],
    turns: list[Turn],
) -> None:
    """A question that wants a tool, its calls, their results, and the answer to them."""
    names = [tool["function"]["name"] for tool in tools]
    others = [tool["function"]["name"] for tool in TOOLS if tool["function"]["name"] not in names]
    name = rng.choice(names if names and (rng.random() < 0.75 or not others) else others)
    zh = rng.random() < 0.3
    thought = describe(scene, zh) if scene else ("没有图片。" if zh else "No image.")
    request = _REQUESTS[name](rng, scene, zh)
    offered, forced = name in names, False
    if offered and scene and request.calls and request.question in (*_SAVE[zh], *_PAINT_ALL[zh]):
        forced = rng.random() < 0.15
    say(rng.choice(_ANY[zh]) if forced else loosened(rng, request.question))
    _picture_after(messages, picture_last)
    if not offered or not request.calls:
        said = NO_TOOL[zh] if not offered else request.otherwise
        task = "no such tool" if not offered else "nothing to call"
        turns.append(Turn(task, list(messages), said, thought, zh))
        return
    task = "forced call" if forced else f"call {name}"
    said = write_calls(name, request.calls)
    pieces: list[Piece] = []
    for call in request.calls if forced else []:
        pieces += [("\n", True)] * bool(pieces) + _call_pieces(name, call)
    turns.append(
        Turn(task, list(messages), said, thought, zh, "<|observation|>", pieces=tuple(pieces))
    )
    if forced or rng.random() < 0.35:
        return
    functions = [{"name": name, "arguments": call} for call in request.calls]
    calling: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function} for function in functions],
    }
    if thinking and rng.random() < 0.5:
        calling["reasoning_content"] = thought
    messages.append(calling)
    results, answer, found = _finish(rng, name, request, draw)
    messages += [{"role": "tool", "content": result} for result in results]
    if found is not None:
        seen = describe(found, zh)
        thought = seen if scene is None else thought + ("" if zh else " ") + seen
    turns.append(Turn(f"after {name}", list(messages), answer, thought, zh))


def _ask_save(rng: random.Random, scene: Scene | None, zh: bool) -> _Request:
    if scene is None or rng.random() < 0.25:
        number = rng.choice([rng.randint(0, 99), rng.randint(100, 9999)])
        question = rng.choice(_SAVE_THIS[zh]).format(number)
        return _Request(question, "save_number", [{"number": number}], chinese=zh)
    question = rng.choice(_SAVE[zh])
    if scene.number is None:
        otherwise = "没有数字。" if zh else "There is no number."
        return _Request(question, "save_number", otherwise=otherwise, chinese=zh)
    return _Request(question, "save_number", [{"number": int(scene.number.text)}], chinese=zh)


def _ask_paint(rng: random.Random, scene: Scene | None, zh: bool) -> _Request:
    shapes = [(shape.colour, shape.kind) for shape in scene.shapes] if scene else []
    kind = rng.random()
    if scene is None or kind < 0.25:
        names = [(rng.choice(COLOURS), rng.choice(SHAPES)) for _ in range(rng.choice([1, 1, 2]))]
        named = [name_of(*name, zh) for name in names]
        if zh:
            text = join([f"一个{name}" for name in named], "、", "和")
        else:
            text = join([article(name) for name in named], ", ", " and ")
        return _Request(rng.choice(_PAINT[zh]).format(text), "paint", _paint_calls(names), "", zh)
    if not shapes or kind < 0.65:
        otherwise = "没有图形。" if zh else "There are no shapes."
        return _Request(rng.choice(_PAINT_ALL[zh]), "paint", _paint_calls(shapes), otherwise, zh)
    colour, form = rng.choice(shapes)
    names = [(colour, form)]
    if kind < 0.72:  # one that is not there
        absent = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in shapes]
        colour, form = rng.choice(absent)
        names = []
    text = name_of(colour, form, zh) if zh else f"the {colour} {form}"
    otherwise = f"没有{text}。" if zh else f"There is no {colour} {form}."
    if names and kind > 0.88 and [other for _, other in shapes].count(form) == 1:
        text = SHAPE_ZH[form] if zh else f"the {form}"
    elif names and kind > 0.8 and [other for other, _ in shapes].count(colour) == 1:
        text = f"{COLOUR_ZH[colour]}的图形" if zh else f"the {colour} shape"
    question = rng.choice(_PAINT[zh]).format(text)
    return _Request(question, "paint", _paint_calls(names), otherwise, zh)


def _paint_calls(names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"colour": colour, "shape": kind} for colour, kind in names]


def _ask_time(rng: random.Random, scene: Scene | None, zh: bool) -> _Request:
    return _Request(rng.choice(_TIME[zh]), "get_time", [{}], chinese=zh)


def _ask_find(rng: random.Random, scene: Scene | None, zh: bool) -> _Request:
    name = rng.choice(PICTURE_NAMES)
    return _Request(
        rng.choice(_FIND[zh]).format(name), "find_picture", [{"name": name}], chinese=zh
    )


def _ask_weather(rng: random.Random, scene: Scene | None, zh: bool) -> _Request:
    names = rng.sample(sorted(CITIES), 2 if rng.random() < 0.25 else 1)
    cities = [CITIES[name] if zh else name for name in names]
    question = rng.choice(_WEATHER[zh]).format("和".join(cities) if zh else " and ".join(cities))
    return _Request(question, "get_weather", [{"city": city} for city in cities], chinese=zh)


_REQUESTS: dict[str, Callable[[random.Random, Scene | None, bool], _Request]] = {
    "save_number": _ask_save,
    "paint": _ask_paint,
    "get_time": _ask_time,
    "find_picture": _ask_find,
    "get_weather": _ask_weather,
}


def _finish(
    rng: random.Random, name: str, request: _Request, draw: Callable[[], Scene]
) -> tuple[list[Any], str, Scene | None]:
    """A result for each call, the answer to them, and the picture that came back, if one did."""
    zh, calls = request.chinese, request.calls
    if rng.random() < 0.05:
        return ["error: it did not work"] * len(calls), FAILED[zh], None
    if name == "find_picture":
        if rng.random() < 0.15:
            return ["not found"], "我没有找到图片。" if zh else "I did not find the picture.", None
        found = draw()
        text = rng.choice(["", "", "This:", "Here it is."])
        parts = [{"type": "text", "text": text}] if text else []
        return [[*parts, {"type": "image"}]], describe(found, zh), found
    if name == "get_time":
        time = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
        return [time], f"现在是{time}。" if zh else f"It is {time}.", None
    if name == "get_weather":
        results, sentences = [], []
        for call in calls:
            degrees, sky = rng.randint(-9, 39), rng.choice(sorted(_SKIES))
            results.append(f"{degrees}度，{_SKIES[sky]}" if zh else f"{degrees} degrees, {sky}")
            where = f"{call['city']}：" if zh else f"In {call['city']} it is "
            sentences.append(where + results[-1] + ("。" if zh else "."))
        return results, ("" if zh else " ").join(sentences), None
    if name == "save_number":
        number = calls[0]["number"]
        result = rng.choice(["saved", "OK", '{"saved": true}'])
        return [result], f"我保存了数字{number}。" if zh else f"I saved the number {number}.", None
    names = [name_of(call["colour"], call["shape"], zh) for call in calls]
    result = rng.choice(["painted", "OK", '{"painted": true}'])
    if zh:
        answer = "我画了" + join([f"一个{name}" for name in names], "、", "和") + "。"
    else:
        answer = f"I painted {join([article(name) for name in names], ', ', ' and ')}."
    return [result] * len(calls), answer, None


def system_prompt(rng: random.Random) -> list[Message]:
    """Now and then one, after the tools."""
    if rng.random() < 0.15:
        return [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}]
    return []
