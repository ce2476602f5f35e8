"""Resize an image as Glm46VImageProcessor does and cut it into uint8 patches.

Source: ``transformers/models/glm46v/image_processing_pil_glm46v.py`` (5.23). The patches sent to
stage 2 are the pixels before rescale and normalise, and without the duplicated temporal frame: 588
bytes per patch, where the processor's float32 rows have 4,704.

Frames of a video: ``video_processing_glm46v.py``, which resizes them by a function of torch, and so
does this module. torch is imported for the first video only.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from glm_preprocessing.errors import InvalidInput

_MAX_ASPECT_RATIO = 200
# ``Glm46VVideoProcessor.size``, the default of a checkpoint.
_VIDEO_SIZE = {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 2 * 30000}


@dataclass(frozen=True, slots=True)
class PatchConfig:
    """Sizes from the checkpoint's ``preprocessor_config.json``, or the one for videos.

    ``min_pixels`` and ``max_pixels`` bound frames x height x width, and an image counts as
    ``temporal_patch_size`` frames.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    resample: int

    @classmethod
    def from_image_processor(cls, config: dict[str, Any]) -> Self:
        """Read the sizes; raises KeyError where the file has no pixel limits."""
        size = config["size"]
        return cls(
            patch_size=config.get("patch_size", 14),
            temporal_patch_size=config.get("temporal_patch_size", 2),
            merge_size=config.get("merge_size", 2),
            min_pixels=size["shortest_edge"],
            max_pixels=size["longest_edge"],
            resample=config.get("resample", Image.Resampling.BICUBIC),
        )

    @classmethod
    def from_video_processor(cls, config: dict[str, Any]) -> Self:
        """Read the sizes; missing values default to those of transformers."""
        return cls.from_image_processor({"size": _VIDEO_SIZE, **config})

    @property
    def factor(self) -> int:
        """Pixels on a side of one image token."""
        return self.patch_size * self.merge_size

    @property
    def row(self) -> int:
        """Values in a patch."""
        return 3 * self.patch_size**2


def check_aspect_ratio(width: int, height: int, field: str) -> None:
    """Raises InvalidInput if one side is more than 200 times the other."""
    if max(width, height) > _MAX_ASPECT_RATIO * min(width, height):
        raise InvalidInput(
            field,
            f"{width} x {height} pixels: one side may be at most {_MAX_ASPECT_RATIO} times "
            "the other",
        )


def target_size(
    width: int,
    height: int,
    config: PatchConfig,
    field: str,
    max_side: int = 0,
    max_pixels: int = 0,
    frames: int = 0,
) -> tuple[int, int]:
    """Width and height in pixels that an image is resized to, multiples of ``config.factor``.

    Args:
        max_side: larger images are first scaled down to this many pixels on their longer side.
        max_pixels: likewise for the total number of pixels. For both, 0 means no limit.
        frames: of a video, a multiple of ``config.temporal_patch_size``; 0 for an image.

    Raises:
        InvalidInput: one side is more than 200 times the other.
    """
    check_aspect_ratio(width, height, field)
    if max_side and max(width, height) > max_side:
        scale = max_side / max(width, height)
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    if max_pixels and width * height > max_pixels:
        scale = math.sqrt(max_pixels / (width * height))
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    factor, frames = config.factor, frames or config.temporal_patch_size
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if frames * new_height * new_width > config.max_pixels:
        beta = math.sqrt(frames * height * width / config.max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif frames * new_height * new_width < config.min_pixels:
        beta = math.sqrt(config.min_pixels / (frames * height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_width, new_height


def check_whole(width: int, height: int, config: PatchConfig, field: str) -> tuple[int, int]:
    """Width and height, of media that are not to be resized.

    Raises:
        InvalidInput: a side is not a multiple of ``config.factor``.
    """
    if width % config.factor or height % config.factor:
        raise InvalidInput(
            field,
            f"{width} x {height} pixels: without do_resize each side must be a multiple of "
            f"{config.factor}",
        )
    return width, height


def patchify(
    image: Image.Image, size: tuple[int, int], config: PatchConfig
) -> tuple[npt.NDArray[np.uint8], tuple[int, int, int]]:
    """Resize an RGB image and cut it into patches, those of one image token side by side.

    Args:
        size: from :func:`target_size`.

    Returns:
        uint8 patches of shape (grid_h * grid_w, 3 * patch_size ** 2), channels first within a row,
        and the grid (1, grid_h, grid_w) in patches.
    """
    pixels = np.asarray(image.resize(size, Image.Resampling(config.resample)))
    return _cut(pixels, config), _grid(size, config)


def pair_frames(
    frames: Iterable[npt.NDArray[np.uint8]], size: tuple[int, int], config: PatchConfig
) -> Iterator[tuple[npt.NDArray[np.uint8], tuple[int, int, int]]]:
    """The patches of each temporal patch of a video, from those of its frames by :func:`cut_frame`.

    Yields:
        What :func:`patchify` returns, except that each patch has one row per frame, in sequence:
        (grid_h * grid_w * temporal_patch_size, 3 * patch_size ** 2).
    """
    waiting: list[npt.NDArray[np.uint8]] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == config.temporal_patch_size:
            yield np.stack(waiting, axis=1).reshape(-1, config.row), _grid(size, config)
            waiting.clear()


def _grid(size: tuple[int, int], config: PatchConfig) -> tuple[int, int, int]:
    return 1, size[1] // config.patch_size, size[0] // config.patch_size


def cut_frame(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], config: PatchConfig
) -> npt.NDArray[np.uint8]:
    """Resize a video's RGB frame, (height, width, 3), to ``size``, and cut it as :func:`patchify`.

    Source: ``torchvision.transforms.v2.functional.resize`` of a uint8 tensor.
    """
    from torch import from_numpy  # takes a second, and 200 MB
    from torch.nn.functional import interpolate

    frame = from_numpy(pixels).permute(2, 0, 1)[None]
    mode = Image.Resampling(config.resample).name.lower()
    resized = interpolate(frame, size=size[::-1], mode=mode, antialias=True)
    return _cut(resized[0].permute(1, 2, 0).numpy(), config)


def _cut(pixels: npt.NDArray[np.uint8], config: PatchConfig) -> npt.NDArray[np.uint8]:
    height, width, _ = pixels.shape
    _, grid_h, grid_w = _grid((width, height), config)
    merge, patch = config.merge_size, config.patch_size
    blocks = pixels.reshape(grid_h // merge, merge, patch, grid_w // merge, merge, patch, 3)
    rows = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(grid_h * grid_w, 3 * patch * patch)
    return np.ascontiguousarray(rows)
