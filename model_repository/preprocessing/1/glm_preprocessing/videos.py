"""Decodes the bytes that a client sent to frames of a video. All input is untrusted.

A video is what a player shows: frames that an edit list hides, and frames that only others refer
to, are neither counted nor shown. The packets of a file are read once; only those are decoded that
the sampled frames depend on, and at most a few decoded frames are in memory at a time.
"""

import gc
import math
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any, TypeVar

import av
import numpy as np
import numpy.typing as npt

from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.media_options import VideoOptions

FORMATS = "MP4, MOV, 3GP, WebM, Matroska, AVI, MPEG-TS, MPEG-PS, FLV, WMV, Ogg, GIF"
# FFmpeg supports far more than is needed, including playlists that reference other files. From the
# codec to its decoder, the only ones that may touch a file, even to probe its format.
_DECODERS = {
    **{
        name: name
        for name in (
            "cinepak", "dvvideo", "ffv1", "gif", "h263", "h264", "hevc", "huffyuv", "mjpeg",
            "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "png", "prores",
            "rawvideo", "theora", "vc1", "vp6", "vp6f", "vp8", "vp9", "wmv1", "wmv2", "wmv3",
        )
    },
    "av1": "libdav1d",
    "flv1": "flv",
    "msmpeg4v3": "msmpeg4",
}  # fmt: skip
CODECS = frozenset(_DECODERS)

_BY_MAGIC = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"FLV": "flv",
    b"OggS": "ogg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"\0\0\1\xba": "mpeg",
}
_MOV_BOXES = frozenset(
    {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"moof", b"pnot", b"uuid"}
)
_TS_PACKETS, _TS_SYNCED = (188, 192, 204), 4

# Containers that tell when a frame is decoded, not when it is shown; and codecs where that is the
# same.
_UNTIMED = frozenset({"avi", "mpeg"})
_INTRA = frozenset({"dvvideo", "ffv1", "huffyuv", "mjpeg", "png", "prores", "rawvideo"})
# Codecs whose frames depend on nothing before a key frame, but for those shown before it.
_SEEKABLE = CODECS - {"gif", "theora", "cinepak", "vp6", "vp6f"}
# Fewer packets than these are decoded rather than skipped, which would empty the decoder.
_LEAST_SKIPPED = 8

# Of a file that tells neither times nor a rate.
_USUAL_RATE = Fraction(25)
# Frames that are off a constant rate by no more than their container's clock have that rate. Clocks
# are taken to be this fine at least, and at most.
_COARSEST_CLOCK, _FINEST_CLOCK = Fraction(1, 100), Fraction(1, 1000)
# If more of the sampled frames cannot be decoded, the file is damaged.
_LEAST_DECODED = 0.9
# How often the frames of a file may read each of its bytes: those of a loop share some.
_MOST_REPEATED = 4
# One of these must be decodable.
_FIRST_FRAMES = 100
_MAX_THREADS = 16
# Of ``Glm46VVideoProcessor.sample_frames``.
MAX_SAMPLED_FRAMES = 640
_MAX_SAMPLED_SECONDS = 2400

# Sums of fractions of seconds differ by less.
_SAME_MOMENT = 1e-6

T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]


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


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame that is shown.

    Attributes:
        pts: in units of the stream's time base.
        packet: its number, in decoding order.
    """

    pts: int
    packet: int


class Video:
    """A video file whose packets have been read.

    Attributes:
        width, height: of a displayed frame, in pixels.
        num_frames: that are shown.
        fps: frames per second, on average.
        times: of each frame in seconds, from 0. Where the file has a constant rate, to within the
            resolution of its clock, these are multiples of it, as transformers computes them.
        is_steady: whether no frame is off a constant rate by more than half the time between two.
        duration: in seconds, to the end of the last frame.
    """

    def __init__(
        self, data: bytes, field: str, limits: VideoLimits, deadline: float = math.inf
    ) -> None:
        """Read the file, and decode its first frame.

        Args:
            field: named in errors, including those of :meth:`frames`.
            deadline: of ``time.monotonic()``, for reading and decoding; it may come earlier than
                by ``limits``.

        Raises:
            InvalidInput: not a video of an accepted format, damaged, or beyond the limits.
        """
        self._field, self._limits = field, limits
        self._format = _container_format(data)
        if self._format is None:
            raise InvalidInput(field, f"not a readable video (supported: {FORMATS})")
        self._deadline = min(deadline, time.monotonic() + limits.max_seconds)
        self._num_bytes = len(data)
        with self._errors():
            self._container = self._open(data)
            self._stream = self._video_stream()
            self._packets = self._read_packets()
        self._frames, self._is_timed = self._shown()
        self._keys = [i for i, packet in enumerate(self._packets) if self._starts_anew(packet)]
        self.num_frames = len(self._frames)
        self._set_times()
        with self._errors():
            first = range(min(self.num_frames, _FIRST_FRAMES))
            frame = next((frame for _, frame in self._decoded(first)), None)
        if frame is None:
            raise InvalidInput(field, "the video is damaged: no frame can be decoded")
        self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        upright = _upright(frame.to_ndarray(format="gray"), self._matrix)
        self.height, self.width = upright.shape
        # PyAV's side data and its frame refer to each other, and keep the decoder's threads alive.
        del frame
        gc.collect(1)

    def frames(self, indices: Sequence[int], change: Callable[[Pixels], T]) -> list[T]:
        """What ``change`` makes of each of the frames with these numbers.

        A frame that cannot be decoded is replaced by the one after it, or before it.

        Args:
            indices: at least one, ascending.
            change: called with the frame, upright, as (height, width, 3) RGB; on several threads.

        Raises:
            InvalidInput: too many cannot be decoded, or it takes too long.
        """
        wanted = sorted(set(indices))
        done: dict[int, Future[T]] = {}
        running: set[Future[T]] = set()
        threads = _num_threads()

        def convert(frame: av.VideoFrame) -> T:
            is_usual = frame.rotation == self._rotation
            matrix = self._matrix if is_usual else _display_matrix(frame)
            return change(_upright(frame.to_ndarray(format="rgb24"), matrix))

        with ThreadPoolExecutor(threads) as pool, self._errors():
            for number, frame in self._decoded(wanted):
                self._check_time()
                if number in done or frame.is_corrupt:
                    continue
                if len(running) > threads:  # frames are large
                    running = wait(running, return_when=FIRST_COMPLETED).not_done
                done[number] = pool.submit(convert, frame)
                running.add(done[number])
        self._check_time()
        if len(done) < _LEAST_DECODED * len(wanted):
            raise InvalidInput(
                self._field,
                f"the video is damaged: {len(done)} of the {len(wanted)} frames that are looked at "
                "can be decoded",
            )
        there = sorted(done)
        nearest = [there[min(bisect_left(there, i), len(there) - 1)] for i in indices]
        return [done[number].result() for number in nearest]

    def close(self) -> None:
        """End the decoder's threads, which else live until a garbage collection."""
        self._packets.clear()
        del self._stream
        self._container.close()
        del self._container

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Converts FFmpeg's errors to ``InvalidInput``."""
        try:
            yield
        except av.FFmpegError as error:
            raise InvalidInput(self._field, f"the video is damaged ({error.strerror})") from None

    def _open(self, data: bytes) -> Any:
        return av.open(
            BytesIO(data),
            format=self._format,
            metadata_errors="replace",
            options={
                # FFmpeg itself rejects larger frames, before it allocates memory for them.
                "max_pixels": str(self._limits.max_pixels),
                # A file must not open other files.
                "protocol_whitelist": "none",
                "codec_whitelist": ",".join(sorted({*_DECODERS.values()})),
            },
        )

    def _video_stream(self) -> Any:
        """The stream that a player shows, with a decoder that is ready."""
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ] or list(self._container.streams.video)
        if not streams:
            raise InvalidInput(self._field, "the file has no video stream")
        best = self._container.streams.best("video")
        stream = best if best in streams else streams[0]
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
        context.options = {"max_pixels": str(self._limits.max_pixels)}
        context.thread_type, context.thread_count = "AUTO", _num_threads()
        self._codec = codec
        return stream

    def _read_packets(self) -> list[Any]:
        """All packets of the stream, in decoding order."""
        packets, num_bytes = [], 0
        expected = len(self._stream.index_entries) if self._format == "mov" else 0
        for packet in self._container.demux(self._stream):
            self._check_time()
            if not packet.size:  # end of stream
                continue
            packets.append(packet)
            num_bytes += packet.size
            if num_bytes > _MOST_REPEATED * self._num_bytes:  # they are all in memory
                raise InvalidInput(
                    self._field, "the video is damaged: its frames share their bytes"
                )
            if len(packets) > self._limits.max_frames:
                raise InvalidInput(
                    self._field, f"the video has more than {self._limits.max_frames} frames"
                )
        if len(packets) < expected:
            raise InvalidInput(
                self._field,
                f"the video is damaged: it ends after {len(packets)} of its {expected} frames",
            )
        return packets

    def _shown(self) -> tuple[list[_Frame], bool]:
        """The frames that are shown, in the order of display, and whether they have times.

        Without those, frames have the order of their packets, as in an AVI.
        """
        begin = next((i for i, packet in enumerate(self._packets) if packet.is_keyframe), 0)
        shown = [
            (i, packet)
            for i, packet in enumerate(self._packets)
            if i >= begin and not packet.is_discard and not _is_hidden(self._codec, packet)
        ]
        if not shown:
            raise InvalidInput(self._field, "the video has no frames")
        is_reordered = self._format in _UNTIMED and self._codec not in _INTRA
        if not is_reordered and all(packet.pts is not None for _, packet in shown):
            # Of frames with the same time one is shown.
            self._has_clock = True
            by_time = {packet.pts: _Frame(packet.pts, i) for i, packet in reversed(shown)}
            return [by_time[pts] for pts in sorted(by_time)], True
        times = [packet.dts for _, packet in shown]
        self._has_clock = None not in times
        in_order = sorted(times) if self._has_clock else range(len(times))
        return [_Frame(pts, i) for pts, (i, _) in zip(in_order, shown, strict=True)], False

    def _set_times(self) -> None:
        base, frames = self._stream.time_base, self._frames
        stated = self._stream.average_rate
        if self._has_clock:
            exact = [(frame.pts - frames[0].pts) * base for frame in frames]
        else:
            exact = [i / (stated or _USUAL_RATE) for i in range(len(frames))]
        last = (self._packets[frames[-1].packet].duration or 0) * base
        measured = (len(exact) - 1) / exact[-1] if exact[-1] else None
        rates = [rate for rate in (stated, measured) if rate]
        if not rates:
            raise InvalidInput(self._field, "the video has no frame rate")
        # Recordings of browsers state 1000, which is merely the unit of their timestamps.
        off, rate = min((_most_off(exact, rate), rate) for rate in rates)
        self.is_steady = off <= 1 / (2 * rate)
        if off <= max(min(base, _COARSEST_CLOCK), _FINEST_CLOCK):
            self.fps = float(rate)
            self.times = [i * (1 / self.fps) for i in range(len(exact))]
            self.duration = len(exact) / self.fps
        else:
            self.times = [float(time) for time in exact]
            self.duration = float(exact[-1] + (last or 1 / rate))
            self.fps = len(exact) / self.duration

    def _starts_anew(self, packet: Any) -> bool:
        if not packet.is_keyframe or self._codec not in _SEEKABLE:
            return False
        # Others may be marked as well, as those that begin a refresh in several frames.
        return self._codec != "h264" or _has_idr(packet, self._stream.codec_context.extradata)

    def _decoded(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The decoded ones of the wanted frames, with their numbers, in any order.

        Args:
            wanted: numbers of frames, ascending.
        """
        context = self._stream.codec_context
        context.flush_buffers()
        numbers = {self._frames[number].pts: number for number in reversed(wanted)}
        if not self._is_timed:
            count = 0
            wanted_numbers = frozenset(wanted)
            for packet in (*self._packets[self._frames[0].packet :], None):
                for frame in self._decode(packet):
                    if count in wanted_numbers:
                        yield count, frame
                    count += 1
                if count > wanted[-1]:
                    return
            return
        needed = frozenset(self._frames[number].packet for number in wanted)
        left = set(numbers)
        for start, stop in self._ranges(wanted):
            for number in (*range(start, stop), None):
                if self._codec in _INTRA and number is not None and number not in needed:
                    continue
                # Frames that no other refers to, unless they are wanted themselves.
                context.skip_frame = "DEFAULT" if number in needed or number is None else "NONREF"
                packet = None if number is None else self._packets[number]
                for frame in self._decode(packet):
                    if frame.pts in left:
                        left.discard(frame.pts)
                        yield numbers[frame.pts], frame
                if not left:
                    return
            context.flush_buffers()

    def _decode(self, packet: Any) -> Sequence[Any]:
        self._check_time()
        try:
            frames: Sequence[Any] = self._stream.codec_context.decode(packet)
        except av.InvalidDataError:  # a player goes on with the next one
            return ()
        return frames

    def _ranges(self, wanted: Sequence[int]) -> list[tuple[int, int]]:
        """Packets to decode, from each start up to its stop, for the frames with these numbers."""
        ranges: list[tuple[int, int]] = []
        first = self._frames[0].packet
        keys = self._keys if self._keys and self._keys[0] <= first else [0, *self._keys]
        for packet in sorted(self._frames[number].packet for number in wanted):
            place = bisect_right(keys, packet) - 1
            pts = self._packets[packet].pts
            # A frame shown before its key frame may refer to those before that.
            if place and pts < (self._packets[keys[place]].pts or 0):
                place -= 1
            start = keys[max(place, 0)]
            while ranges and start - ranges[-1][1] < _LEAST_SKIPPED:
                start = min(start, ranges.pop()[0])
            ranges.append((start, packet + 1))
        return ranges

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise InvalidInput(
                self._field, f"decoding took more than {self._limits.max_seconds:g} s"
            )


def _most_off(times: Sequence[Fraction], rate: Fraction) -> Fraction:
    """How far a time is off its place at a constant rate, at most."""
    return max(abs(time - i / rate) for i, time in enumerate(times))


def _num_threads() -> int:
    return min(len(os.sched_getaffinity(0)), _MAX_THREADS)


def _container_format(data: bytes) -> str | None:
    """FFmpeg's name of the format, by the first bytes; FFmpeg's own probing is not used."""
    for magic, name in _BY_MAGIC.items():
        if data.startswith(magic):
            return name
    if data[4:8] in _MOV_BOXES:
        return "mov"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "avi"
    # A recording may begin in the middle of a packet.
    for size in _TS_PACKETS:
        for begin in range(size):
            if data[begin : begin + _TS_SYNCED * size : size] == b"\x47" * _TS_SYNCED:
                return "mpegts"
    return None


def _is_hidden(codec: str, packet: Any) -> bool:
    """Whether only other frames refer to it."""
    data = memoryview(packet)
    if codec == "vp8":
        return not data[0] & 0x10
    if codec != "vp9" or data[-1] & 0xE0 == 0xC0:  # several frames, of which one is shown
        return False
    # frame_marker(2), profile_low, profile_high, [reserved], show_existing_frame, frame_type,
    # show_frame: "VP9 Bitstream & Decoding Process Specification", 6.2.
    begin = 5 if data[0] & 0x30 == 0x30 else 4
    bits = (data[0] << 8 | data[min(1, len(data) - 1)]) << begin
    return not bits & 0x8000 and not bits & 0x2000


def _has_idr(packet: Any, extradata: bytes | None) -> bool:
    """Whether a packet of H.264 has a picture after which nothing refers to earlier ones."""
    data = bytes(packet)
    if not extradata or extradata[0] != 1:  # start codes before each unit
        return any(code & 31 == 5 for code in _annex_b(data))
    size, start = (extradata[4] & 3) + 1, 0
    while start + size < len(data):
        if data[start + size] & 31 == 5:
            return True
        start += size + int.from_bytes(data[start : start + size], "big")
    return False


def _annex_b(data: bytes) -> Iterator[int]:
    """The first byte of each unit."""
    start = data.find(b"\0\0\1")
    while 0 <= start < len(data) - 3:
        yield data[start + 3]
        start = data.find(b"\0\0\1", start + 3)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The five of its numbers that turn and mirror, if there is one."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else tuple(np.frombuffer(matrix, np.int32, 5).tolist())


def _upright(pixels: Any, matrix: tuple[int, ...] | None) -> Pixels:
    """The pixels of a frame, turned and mirrored as its display matrix says."""
    if matrix is not None:
        a, b, _, c, d = matrix
        if abs(a) + abs(d) < abs(b) + abs(c):
            pixels, a, d = pixels.swapaxes(0, 1), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)


def sample(video: Video, options: VideoOptions, frames_per_patch: int = 2) -> list[int]:
    """Indices of the frames to look at: an even number, ascending; none if it is too short.

    Those that GLM samples, or those that ``options`` ask for.
    """
    begin = bisect_right(video.times, options.start + _SAME_MOMENT) - 1
    end = max(bisect_left(video.times, min(options.end, video.duration)), begin + 1)
    times = [time - video.times[begin] for time in video.times[begin:end]]
    duration = min(options.end, video.duration) - video.times[begin]
    if options.num_frames or options.fps:
        count = min(options.num_frames or MAX_SAMPLED_FRAMES, len(times))
        if options.fps:
            count = min(count, max(1, int(duration * options.fps)))
        indices = sample_evenly(times, count)
    elif video.is_steady:
        indices = sample_frames(len(times), video.fps, frames_per_patch)
    else:
        indices = sample_times(times, duration, frames_per_patch)
    return [begin + index for index in indices]


def sample_frames(num_frames: int, fps: float, frames_per_patch: int = 2) -> list[int]:
    """Indices of the frames that GLM samples: an even number, ascending; none if too short.

    Source: ``Glm46VVideoProcessor.sample_frames`` in
    ``transformers/models/glm46v/video_processing_glm46v.py`` (5.23): the number of pairs of
    frames per second depends on the duration; at most 640 frames in total.
    """
    duration = num_frames / fps
    count, step = _wanted(duration, frames_per_patch)
    indices: list[int] = []
    if num_frames >= count:
        next_second = 0.0
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
    return _in_pairs(indices)


def sample_times(times: Sequence[float], duration: float, frames_per_patch: int = 2) -> list[int]:
    """The same for frames at any times: of each interval the first one.

    transformers takes frames to be evenly spaced. Here as many moments are looked at as it would,
    evenly spaced, and intervals without a frame have none.

    Args:
        times: of the frames in seconds, ascending, from 0.
        duration: in seconds.
    """
    count, step = _wanted(duration, frames_per_patch)
    moments = np.arange(count) * max(step, times[-1] / max(count, 1))
    return _in_pairs(
        np.searchsorted(times, moments - _SAME_MOMENT).clip(max=len(times) - 1).tolist()
    )


def sample_evenly(times: Sequence[float], count: int) -> list[int]:
    """Indices of ``count`` frames at most, evenly spaced in time, the first and last among them."""
    moments = np.linspace(times[0], times[-1], min(count, len(times), MAX_SAMPLED_FRAMES))
    return _in_pairs(_shown_at(times, moments))


def _wanted(duration: float, frames_per_patch: int) -> tuple[int, float]:
    """How many frames GLM looks at, and the seconds between two."""
    seconds = min(duration, _MAX_SAMPLED_SECONDS)
    pairs_a_second = 3.0 if seconds <= 30 else 1.0 if seconds <= 300 else 0.5
    count = min(int(seconds * pairs_a_second * frames_per_patch), MAX_SAMPLED_FRAMES)
    return count, 1 / (frames_per_patch * pairs_a_second)


def _shown_at(times: Sequence[float], moments: npt.NDArray[np.float64]) -> list[int]:
    """The frame that is shown at each moment."""
    places = np.searchsorted(times, moments + _SAME_MOMENT, "right") - 1
    indices: list[int] = places.clip(min=0).tolist()
    return indices


def _in_pairs(indices: Iterable[int]) -> list[int]:
    """Each once, and the last one again if their number is odd."""
    once = list(dict.fromkeys(indices))
    return once + once[-1:] if len(once) % 2 else once
