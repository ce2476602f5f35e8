"""What a request may say about how its pictures and videos are looked at."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.patches import PatchConfig

# More frames than GLM looks at in a video.
MAX_FRAMES = 640
_MAX_FPS = 240
_MAX_PIXELS = 2**31 - 1
_MAX_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """Which frames of a video are looked at, and how closely.

    Attributes:
        fps: frames per second to look at; 0 for GLM's own choice. Of given frames, how many a
            second has.
        num_frames: at most so many, evenly spaced; 0 for GLM's own choice.
        start, end: seconds; what is before and after is not looked at.
        max_pixels: of a frame; 0 for the checkpoint's own limit.
        frames: instead of a file, so many pictures are the frames; 0 for a file.
        times: of those, in seconds; empty for evenly spaced ones.
    """

    fps: float = 0.0
    num_frames: int = 0
    start: float = 0.0
    end: float = math.inf
    max_pixels: int = 0
    frames: int = 0
    times: tuple[float, ...] = ()


NO_OPTIONS = VideoOptions()


def video_options(part: Mapping[str, Any], field: str) -> VideoOptions:
    """Read the options that stand beside a video in its part of a message.

    Raises:
        InvalidInput: naming the one that is out of range.
    """
    options = VideoOptions(
        fps=_number(part, "fps", field, _MAX_FPS, is_positive=True) or 0.0,
        num_frames=_whole(part, "num_frames", field, MAX_FRAMES),
        start=_number(part, "video_start", field, _MAX_SECONDS) or 0.0,
        end=_number(part, "video_end", field, _MAX_SECONDS, is_positive=True) or math.inf,
        max_pixels=_whole(part, "max_pixels", field, _MAX_PIXELS),
        frames=_whole(part, "frames", field, MAX_FRAMES),
    )
    if options.end <= options.start:
        raise InvalidInput(f"{field}.video_end", "must be after video_start")
    times = part.get("times")
    if times is None:
        return options
    if not isinstance(times, list) or len(times) != options.frames:
        raise InvalidInput(f"{field}.times", "must be a list with one time for each frame")
    seconds = tuple(_number({"times": time}, "times", field, _MAX_SECONDS) or 0.0 for time in times)
    if list(seconds) != sorted(seconds):
        raise InvalidInput(f"{field}.times", "must be ascending")
    return replace(options, times=seconds)


def _number(
    given: Mapping[str, Any], name: str, field: str, highest: float, *, is_positive: bool = False
) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= highest or (is_positive and not value):
        least = "more than 0" if is_positive else "0 or more"
        raise InvalidInput(f"{field}.{name}", f"must be a number, {least}, at most {highest:g}")
    return float(value)


def _whole(given: Mapping[str, Any], name: str, field: str, highest: int) -> int:
    value = given.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
        raise InvalidInput(f"{field}.{name}", f"must be a whole number from 1 to {highest}")
    return value


@dataclass(frozen=True, slots=True)
class ProcessorKwargs:
    """Arguments of transformers' processor that a request may set, for all of its media.

    Attributes:
        min_pixels, max_pixels: of frames x height x width, as ``size`` of the processor has them
            (a picture counts as two frames); None for the checkpoint's.
        do_resize: whether media are resized at all.
        fps: see :class:`VideoOptions`; for videos that have none of their own.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    do_resize: bool = True
    fps: float = 0.0

    def config(self, config: PatchConfig, field: str) -> PatchConfig:
        """The checkpoint's sizes, changed.

        Raises:
            InvalidInput: the limits contradict each other.
        """
        lowest = config.min_pixels if self.min_pixels is None else self.min_pixels
        highest = config.max_pixels if self.max_pixels is None else self.max_pixels
        if self.min_pixels is not None and lowest > highest:
            raise InvalidInput(field, f"min_pixels {lowest} exceeds max_pixels {highest}")
        return replace(config, min_pixels=min(lowest, highest), max_pixels=highest)


_PROCESSOR_FIELD = "mm_processor_kwargs"
_EDGES = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}


def processor_kwargs(given: Any) -> ProcessorKwargs:
    """Check the parsed JSON of ``mm_processor_kwargs``.

    Raises:
        InvalidInput: naming what is unknown or out of range.
    """
    if given is None:
        return ProcessorKwargs()
    if not isinstance(given, dict):
        raise InvalidInput(_PROCESSOR_FIELD, "must be a JSON object")
    names = ("size", "min_pixels", "max_pixels", "do_resize", "fps")
    _known(given, names, _PROCESSOR_FIELD)
    pixels: dict[str, int | None] = {}
    size = given.get("size")
    if size is not None:
        if not isinstance(size, dict):
            raise InvalidInput(f"{_PROCESSOR_FIELD}.size", "must be a JSON object")
        _known(size, tuple(_EDGES), f"{_PROCESSOR_FIELD}.size")
        for edge, name in _EDGES.items():
            pixels[name] = _whole(size, edge, f"{_PROCESSOR_FIELD}.size", _MAX_PIXELS) or None
    for name in _EDGES.values():
        pixels[name] = _whole(given, name, _PROCESSOR_FIELD, _MAX_PIXELS) or pixels.get(name)
    do_resize = given.get("do_resize")
    if do_resize not in (None, True, False):
        raise InvalidInput(f"{_PROCESSOR_FIELD}.do_resize", "must be true or false")
    return ProcessorKwargs(
        min_pixels=pixels["min_pixels"],
        max_pixels=pixels["max_pixels"],
        do_resize=do_resize is not False,
        fps=_number(given, "fps", _PROCESSOR_FIELD, _MAX_FPS, is_positive=True) or 0.0,
    )


def _known(given: Mapping[str, Any], names: tuple[str, ...], field: str) -> None:
    for name in given:
        if name not in names:
            raise InvalidInput(
                f"{field}.{name}", f"is not supported (supported: {', '.join(names)})"
            )
