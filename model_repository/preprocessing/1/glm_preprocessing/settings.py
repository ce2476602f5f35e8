"""Settings of stage 1, read from the environment that Triton was started with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class PreprocessingSettings:
    """Location of the checkpoint, and limits for images and videos.

    Attributes:
        model: local folder of the checkpoint, or its id on the hub (``GLM_MODEL``).
        max_image_side: larger images are scaled down to this many pixels on their longer side
            before the checkpoint's own limits apply; 0 for no limit (``GLM_MAX_IMAGE_SIDE``).
            Applies to the frames of a video, too.
        max_image_pixels: images, and frames of a video, with more pixels are rejected before they
            are decoded (``GLM_MAX_IMAGE_PIXELS``).
        max_images: in one request (``GLM_MAX_IMAGES``).
        image_decode_timeout: seconds after which no further image of a request is decoded
            (``GLM_IMAGE_DECODE_TIMEOUT``). A single one takes a few seconds at most.
        max_videos: in one request (``GLM_MAX_VIDEOS``).
        max_video_frames: videos with more frames are rejected before they are decoded
            (``GLM_MAX_VIDEO_FRAMES``).
        video_decode_timeout: seconds for reading and decoding the videos of a request
            (``GLM_VIDEO_DECODE_TIMEOUT``).
        forwarded_headers: patterns for the lower-case names of headers that Triton passes on as
            parameters of requests, and that are ignored; ``*`` is any text
            (``GLM_FORWARDED_HEADERS``, comma-separated).
    """

    model: str
    max_image_side: int
    max_image_pixels: int
    max_images: int
    image_decode_timeout: int
    max_videos: int
    max_video_frames: int
    video_decode_timeout: int
    forwarded_headers: tuple[str, ...]

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Self:
        """Read the settings; raises ValueError naming the key and the value."""
        model = env.get("GLM_MODEL", "").strip()
        if not model:
            raise ValueError(
                "GLM_MODEL is not set: give a checkpoint's folder or its id on the hub"
            )
        return cls(
            model=model,
            max_image_side=_integer(env, "GLM_MAX_IMAGE_SIDE", default=0, minimum=0),
            max_image_pixels=_integer(env, "GLM_MAX_IMAGE_PIXELS", default=65_000_000, minimum=1),
            max_images=_integer(env, "GLM_MAX_IMAGES", default=999, minimum=0),
            image_decode_timeout=_integer(env, "GLM_IMAGE_DECODE_TIMEOUT", default=30, minimum=1),
            max_videos=_integer(env, "GLM_MAX_VIDEOS", default=999, minimum=0),
            max_video_frames=_integer(env, "GLM_MAX_VIDEO_FRAMES", default=100_000, minimum=1),
            video_decode_timeout=_integer(env, "GLM_VIDEO_DECODE_TIMEOUT", default=30, minimum=1),
            forwarded_headers=_names(env, "GLM_FORWARDED_HEADERS"),
        )


def _names(env: Mapping[str, str], key: str) -> tuple[str, ...]:
    names = (name.strip().lower() for name in env.get(key, "").split(","))
    return tuple(name for name in names if name)


def _integer(env: Mapping[str, str], key: str, *, default: int, minimum: int) -> int:
    text = env.get(key, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{key}={text!r} is not an integer") from None
    if value < minimum:
        raise ValueError(f"{key}={text!r} is below {minimum}")
    return value
