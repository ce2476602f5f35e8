"""Draws the pictures beside this file: by other means than the demo model's training.

``python tests/e2e/pictures/draw.py`` needs matplotlib (extra ``train``) and Chromium. The pictures
are committed, so the tests need neither.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Circle, Patch, Polygon, Rectangle, RegularPolygon
from PIL import Image, ImageFilter

FOLDER = Path(__file__).parent
matplotlib.use("Agg")


def _star_points(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    angles = np.arange(10) * np.pi / 5 + np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, radius, 0.4 * radius)
    return list(zip(x + radii * np.cos(angles), y + radii * np.sin(angles), strict=True))


def _plot(name: str, size: tuple[int, int], patches: list[Patch], **options: Any) -> None:
    """With matplotlib: anti-aliased, axes of 100 units in width."""
    width, height = size
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)
    figure.patch.set_facecolor(options.get("background", "white"))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100 * height / width)
    axes.axis("off")
    for patch in patches:
        axes.add_patch(patch)
    if "text" in options:
        axes.text(50, 50 * height / width, options["text"], fontsize=options["fontsize"],
                  ha="center", va="center", family=options.get("family", "sans-serif"))  # fmt: skip
    figure.savefig(FOLDER / name, facecolor=figure.get_facecolor())
    plt.close(figure)


def _by_hand(name: str, size: tuple[int, int], background: str, colour: str, shape: str) -> None:
    """With boolean masks: hard edges."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    dx, dy, radius = x - 0.45 * width, y - 0.5 * height, 0.25 * min(size)
    mask = {
        "circle": dx**2 + dy**2 < radius**2,
        "square": (abs(dx) < radius) & (abs(dy) < radius),
        "triangle": (dy < radius) & (2 * abs(dx) < dy + radius),
        "nothing": np.zeros_like(x, bool),
    }[shape]
    image = Image.new("RGB", size, background)
    image.paste(Image.new("RGB", size, colour), mask=Image.fromarray(mask.astype(np.uint8) * 255))
    image.save(FOLDER / name)


def _browser(name: str, size: tuple[int, int], body: str) -> None:
    """With Chromium: SVG and text as a web page shows them."""
    page = f"<body style='margin:0;overflow:hidden'>{body}</body>"
    with tempfile.TemporaryDirectory() as folder:
        source, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        source.write_text(page, encoding="utf-8")
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={folder}/profile", "--hide-scrollbars", "--force-device-scale-factor=1",
             f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}", source.as_uri()],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        Image.open(shot).convert("RGB").save(FOLDER / name)


def _photograph(name: str, size: tuple[int, int], colour: str, sides: int, paper: str) -> None:
    """A shape on paper, seen at an angle: perspective, uneven light, blur, noise, JPEG."""
    figure = plt.figure(figsize=(6, 4.5), dpi=100)
    figure.patch.set_facecolor(paper)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 6)
    axes.set_ylim(0, 4.5)
    axes.axis("off")
    shape = (
        Circle((3.3, 2.2), 1.0, color=colour)
        if sides == 0
        else Polygon(_star_points(2.8, 2.3, 1.2), color=colour)
        if sides == 5
        else RegularPolygon((3, 2.2), sides, radius=1.2, orientation=np.pi / sides, color=colour)
    )
    axes.add_patch(shape)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    flat = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    plt.close(figure)
    width, height = flat.size
    corners = (0.03 * width, 0.06 * height, -0.02 * width, height, 1.01 * width, 0.97 * height,
               0.95 * width, 0.02 * height)  # fmt: skip
    tilted = flat.transform(
        size, Image.Transform.QUAD, corners, Image.Resampling.BICUBIC, fillcolor=paper
    )
    tilted = tilted.filter(ImageFilter.GaussianBlur(2))
    y, x = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]
    light = 1 - 0.12 * (x**2 + y**2) + 0.04 * x
    noise = np.random.default_rng(sides).normal(0, 5, (size[1], size[0], 1))
    photo = (np.asarray(tilted) * light[..., None] + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(photo).save(FOLDER / name, quality=80)


def main() -> None:
    """Draw all of them."""
    _plot("plot-circle-square.png", (640, 480),
          [Circle((25, 40), 12, color="red"), Rectangle((60, 25), 22, 22, color="blue")])  # fmt: skip
    _plot("plot-three.jpg", (2000, 1500),
          [RegularPolygon((18, 40), 3, radius=12, color="green"),
           Polygon(_star_points(50, 38, 13), color="yellow"), Circle((82, 35), 10, color="purple")],
          background="black")  # fmt: skip
    _plot("plot-42.png", (400, 300), [], text="42", fontsize=110)
    _by_hand("hand-circle-64.png", (64, 64), "black", "orange", "circle")
    _by_hand("hand-triangle.jpg", (300, 200), "white", "blue", "triangle")
    _by_hand("hand-blue.png", (500, 350), "blue", "blue", "nothing")
    _browser("browser-star.png", (800, 600),
             "<svg width=800 height=600 style='background:#fff'><polygon fill='hotpink' points='"
             "400,120 445,245 575,245 470,325 510,455 400,375 290,455 330,325 225,245 355,245'/></svg>")  # fmt: skip
    _browser("browser-1207.jpg", (600, 400),
             "<div style='font:bold 150px sans-serif;text-align:center;line-height:400px'>1207</div>")  # fmt: skip
    _browser("browser-two.png", (1000, 1000),
             "<svg width=1000 height=1000 style='background:linear-gradient(#ddd,#fff)'>"
             "<rect x=120 y=560 width=260 height=260 fill='saddlebrown'/>"
             "<circle cx=700 cy=320 r=150 fill='green'/></svg>")  # fmt: skip
    _photograph("photo-square.jpg", (1600, 1200), "tab:red", 4, "whitesmoke")
    _photograph("photo-circle.jpg", (1200, 900), "tab:blue", 0, "white")
    _photograph("photo-star.jpg", (900, 1200), "tab:orange", 5, "whitesmoke")


if __name__ == "__main__":
    main()
