"""Small videos, drawn and encoded by the tests and benchmarks that use them."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import av
from PIL import Image, ImageDraw

# Container -> encoder and pixel format.
ENCODERS = {
    "mp4": ("libx264", "yuv420p"),
    "mov": ("libx264", "yuv420p"),
    "matroska": ("libx264", "yuv420p"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "gif": ("gif", "rgb8"),
}


def encode(
    frames: Sequence[Image.Image], fps: int = 4, container: str = "mp4", encoder: str = ""
) -> bytes:
    """The file of a video with these frames."""
    usual, pixel_format = ENCODERS.get(container, ENCODERS["mp4"])
    buffer = BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(encoder or usual, rate=fps)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else pixel_format
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_image(frame)))
        output.mux(stream.encode())
    return buffer.getvalue()


def scene(number: int, size: tuple[int, int] = (112, 112)) -> Image.Image:
    """A red disc that moves to the right, and a little darker from frame to frame."""
    width, height = size
    image = Image.new("RGB", size, (255, 255, 240))
    left, top = width // 8 + number * width // 40, height // 4
    box = (left, top, left + height // 2, top + height // 2)
    ImageDraw.Draw(image).ellipse(box, fill=(220 - 5 * number, 30, 30))
    return image


def clip(
    num_frames: int,
    fps: int = 4,
    container: str = "mp4",
    draw: Callable[[int], Image.Image] = scene,
) -> bytes:
    """A video of ``draw(0)``, ``draw(1)`` and so on."""
    return encode([draw(number) for number in range(num_frames)], fps, container)
