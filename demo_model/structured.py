"""Questions that want JSON or boxes, and their true answers."""

import json
import random
import re
from typing import Any

from demo_model.dialogues import SHAPE_ZH, Dialogue, describe, join, loosened, name_of
from demo_model.scenes import COLOURS, SHAPES, Scene, Shape, outline

# Boxes are in thousandths of the picture's sides, as GLM writes them, but only in steps of this.
BOX_STEP = 50

# Each question once in English and once in Chinese.
_JSON = (
    ["Describe the image as JSON.", "Describe this image as JSON.", "Describe the picture as JSON.",
     "What is in this image? Answer as JSON.", "What do you see? Answer as JSON.",
     "Give a JSON description of the image."],
    ["用JSON描述这张图片。", "请用JSON描述图片的内容。", "图片里有什么？用JSON回答。"],
)  # fmt: skip
_JSON_KEYS = (
    ["As JSON with the keys {}.", "Answer as JSON with the keys {}.", "Give me JSON with the keys {}.",
     "Describe the image as JSON with the keys {}.",
     "What is in this image? Answer as JSON with the keys {}."],
    ["用JSON回答，键是{}。", "用JSON描述这张图片，键是{}。"],
)  # fmt: skip
_JSON_SHAPES = (
    ["Answer as JSON with {} and {} of every shape.", "Give {} and {} of every shape as JSON.",
     "List the shapes as JSON with {} and {}."],
    ["用JSON列出所有图形的{}和{}。"],
)  # fmt: skip
# A schema may want any keys after any of these.
_ANY = (
    "What is in this image?",
    "Describe the image.",
    "Answer.",
    "图片里有什么？",
    "描述这张图片。",
)
_BOX = (
    ["Where is the {}? Give its box.", "Give the box of the {}.", "Give the bounding box of the {}.",
     "Draw a box around the {}."],
    ["{}在哪里？给出它的框。", "框出{}。", "给出{}的坐标框。"],
)  # fmt: skip
_BOXES = (
    ["Give the boxes of all shapes.", "Give the box of every shape.", "Where are the shapes? Give their boxes."],
    ["给出所有图形的框。", "框出所有图形。"],
)  # fmt: skip
_BOXES_TAGGED = re.compile(r"<\|begin_of_box\|>\[(.*)\]<\|end_of_box\|>")

Box = tuple[int, int, int, int]


def ask_structured(rng: random.Random, scene: Scene) -> Dialogue:
    """A random question about one scene that wants JSON or boxes."""
    return (ask_json if rng.random() < 0.4 else ask_boxes)(rng, scene)


def ask_json(rng: random.Random, scene: Scene) -> Dialogue:
    """Everything, some keys in the order asked for, or what a schema forces upon the answer."""
    zh = rng.random() < 0.3
    colour = rng.choice(["colour", "colour", "color"])
    kind = rng.random()
    if kind < 0.25:
        question, keys = rng.choice(_JSON[zh]), ["shapes", "number", "background"]
        colour = "colour"
    elif kind < 0.4:
        pair = [colour, "shape"] if rng.random() < 0.6 else ["shape", colour]
        question, keys = rng.choice(_JSON_SHAPES[zh]).format(*pair), ["shapes"]
        value = {"shapes": [_parts(shape, colour, pair) for shape in scene.shapes]}
        return _json_dialogue(rng, "JSON of shapes", question, value, scene, zh)
    else:
        keys = ["shapes", "number", "background", "count"]
        if len(scene.shapes) == 1:
            keys += [colour, "shape"] * 2
        keys = list(dict.fromkeys(rng.sample(keys, rng.randint(1, 4))))
        if colour not in keys and kind < 0.85:
            colour = "colour"  # as in all answers where the question does not say otherwise
        names = join(keys, "、", "和") if zh else join(keys, ", ", " and ")
        question = rng.choice(_JSON_KEYS[zh]).format(names)
        if len(keys) == 1:
            question = question.replace("the keys", "the key")
    value = {key: _value(scene, key, colour) for key in keys}
    if kind >= 0.85:
        return _json_dialogue(rng, "JSON forced", rng.choice(_ANY), value, scene, zh)
    task = "JSON of all" if kind < 0.25 else "JSON by keys"
    return _json_dialogue(rng, task, question, value, scene, zh)


def _json_dialogue(
    rng: random.Random, task: str, question: str, value: dict[str, Any], scene: Scene, zh: bool
) -> Dialogue:
    zh = zh if task != "JSON forced" else ord(question[0]) > 255
    pieces = tuple(_pieces(value)) if task == "JSON forced" else ()
    answer = json.dumps(value)
    return Dialogue(task, loosened(rng, question), answer, describe(scene, zh), zh, pieces)


def _value(scene: Scene, key: str, colour: str) -> Any:
    if key == "shapes":
        return [_parts(shape, colour, [colour, "shape"]) for shape in scene.shapes]
    if key == "number":
        return int(scene.number.text) if scene.number else None
    if key == "background":
        return scene.background
    if key == "count":
        return len(scene.shapes)
    return _parts(scene.shapes[0], colour, [key])[key]


def _parts(shape: Shape, colour: str, keys: list[str]) -> dict[str, str]:
    known = {colour: shape.colour, "shape": shape.kind}
    return {key: known[key] for key in keys}


def _pieces(value: Any) -> list[tuple[str, bool]]:
    """The text of ``json.dumps(value)`` in pieces; the keys of objects are not learnt."""
    pieces: list[tuple[str, bool]] = []
    if isinstance(value, dict):
        for i, (key, item) in enumerate(value.items()):
            (first, learnt), *others = _pieces(item)
            before = ", " if i else "{"
            pieces += [(f'{before}"{key}":', False), (f" {first}", learnt), *others]
        return [*pieces, ("}", False)]
    if isinstance(value, list):
        for i, item in enumerate(value):
            pieces += [(", " if i else "[", True), *_pieces(item)]
        return [*pieces, ("]" if value else "[]", True)]
    return [(json.dumps(value), True)]


def ask_boxes(rng: random.Random, scene: Scene) -> Dialogue:
    """Where one shape is, or all are, as boxes; or that there is no such shape."""
    zh = rng.random() < 0.3
    thought = describe(scene, zh)
    if rng.random() < (0.3 if scene.shapes else 0.5):
        answer = write_boxes([box_of(scene, shape) for shape in scene.shapes])
        if not scene.shapes:
            answer = "没有图形。" if zh else "There are no shapes."
        question = loosened(rng, rng.choice(_BOXES[zh]))
        return Dialogue("boxes of all", question, answer, thought, zh)
    if not scene.shapes or rng.random() < 0.08:
        present = {(shape.colour, shape.kind) for shape in scene.shapes}
        absent = [(c, k) for c in COLOURS for k in SHAPES if (c, k) not in present]
        name = name_of(*rng.choice(absent), zh)
        answer = f"没有{name}。" if zh else f"There is no {name}."
    else:
        shape = rng.choice(scene.shapes)
        kinds = [other.kind for other in scene.shapes]
        name = name_of(shape.colour, shape.kind, zh)
        if kinds.count(shape.kind) == 1 and rng.random() < 0.4:
            name = SHAPE_ZH[shape.kind] if zh else shape.kind
        answer = write_boxes([box_of(scene, shape)])
    question = loosened(rng, rng.choice(_BOX[zh]).format(name))
    return Dialogue("box of one", question, answer, thought, zh)


def box_of(scene: Scene, shape: Shape) -> Box:
    """Left, top, right and bottom in thousandths of the picture's sides, in steps."""
    radius = shape.size / 2
    corners = [(shape.x - radius, shape.y - radius), (shape.x + radius, shape.y + radius)]
    if shape.kind != "circle":
        corners = outline(shape, 1.0)
    columns = [x / scene.width for x, _ in corners]
    rows = [y / scene.height for _, y in corners]
    left, top, right, bottom = (
        round(1000 / BOX_STEP * min(max(share, 0.0), 1.0)) * BOX_STEP
        for share in (min(columns), min(rows), max(columns), max(rows))
    )
    return left, top, right, bottom


def write_boxes(boxes: list[Box]) -> str:
    """Boxes as GLM writes them."""
    inner = ",".join(f"[{','.join(map(str, box))}]" for box in boxes)
    return f"<|begin_of_box|>[{inner}]<|end_of_box|>"


def read_boxes(answer: str) -> list[Box]:
    """The boxes of an answer; none if it is not written as ``write_boxes`` does."""
    found = _BOXES_TAGGED.fullmatch(answer)
    boxes = re.findall(r"\[(\d+),(\d+),(\d+),(\d+)\]", found[1]) if found else []
    return [(int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in boxes]


def overlap(first: Box, second: Box) -> float:
    """Intersection over union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return both / (sum(areas) - both) if both else 0.0
