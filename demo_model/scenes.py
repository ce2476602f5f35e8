"""Scenes of coloured shapes and numbers, and pictures of them."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# Several shades carry each name, those of CSS and of plotting libraries among them.
SHAPE_COLOURS: dict[str, list[Colour]] = {
    "red": [(220, 30, 30), (255, 0, 0), (214, 39, 40), (230, 20, 50)],
    "green": [(30, 150, 50), (0, 128, 0), (0, 220, 0), (44, 160, 44), (50, 190, 60)],
    "blue": [(30, 60, 220), (0, 0, 255), (31, 119, 180), (20, 20, 170)],
    "yellow": [(245, 220, 30), (255, 255, 0), (250, 235, 60)],
    "orange": [(250, 135, 15), (255, 165, 0), (255, 127, 14)],
    "purple": [(130, 40, 170), (128, 0, 128), (148, 103, 189), (160, 32, 220)],
    "pink": [(250, 130, 190), (255, 192, 203), (255, 105, 180), (227, 119, 194)],
    "brown": [(120, 70, 25), (150, 75, 40), (139, 69, 19), (140, 86, 75)],
}
BACKGROUND_COLOURS: dict[str, list[Colour]] = {
    "white": [(255, 255, 255), (255, 255, 255), (248, 248, 248)],
    "black": [(0, 0, 0), (0, 0, 0), (18, 18, 18)],
    "gray": [(128, 128, 128), (150, 150, 150), (110, 110, 110)],
    **SHAPE_COLOURS,
    "yellow": [*SHAPE_COLOURS["yellow"], (255, 255, 128), (255, 250, 110)],
}
SHAPES = ("circle", "square", "triangle", "star")
COLOURS = tuple(SHAPE_COLOURS)
BACKGROUNDS = tuple(BACKGROUND_COLOURS)

# Cells of 28 pixels, (rows, columns), and how often: what the checkpoint's pixel limits make of
# pictures of usual shapes.
GRIDS = {
    (4, 4): 46, (4, 5): 12, (5, 4): 9, (5, 5): 10, (4, 6): 7, (6, 4): 4, (3, 6): 4, (6, 3): 2,
    (3, 5): 2, (3, 7): 2, (7, 3): 2,
}  # fmt: skip
CELL = 28

# What a scene has, and how often.
KINDS = {"shapes": 60, "number": 25, "both": 9, "blank": 6}
# For the third phase: numbers are learnt late.
MANY_NUMBERS = {"shapes": 35, "number": 48, "both": 13, "blank": 4}
# For the last phase, which must forget nothing.
EVERYTHING = {"shapes": 50, "number": 30, "both": 15, "blank": 5}

_DARK_INKS: list[Colour] = [(0, 0, 0), (0, 0, 0), (20, 20, 90), (100, 10, 10), (10, 80, 20)]
_LIGHT_INKS: list[Colour] = [(255, 255, 255), (255, 255, 255), (255, 255, 190), (190, 230, 255)]
_FONTS = (
    None,  # Pillow's own
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansMono.ttf",
)


@dataclass
class Shape:
    """One coloured shape; centre and size in pixels of the scene, rotation in degrees."""

    colour: str
    kind: str
    x: float
    y: float
    size: float
    rotation: float


@dataclass
class Number:
    """A number of one to four digits; (x, y) is where its text begins, centres are per digit."""

    text: str
    x: float
    y: float
    font: str | None
    font_size: int
    ink: Colour
    centres: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Scene:
    """What a picture shows: shapes from left to right, and a number or none."""

    width: int
    height: int
    background: str
    shapes: list[Shape]
    number: Number | None


@cache
def load_font(name: str | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's default font, or one of those that come with matplotlib."""
    if name is None:
        return ImageFont.load_default(size=size)
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def sample_grid(rng: random.Random) -> tuple[int, int]:
    """Rows and columns of cells for one picture."""
    return rng.choices(list(GRIDS), list(GRIDS.values()))[0]


def sample_scene(
    rng: random.Random, width: int, height: int, kinds: Mapping[str, int] = KINDS
) -> Scene:
    """A random scene of ``width`` x ``height`` pixels, 84 or more on each side."""
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    weights = [30, 12, 10, *[3] * 8] if kind != "blank" else [8, 8, 8, *[7] * 8]
    background = rng.choices(BACKGROUNDS, weights)[0]
    scene = Scene(width, height, background, [], None)
    boxes: list[tuple[float, float, float, float]] = []
    if kind in ("number", "both"):
        scene.number = _sample_number(rng, scene, small=kind == "both")
        boxes.append(_number_box(scene.number))
    count = {"shapes": rng.choices([1, 2, 3], [32, 36, 32])[0], "both": 1}.get(kind, 0)
    for _ in range(count):
        _place_shape(rng, scene, boxes, count, small=kind == "both")
    scene.shapes.sort(key=lambda shape: shape.x)
    return scene


def _sample_number(rng: random.Random, scene: Scene, *, small: bool) -> Number:
    digits = (
        rng.choices([1, 2], [40, 60])[0]
        if small
        else rng.choices([1, 2, 3, 4], [10, 20, 30, 40])[0]
    )
    text = str(rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1))
    font_name = rng.choice(_FONTS)
    while True:
        size = rng.randint(20, 34 if small else 50)
        font = load_font(font_name, size)
        left, top, right, bottom = font.getbbox(text)
        if right - left <= scene.width - 8 and bottom - top <= scene.height - 8:
            break
    x = rng.uniform(4, scene.width - 4 - (right - left)) - left
    y = rng.uniform(4, scene.height - 4 - (bottom - top)) - top
    bright = sum(BACKGROUND_COLOURS[scene.background][0]) / 3
    inks = _DARK_INKS if bright > 140 or (bright > 100 and rng.random() < 0.5) else _LIGHT_INKS
    ends = [font.getlength(text[:i]) for i in range(len(text) + 1)]
    middle = y + (top + bottom) / 2
    centres = [(x + (a + b) / 2, middle) for a, b in pairwise(ends)]
    return Number(text, x, y, font_name, size, rng.choice(inks), centres)


def _number_box(number: Number) -> tuple[float, float, float, float]:
    left, top, right, bottom = load_font(number.font, number.font_size).getbbox(number.text)
    return number.x + left, number.y + top, number.x + right, number.y + bottom


def _place_shape(
    rng: random.Random,
    scene: Scene,
    boxes: list[tuple[float, float, float, float]],
    count: int,
    *,
    small: bool,
) -> None:
    """Add one shape where there is room for it; none if sixty tries find no room."""
    colours = [colour for colour in COLOURS if colour != scene.background]
    largest = 36 if small else {1: 80, 2: 50, 3: 40}[count]
    for _ in range(60):
        size = min(rng.uniform(22, largest), min(scene.width, scene.height) - 8)
        x = rng.uniform(size / 2 + 2, scene.width - size / 2 - 2)
        y = rng.uniform(size / 2 + 2, scene.height - size / 2 - 2)
        box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
        if any(
            box[0] < other[2] + 3
            and other[0] < box[2] + 3
            and box[1] < other[3] + 3
            and other[1] < box[3] + 3
            for other in boxes
        ):
            continue
        if any(abs(x - other.x) < 8 for other in scene.shapes):
            continue  # which of the two is further left must be plain to see
        colour, kind = rng.choice(colours), rng.choice(SHAPES)
        if any((other.colour, other.kind) == (colour, kind) for other in scene.shapes):
            continue
        rotation = rng.uniform(-18, 18) if rng.random() < 0.4 else 0.0
        boxes.append(box)
        scene.shapes.append(Shape(colour, kind, x, y, size, rotation))
        return


def rescaled(scene: Scene, width: int, height: int) -> Scene:
    """The same scene in the coordinates of a picture resized to ``width`` x ``height``."""
    fx, fy = width / scene.width, height / scene.height
    shapes = [
        Shape(s.colour, s.kind, s.x * fx, s.y * fy, s.size * (fx + fy) / 2, s.rotation)
        for s in scene.shapes
    ]
    number = scene.number
    if number is not None:
        centres = [(x * fx, y * fy) for x, y in number.centres]
        number = Number(
            number.text,
            number.x * fx,
            number.y * fy,
            number.font,
            number.font_size,
            number.ink,
            centres,
        )
    return Scene(width, height, scene.background, shapes, number)


def _jitter(rng: random.Random, colour: Colour, amount: int) -> Colour:
    red, green, blue = (max(0, min(255, value + rng.randint(-amount, amount))) for value in colour)
    return red, green, blue


def outline(shape: Shape, scale: float) -> list[tuple[float, float]]:
    """Corners of a shape that is no circle, ``scale`` pixels a scene pixel."""
    angle = math.radians(shape.rotation)
    cos, sin = math.cos(angle), math.sin(angle)
    if shape.kind == "square":
        points = [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    elif shape.kind == "triangle":
        points = [(0.0, -1.0), (0.98, 0.85), (-0.98, 0.85)]
    else:
        radii = [1.05, 0.42] * 5
        points = [
            (radius * math.sin(math.pi * i / 5), -radius * math.cos(math.pi * i / 5))
            for i, radius in enumerate(radii)
        ]
    radius = shape.size / 2
    return [
        (
            (shape.x + radius * (x * cos - y * sin)) * scale,
            (shape.y + radius * (x * sin + y * cos)) * scale,
        )
        for x, y in points
    ]


def render(scene: Scene, rng: random.Random, scale: float = 1.0) -> Image.Image:
    """Draw a scene, ``scale`` pixels a scene pixel, with the flaws that real pictures have.

    Shades vary around their names; there are gradients, noise, outlines, smooth and hard edges and
    the traces of JPEG.
    """
    fine = scale * (2 if rng.random() < 0.5 else 1)  # drawn finer and scaled down: smooth edges
    size = (round(scene.width * fine), round(scene.height * fine))
    background = _jitter(
        rng, rng.choice(BACKGROUND_COLOURS[scene.background]), rng.choice([0, 0, 10])
    )
    image = Image.new("RGB", size, background)
    flaw = rng.random()
    if flaw < 0.15:
        ramp = Image.linear_gradient("L").resize(size)
        if rng.random() < 0.5:
            ramp = ramp.transpose(Image.Transpose.ROTATE_90).resize(size)
        other = Image.new("RGB", size, _jitter(rng, background, 35))
        image = Image.composite(other, image, ramp)
    draw = ImageDraw.Draw(image)
    for shape in scene.shapes:
        fill = _jitter(rng, rng.choice(SHAPE_COLOURS[shape.colour]), rng.choice([0, 8, 14]))
        line = None if rng.random() < 0.8 else (0, 0, 0)
        if shape.kind == "circle":
            radius = shape.size / 2
            left, top = (shape.x - radius) * fine, (shape.y - radius) * fine
            draw.ellipse((left, top, left + shape.size * fine, top + shape.size * fine), fill, line)
        else:
            draw.polygon(outline(shape, fine), fill, line)
    if scene.number is not None:
        number = scene.number
        font = load_font(number.font, max(1, round(number.font_size * fine)))
        draw.text((number.x * fine, number.y * fine), number.text, number.ink, font)
    if fine != scale:
        image = image.resize(
            (round(scene.width * scale), round(scene.height * scale)), Image.Resampling.BICUBIC
        )
    if 0.15 < flaw < 0.25:
        noise = np.random.default_rng(rng.getrandbits(32)).integers(
            -14, 15, (image.height, image.width, 3)
        )
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(40, 95))
        image = Image.open(buffer).convert("RGB")
    return image
