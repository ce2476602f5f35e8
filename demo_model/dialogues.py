"""Questions about scenes and their true answers, in English and Chinese."""

import random
from dataclasses import dataclass

from demo_model.scenes import COLOURS, SHAPES, Scene, Shape, sample_scene

COLOUR_ZH = {
    "red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "orange": "橙色", "purple": "紫色",
    "pink": "粉色", "brown": "棕色", "white": "白色", "black": "黑色", "gray": "灰色",
}  # fmt: skip
SHAPE_ZH = {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形"}
# (row, column) of nine equal zones.
ZONES = {
    (0, 0): ("at the top left", "左上角"),
    (0, 1): ("at the top", "上方"),
    (0, 2): ("at the top right", "右上角"),
    (1, 0): ("on the left", "左边"),
    (1, 1): ("in the center", "中间"),
    (1, 2): ("on the right", "右边"),
    (2, 0): ("at the bottom left", "左下角"),
    (2, 1): ("at the bottom", "下方"),
    (2, 2): ("at the bottom right", "右下角"),
}
# Nobody could say which zone a shape is in whose centre is nearer than this to a border, as a share
# of the picture's side: such shapes are not asked about, in training as in evaluation.
ZONE_MARGIN = 0.05

# Each question once in English and once in Chinese.
_DESCRIBE = (
    ["What is in this image?", "What is in this image?", "Describe the image.", "Describe this image.",
     "What do you see?", "What is in the picture?", "Describe this picture.", "What is shown in the image?",
     "What does the image show?", "Please describe the image.", "What can you see in this picture?",
     "What's in this image?"],
    ["请描述这张图片", "请描述这张图片的内容", "图片里有什么？", "描述这张图片。", "你看到了什么？",
     "这张图里有什么？", "请描述这张图片。", "这张图片里有什么？"],
)  # fmt: skip
_COLOUR = (
    ["What color is the {}?", "What is the color of the {}?", "Which color does the {} have?",
     "What colour is the {}?"],
    ["{}是什么颜色？", "{}是什么颜色的？", "{}的颜色是什么？"],
)  # fmt: skip
_SHAPE = (
    ["What shape is the {} object?", "Which shape is {}?", "What is the {} shape?",
     "What shape is the {} thing?"],
    ["{}的是什么形状？", "{}的图形是什么？", "哪个形状是{}的？"],
)  # fmt: skip
_COUNT = (
    ["How many shapes are there?", "How many shapes do you see?", "How many shapes are in the image?",
     "Count the shapes.", "How many shapes are in this picture?"],
    ["有几个图形？", "图中有多少个图形？", "图片里有几个图形？"],
)  # fmt: skip
_WHERE = (
    ["Where is the {}?", "Where do you see the {}?", "Where is the {} in the image?"],
    ["{}在哪里？", "{}在什么位置？"],
)
_YES_NO = (
    ["Is there {}?", "Is there {} in the image?", "Do you see {}?", "Does the image show {}?"],
    ["有{}吗？", "图里有{}吗？", "图片中有{}吗？"],
)
_NUMBER = (
    ["What number is shown?", "Read the number.", "What number is in the image?", "What is the number?",
     "Which number do you see?", "What number is this?", "Read the text."],
    ["图中的数字是什么？", "读出数字。", "图片里的数字是多少？", "数字是多少？"],
)  # fmt: skip
_BACKGROUND = (
    [
        "What color is the background?",
        "What is the background color?",
        "What colour is the background?",
    ],
    ["背景是什么颜色？", "背景的颜色是什么？"],
)
_WHICH_IMAGE = (
    ["Which image has {}?", "Which image shows {}?", "Which picture has {}?"],
    ["哪张图片有{}？", "哪张图里有{}？"],
)
_DESCRIBE_ONE = (
    ["What is in the {} image?", "Describe the {} image.", "What does the {} image show?"],
    ["{}图片里有什么？", "描述{}图片。"],
)
_HELLO = "Hello! Show me a picture with shapes or a number."
_WHO = "I am a tiny demo model that looks at simple pictures."
_CAN = "I can name shapes, colors and numbers in a picture."
_TALK = {
    "hello": _HELLO, "hi": _HELLO, "Hello!": _HELLO, "Hi there!": _HELLO, "Good morning": _HELLO,
    "Who are you?": _WHO, "What are you?": _WHO, "What is your name?": _WHO,
    "What can you do?": _CAN, "Help": _CAN, "How are you?": "I am fine, thank you.",
    "Thank you!": "You are welcome.", "Thanks": "You are welcome.", "Bye": "Goodbye!",
    "Goodbye": "Goodbye!",
    "你好": "你好！请给我一张有图形或数字的图片。", "您好": "你好！请给我一张有图形或数字的图片。",
    "你好！": "你好！请给我一张有图形或数字的图片。", "你是谁？": "我是一个看简单图片的小模型。",
    "你叫什么名字？": "我是一个看简单图片的小模型。", "你能做什么？": "我能说出图片里的形状、颜色和数字。",
    "谢谢": "不客气。", "谢谢你！": "不客气。", "再见": "再见！",
}  # fmt: skip
_NO_PICTURE = ("I do not see an image.", "我没有看到图片。")
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful vision assistant.",
    "Answer briefly.",
    "You answer questions about images.",
    "你是一个有用的助手。",
)


@dataclass(frozen=True)
class Dialogue:
    """One question, the one true answer, and the thought that leads to it.

    Where parts of an answer will be forced by a token mask, ``pieces`` are its parts in order, each
    with whether it is to be learnt.
    """

    task: str
    question: str
    answer: str
    thought: str
    chinese: bool
    pieces: tuple[tuple[str, bool], ...] = ()


def article(words: str) -> str:
    """``words`` with their indefinite article."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def join(items: list[str], comma: str, last: str) -> str:
    """A list in words."""
    return items[0] if len(items) == 1 else comma.join(items[:-1]) + last + items[-1]


def describe(scene: Scene, chinese: bool) -> str:
    """Everything in the scene: shapes from left to right, then the number, else the background."""
    number = scene.number.text if scene.number else None
    if chinese:
        items = [f"一个{COLOUR_ZH[s.colour]}的{SHAPE_ZH[s.kind]}" for s in scene.shapes]
        items += [f"数字{number}"] if number else []
        return (
            join(items, "、", "和") + "。"
            if items
            else f"只有{COLOUR_ZH[scene.background]}的背景。"
        )
    items = [article(f"{s.colour} {s.kind}") for s in scene.shapes]
    items += [f"the number {number}"] if number else []
    if not items:
        return f"Nothing but {article(scene.background)} background."
    text = join(items, ", ", " and ")
    return text[0].upper() + text[1:] + "."


def zone_of(scene: Scene, shape: Shape) -> tuple[int, int] | None:
    """Row and column of the zone that a shape is in; None where that is not plain to see."""
    x, y = shape.x / scene.width, shape.y / scene.height
    if min(abs(value - border) for value in (x, y) for border in (1 / 3, 2 / 3)) < ZONE_MARGIN:
        return None
    return min(2, int(y * 3)), min(2, int(x * 3))


def _task(rng: random.Random, scene: Scene) -> str:
    if scene.shapes and scene.number:
        weights = {
            "number": 28,
            "describe": 25,
            "colour": 13,
            "shape": 13,
            "count": 8,
            "yes/no": 8,
            "background": 5,
        }
    elif scene.shapes:
        weights = {
            "describe": 22, "colour": 14, "shape": 12, "count": 7, "where": 28, "yes/no": 12, "number": 2,
            "background": 3,
        }  # fmt: skip
    elif scene.number:
        weights = {"number": 62, "describe": 20, "count": 5, "yes/no": 5, "background": 8}
    else:
        weights = {
            "describe": 35,
            "background": 35,
            "count": 8,
            "number": 8,
            "yes/no": 7,
            "colour": 7,
        }
    return rng.choices(list(weights), list(weights.values()))[0]


def ask(rng: random.Random, scene: Scene, chinese: bool | None = None) -> Dialogue:
    """A random question about one scene."""
    zh = rng.random() < 0.4 if chinese is None else chinese
    while True:
        task = _task(rng, scene)
        pair = _ASKERS[task](rng, scene, zh)
        if pair is not None:
            question, answer = pair
            return Dialogue(task, loosened(rng, question), answer, describe(scene, zh), zh)


def loosened(rng: random.Random, question: str) -> str:
    """Questions as people type them: now and then without a capital or a mark at the end."""
    if rng.random() < 0.1:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.1:
        question = question.rstrip("?.？。!")
    return question


_Pair = tuple[str, str] | None


def _ask_describe(rng: random.Random, scene: Scene, zh: bool) -> _Pair:
    return rng.choice(_DESCRIBE[zh]), describe(scene, zh)


def _ask_background(rng: random.Random, scene: Scene, zh: bool) -> _Pair:
    name = scene.background
    answer = f"背景是{COLOUR_ZH[name]}的。" if zh else f"The background is {name}."
    return rng.choice(_BACKGROUND[zh]), answer


def _ask_count(rng: random.Random, scene: Scene, zh: bool) -> _Pair:
    count = len(scene.shapes)
    if zh:
        answer = f"有{count}个图形。" if count else "没有图形。"
    else:
        english = {0: "There are no shapes.", 1: "There is 1 shape."}
        answer = english.get(count, f"There are {count} shapes.")
    return rng.choice(_COUNT[zh]), answer


def _ask_number(rng: random.Random, scene: Scene, zh: bool) -> _Pair:
    if scene.number is None:
        answer = "没有数字。" if zh else "There is no number."
    else:
        answer = f"数字是{scene.number.text}。" if zh else f"The number is {scene.number.text}."
    return rng.choice(_NUMBER[zh]), answer


def _ask_colour(rng: random.Random, scene: Scene, zh: bool) -> _Pair:
    kinds = [shape.kind for shape in scene.shapes]
    if not kinds or rng.random() < 0.12:
        kind = rng.choice([kind for kind in SHAPES if kind not in kinds])
        answer = f"没有{SHAPE_ZH[kind]}。" if zh else f"There is no {kind}."
    else:
        unique = [shape for shape in scene.shapes if kinds.count(shape.kind) == 1]
        if not unique:
            return None
        shape = rng.choice(unique)
        kind = shape.kind
        answer = (
            f"{SHAPE_ZH[kind]}是{COLOUR_ZH[shape.colour]}的。"
            if zh
            else f"The {kind} is {shape.colour}."
        )
    return rng.choice(_COLOUR[zh]).format(SHAPE_ZH[kind] if zh else kind), answer


def _ask_shape(rng: random.Random, scene: Scene, zh: bool) -> _Pair:
    colours = [shape.colour for shape in scene.shapes]
    if rng.random() < 0.12:
        colour = rng.choice([colour for colour in COLOURS if colour not in colours])
        answer = f"没有{COLOUR_ZH[colour]}的图形。" if zh else f"There is no {colour} shape."
    else:
        unique = [shape for shape in scene.shapes if colours.count(shape.colour) == 1]
        if not unique:
            return None
        shape = rng.choice(unique)
        colour = shape.colour
        answer = (
            f"{COLOUR_ZH[colour]}的是{SHAPE_ZH[shape.kind]}。"
            if zh
            else f"The {colour} shape is a {shape.kind}."
        )
    return rng.choice(_SHAPE[zh]).format(COLOUR_ZH[colour] if zh else colour), answer


def _ask_where(rng: random.Random, scene: Scene, zh: bool) -> _Pair:
    shape = rng.choice(scene.shapes)
    zone = zone_of(scene, shape)
    if zone is None:
        return None
    kinds = [other.kind for other in scene.shapes]
    if kinds.count(shape.kind) == 1 and rng.random() < 0.5:
        name = SHAPE_ZH[shape.kind] if zh else shape.kind
    else:
        name = name_of(shape.colour, shape.kind, zh)
    answer = f"{name}在{ZONES[zone][1]}。" if zh else f"The {name} is {ZONES[zone][0]}."
    return rng.choice(_WHERE[zh]).format(name), answer


def _ask_yes_no(rng: random.Random, scene: Scene, zh: bool) -> _Pair:
    present = {(shape.colour, shape.kind) for shape in scene.shapes}
    colour, kind = rng.choice(COLOURS), rng.choice(SHAPES)
    if present and rng.random() < 0.5:
        colour, kind = rng.choice(sorted(present))
    elif present and rng.random() < 0.7:  # nearly there: the colour or the shape is
        shape = rng.choice(scene.shapes)
        colour, kind = (shape.colour, kind) if rng.random() < 0.5 else (colour, shape.kind)
    name = name_of(colour, kind, zh)
    if zh:
        answer = f"是的，有{name}。" if (colour, kind) in present else f"不，没有{name}。"
        return rng.choice(_YES_NO[1]).format(name), answer
    yes = (colour, kind) in present
    answer = f"Yes, there is {article(name)}." if yes else f"No, there is no {name}."
    return rng.choice(_YES_NO[0]).format(article(name)), answer


def name_of(colour: str, kind: str, zh: bool) -> str:
    """What a shape is called."""
    return f"{COLOUR_ZH[colour]}的{SHAPE_ZH[kind]}" if zh else f"{colour} {kind}"


_ASKERS = {
    "describe": _ask_describe,
    "background": _ask_background,
    "count": _ask_count,
    "number": _ask_number,
    "colour": _ask_colour,
    "shape": _ask_shape,
    "where": _ask_where,
    "yes/no": _ask_yes_no,
}


def ask_about_two(rng: random.Random, first: Scene, second: Scene) -> Dialogue:
    """A random question about two pictures."""
    zh = rng.random() < 0.4
    thought = ("" if zh else " ").join(describe(scene, zh) for scene in (first, second))
    if rng.random() < 0.3:
        names = [
            {(shape.colour, shape.kind) for shape in scene.shapes} for scene in (first, second)
        ]
        only = [(0, name) for name in names[0] - names[1]] + [
            (1, name) for name in names[1] - names[0]
        ]
        if only:
            index, (colour, kind) = rng.choice(sorted(only))
            name = name_of(colour, kind, zh)
            question = rng.choice(_WHICH_IMAGE[zh]).format(name if zh else article(name))
            answers = (
                ("第一张图片。", "第二张图片。")
                if zh
                else ("The first image.", "The second image.")
            )
            return Dialogue("two: which", question, answers[index], thought, zh)
    index = rng.randrange(2)
    ordinal = ("第一张", "第二张")[index] if zh else ("first", "second")[index]
    question = rng.choice(_DESCRIBE_ONE[zh]).format(ordinal)
    return Dialogue("two: describe", question, describe((first, second)[index], zh), thought, zh)


def talk(rng: random.Random) -> Dialogue:
    """Small talk, or a question about a picture that is not there."""
    if rng.random() < 0.4:
        asked = ask(rng, sample_scene(rng, 112, 112))
        answer = _NO_PICTURE[asked.chinese]
        return Dialogue(
            "no picture", asked.question, answer, _thought_without(asked.chinese), asked.chinese
        )
    question, answer = rng.choice(list(_TALK.items()))
    chinese = ord(question[0]) > 255
    return Dialogue(
        "small talk", loosened(rng, question), answer, _thought_without(chinese), chinese
    )


def _thought_without(chinese: bool) -> str:
    return "没有图片。" if chinese else "No image."
