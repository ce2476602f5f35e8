"""Decodes the bytes that a client sent to frames of a video. All input is untrusted.

A file is never decoded into memory as a whole: its packets are counted first, then the frames are
decoded in sequence, and the requested ones are yielded one at a time.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
from PIL import Image

from glm_preprocessing.errors import InvalidInput

FORMATS = "MP4, MOV, WebM, Matroska, GIF"
# FFmpeg supports far more than is needed, including playlists that reference other files.
CODECS = frozenset({"av1", "gif", "h264", "hevc", "mjpeg", "mpeg4", "png", "vp8", "vp9"})

# FFmpeg decoders for these codecs; no others may touch a file, not even to probe its format.
_DECODERS = sorted({*CODECS, "libdav1d"})

_MATROSKA = b"\x1a\x45\xdf\xa3"
_MOV_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})

_RATE_TOLERANCE = 0.1
# Some codecs have packets that are not displayed; if more frames are missing, the file is damaged.
_LEAST_SHOWN = 0.9
# Of ``Glm46VVideoProcessor.sample_frames``.
_MAX_SAMPLED_FRAMES = 640
_MAX_SAMPLED_SECONDS = 2400


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """Limits for one video.

    Attributes:
        max_pixels: of a frame.
        max_frames: in the file, whether they are sampled or not.
        max_seconds: for reading and decoding the file.
    """

    max_pixels: int
    max_frames: int
    max_seconds: float


class Video:
    """A video file whose packets have been counted.

    Attributes:
        width, height: of a displayed frame, in pixels.
        num_frames: in the file.
        fps: frames per second.
    """

    def __init__(self, data: bytes, field: str, limits: VideoLimits) -> None:
        """Read the file up to its first frame and count the others.

        Args:
            field: named in errors, including those of :meth:`frames`.

        Raises:
            InvalidInput: not a video of an accepted format, damaged, or beyond the limits.
        """
        self._data, self._field, self._limits = data, field, limits
        self._format = _container_format(data)
        if self._format is None:
            raise InvalidInput(field, f"not a readable video (supported: {FORMATS})")
        self._deadline = time.monotonic() + limits.max_seconds
        with self._open() as (container, stream):
            self._times = self._frame_times(container, stream)
            rate = _rate(stream.average_rate, self._times)
        self.num_frames = len(self._times)
        with self._open() as (container, stream):
            frame = next(container.decode(stream), None)
            if frame is None:
                raise InvalidInput(field, "the video has no decodable frame")
            self.width, self.height = frame.width, frame.height
            if frame.rotation % 180:
                self.width, self.height = self.height, self.width
        if not rate:
            raise InvalidInput(field, "the video has no frame rate")
        self.fps = float(rate)

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """The frames with these numbers, at least one, ascending; upright, as RGB.

        Raises:
            InvalidInput: one of them is damaged or missing, or it takes too long.
        """
        wanted = deque(indices)
        frame, count = None, 0
        with self._open() as (container, stream):
            for frame in container.decode(stream):
                self._check_time()
                count += 1
                # Compare times, not indices: preceding packets may not be displayed.
                shown = (frame.pts or 0) * stream.time_base
                if shown < self._times[wanted[0]]:
                    continue
                if frame.is_corrupt:
                    raise InvalidInput(self._field, f"the video is damaged at frame {wanted[0]}")
                image = _upright(frame)
                while wanted and shown >= self._times[wanted[0]]:
                    yield image
                    wanted.popleft()
                if not wanted:
                    return
        if frame is None or count < _LEAST_SHOWN * self.num_frames:
            raise InvalidInput(
                self._field,
                f"the video is damaged: {count} of its {self.num_frames} frames can be decoded",
            )
        for _ in wanted:
            yield _upright(frame)

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """Open the container and its video stream; converts FFmpeg's errors to ``InvalidInput``."""
        # FFmpeg itself rejects larger frames, before it allocates memory for them.
        bound = {"max_pixels": str(self._limits.max_pixels)}
        try:
            with av.open(
                BytesIO(self._data),
                format=self._format,
                metadata_errors="replace",
                # A file must not open other files.
                options={
                    **bound,
                    "protocol_whitelist": "none",
                    "codec_whitelist": ",".join(_DECODERS),
                },
            ) as container:
                stream = next(iter(container.streams.video), None)
                if stream is None:
                    raise InvalidInput(self._field, "the file has no video stream")
                context = stream.codec_context
                codec = context and context.codec.canonical_name
                if codec not in CODECS:
                    raise InvalidInput(
                        self._field,
                        f"the codec {codec or 'of the video'} is not supported "
                        f"(supported: {', '.join(sorted(CODECS))})",
                    )
                if stream.width * stream.height > self._limits.max_pixels:
                    raise InvalidInput(
                        self._field,
                        f"{stream.width} x {stream.height} pixels exceed the limit of "
                        f"{self._limits.max_pixels} pixels",
                    )
                context.options = bound
                stream.thread_type = "AUTO"
                yield container, stream
        except av.FFmpegError as error:
            raise InvalidInput(self._field, f"the video is damaged ({error.strerror})") from None

    def _frame_times(self, container: Any, stream: Any) -> list[Fraction]:
        """Presentation time of each frame in seconds, from the packets; nothing is decoded."""
        times, packets = [], 0
        for packet in container.demux(stream):
            self._check_time()
            if not packet.size:  # end of stream
                continue
            packets += 1
            if packets > self._limits.max_frames:
                raise InvalidInput(
                    self._field, f"the video has more than {self._limits.max_frames} frames"
                )
            if not packet.is_discard:
                times.append((packet.pts or 0) * packet.time_base)
        if packets < stream.frames:
            raise InvalidInput(
                self._field,
                f"the video is damaged: it ends after {packets} of its {stream.frames} frames",
            )
        if not times:
            raise InvalidInput(self._field, "the video has no frames")
        return sorted(times)

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise InvalidInput(
                self._field, f"decoding took more than {self._limits.max_seconds:g} s"
            )


def _upright(frame: av.VideoFrame) -> Image.Image:
    turned = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return Image.fromarray(np.ascontiguousarray(turned))


def _container_format(data: bytes) -> str | None:
    """FFmpeg's name of the format, by the first bytes; FFmpeg's own probing is not used."""
    if data.startswith(_MATROSKA):
        return "matroska"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "mov" if data[4:8] in _MOV_BOXES else None


def _rate(stated: Fraction | None, times: Sequence[Fraction]) -> Fraction | None:
    """Frames per second: as stated by the file, unless the frame times contradict it.

    Recordings of browsers state 1000, which is merely the unit of their timestamps.
    """
    span = times[-1] - times[0]
    if not span:
        return stated
    measured = (len(times) - 1) / span
    agree = stated and abs(stated - measured) <= _RATE_TOLERANCE * measured
    return stated if agree else measured


def sample_frames(num_frames: int, fps: float, frames_per_patch: int = 2) -> list[int]:
    """Indices of the frames that GLM samples: an even number, ascending; none if too short.

    Source: ``Glm46VVideoProcessor.sample_frames`` in
    ``transformers/models/glm46v/video_processing_glm46v.py`` (5.23): the number of pairs of
    frames per second depends on the duration; at most 640 frames in total.
    """
    duration = num_frames / fps
    seconds = min(duration, _MAX_SAMPLED_SECONDS)
    pairs_a_second = 3.0 if seconds <= 30 else 1.0 if seconds <= 300 else 0.5
    count = min(int(seconds * pairs_a_second * frames_per_patch), _MAX_SAMPLED_FRAMES)
    indices: list[int] = []
    if num_frames >= count:
        next_second, step = 0.0, 1 / (frames_per_patch * pairs_a_second)
        for index in range(num_frames):
            if index * (1 / fps) >= next_second:
                next_second += step
                indices.append(index)
                if next_second >= int(duration):
                    break
    if num_frames < count or len(indices) > count:
        indices = np.linspace(0, num_frames - 1, count, dtype=int).tolist()
    elif len(indices) < count:
        indices = np.linspace(indices[0], indices[-1], count, dtype=int).tolist()
    indices = list(dict.fromkeys(indices))
    return indices + indices[-1:] if len(indices) % 2 else indices


def timestamps(indices: Sequence[int], fps: float, frames_per_patch: int = 2) -> list[float]:
    """Start time of each temporal patch in seconds (``Glm46VProcessor.replace_video_token``)."""
    return [index / fps for index in indices[::frames_per_patch]]
