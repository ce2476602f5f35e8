"""Videos as phones, cameras and editors write them: what a player shows is what is read."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.videos import (
    Video,
    VideoLimits,
    sample_evenly,
    sample_frames,
    sample_times,
)

LIMITS = VideoLimits(max_pixels=1_000_000, max_frames=1000, max_seconds=60)
SIZE = (128, 96)
MILLISECONDS = Fraction(1, 1000)
Pixels = npt.NDArray[np.uint8]


def _picture(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Blocks of colours, of which those at the top are of no other number."""
    blocks = np.random.default_rng(0).integers(0, 256, (size[1] // 16, size[0] // 16, 3))
    blocks[0] = np.random.default_rng(number).integers(0, 256, blocks[0].shape)
    return Image.fromarray(np.kron(blocks, np.ones((16, 16, 1))).astype(np.uint8))


@dataclass(frozen=True)
class Kind:
    """How a video is written.

    Attributes:
        times: of the frames in milliseconds; by default those of ``fps``.
    """

    container: str = "mp4"
    encoder: str = "libx264"
    pixels: str = "yuv420p"
    fps: int = 10
    size: tuple[int, int] = SIZE
    gop: int = 0
    b_frames: int = 0
    times: Sequence[int] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.container}-{self.encoder}-{self.b_frames}"

    def write(self, num_frames: int) -> bytes:
        buffer = BytesIO()
        with av.open(buffer, "w", format=self.container, options=dict(self.options)) as output:
            stream: Any = output.add_stream(self.encoder, rate=self.fps)
            stream.width, stream.height = self.size
            stream.pix_fmt = self.pixels
            stream.codec_context.max_b_frames = self.b_frames
            if self.gop:
                stream.codec_context.gop_size = self.gop
            if self.times:
                stream.codec_context.time_base = MILLISECONDS
            for number in range(num_frames):
                frame = av.VideoFrame.from_image(_picture(number, self.size))
                frame.pts, frame.time_base = number, Fraction(1, self.fps)
                if self.times:
                    frame.pts, frame.time_base = self.times[number], MILLISECONDS
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return buffer.getvalue()


def _in_sequence(file: bytes) -> list[Pixels]:
    """All frames, by a decoder that is given everything."""
    with av.open(BytesIO(file), "r") as container:
        pixels: list[Any] = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return pixels


def _video(file: bytes, limits: VideoLimits = LIMITS) -> Video:
    return Video(file, "video[0]", limits)


def _read(video: Video, indices: Sequence[int]) -> list[Pixels]:
    return video.frames(indices, np.copy)


def _remuxed(
    file: bytes,
    container: str,
    change: Callable[[Any], Any] = lambda packet: packet,
    options: Mapping[str, str] | None = None,
) -> bytes:
    """The same packets in another file; those for which ``change`` gives None are left out."""
    buffer = BytesIO()
    with (
        av.open(BytesIO(file), "r") as source,
        av.open(buffer, "w", format=container, options=dict(options or {})) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and (changed := change(packet)) is not None:
                changed.stream = stream
                output.mux(changed)
    return buffer.getvalue()


KINDS = [
    Kind(),
    Kind(gop=12, b_frames=3),
    Kind(encoder="libx265", gop=10, b_frames=3),
    Kind(encoder="mpeg4", gop=10, b_frames=2),
    Kind(encoder="libsvtav1"),
    Kind("mov", "prores", "yuv422p10le"),
    Kind("mov", "mjpeg", "yuvj420p"),
    Kind("mov", "dvvideo", fps=25, size=(720, 576)),
    Kind("matroska", "libx265", b_frames=2),
    Kind("matroska", "libx264", gop=5, options={"live": "1"}),
    Kind("webm", "libvpx", gop=10),
    Kind("webm", "libvpx-vp9", gop=10),
    Kind("webm", "libsvtav1"),
    Kind("avi", "mpeg4", gop=10),
    Kind("avi", "mpeg4", gop=10, b_frames=2),
    Kind("avi", "libx264", b_frames=2),
    Kind("avi", "msmpeg4"),
    Kind("avi", "mjpeg", "yuvj420p"),
    Kind("avi", "cinepak", "rgb24"),
    Kind("avi", "rawvideo"),
    Kind("mpegts", "libx264", gop=10, b_frames=2),
    Kind("mpegts", "mpeg2video", gop=10, b_frames=2),
    Kind("mpegts", "libx265", gop=10),
    Kind("mpegts", "libx264", options={"mpegts_m2ts_mode": "1"}),
    Kind("mpeg", "mpeg1video", fps=25, b_frames=2),
    Kind("vob", "mpeg2video", fps=25, b_frames=2),
    Kind("flv", "flv"),
    Kind("flv", "libx264", b_frames=2),
    Kind("3gp", "h263", size=(176, 144)),
    Kind("3gp", "mpeg4"),
    Kind("asf", "wmv1"),
    Kind("asf", "wmv2"),
    Kind("mp4", "libx264", b_frames=2, options={"movflags": "frag_keyframe+empty_moov"}),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_frames_are_those_of_a_decoder_that_is_given_everything(kind: Kind) -> None:
    file = kind.write(40)
    expected = _in_sequence(file)
    video = _video(file)
    assert (video.num_frames, video.fps, video.is_steady) == (40, kind.fps, True)
    assert video.times == [number * (1 / kind.fps) for number in range(40)]
    assert video.duration == 40 / kind.fps
    for wanted in (range(40), [0, 1, 7, 20, 38, 39], [5], [19, 20, 21], [39]):
        for number, frame in zip(wanted, _read(video, wanted), strict=True):
            assert np.array_equal(frame, expected[number]), number


def _trimmed(file: bytes, milliseconds: int) -> bytes:
    """The file with an edit list that hides its beginning, as ``ffmpeg -ss -c copy`` makes it."""

    def earlier(packet: Any) -> Any:
        ticks = int(milliseconds * MILLISECONDS / packet.time_base)
        packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
        return packet

    trimmed = _remuxed(file, "mp4", earlier, {"avoid_negative_ts": "disabled"})
    assert b"elst" in trimmed
    return trimmed


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("hidden", [1, 12, 15, 37])
def test_what_an_edit_list_hides_is_not_shown(hidden: int, b_frames: int) -> None:
    whole = Kind(gop=10, b_frames=b_frames).write(40)
    video = _video(_trimmed(whole, 100 * hidden))
    left = 40 - hidden
    assert (video.num_frames, video.fps, video.times[0]) == (left, 10, 0)
    assert video.duration == left / 10
    expected = _in_sequence(whole)[hidden:]
    for number, frame in enumerate(_read(video, range(left))):
        assert np.array_equal(frame, expected[number]), number


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv"])
def test_a_first_timestamp_that_is_not_0(container: str) -> None:
    def later(packet: Any) -> Any:
        ticks = int(10 / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packet

    video = _video(_remuxed(Kind(b_frames=2).write(20), container, later))
    assert (video.num_frames, video.times[0], video.duration) == (20, 0, 2)
    assert video.times[-1] == pytest.approx(1.9)


def test_a_file_that_begins_in_the_middle_begins_at_its_first_key_frame() -> None:
    whole = Kind("mpegts", "mpeg2video", gop=10).write(40)
    numbers = iter(range(40))
    video = _video(_remuxed(whole, "mpegts", lambda p: p if next(numbers) >= 15 else None))
    assert (video.num_frames, video.times[0]) == (20, 0)
    expected = _in_sequence(whole)[20:]
    assert all(map(np.array_equal, _read(video, range(20)), expected))


@pytest.mark.parametrize("begin", [0, 1, 100, 1881])
def test_a_recording_may_begin_in_the_middle_of_a_packet(begin: int) -> None:
    whole = Kind("mpegts", "mpeg2video", gop=10).write(60)
    assert 40 <= _video(whole[begin:]).num_frames <= 60


def _with_other_streams(file: bytes, seconds: int) -> bytes:
    """The video behind a cover picture, and beside sound that goes on for longer."""
    cover = BytesIO()
    Image.new("RGB", (32, 32), "red").save(cover, "PNG")
    buffer = BytesIO()
    with av.open(BytesIO(file), "r") as source, av.open(buffer, "w", format="mp4") as output:
        picture: Any = output.add_stream("png", rate=1)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "rgb24"
        picture.disposition = av.stream.Disposition.attached_pic
        stream = output.add_stream_from_template(source.streams.video[0])
        sound: Any = output.add_stream("aac", rate=8000, layout="mono")
        packet: Any = av.Packet(cover.getvalue())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 1), picture, True
        output.start_encoding()
        output.mux(packet)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
        silence = np.zeros((1, 8000 * seconds), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(sound.encode(frame))
        output.mux(sound.encode())
    return buffer.getvalue()


def test_a_cover_picture_and_longer_sound_do_not_matter() -> None:
    plain = Kind(b_frames=2).write(20)
    video = _video(_with_other_streams(plain, seconds=9))
    assert (video.width, video.height) == SIZE
    assert (video.num_frames, video.duration) == (20, 2)
    assert all(map(np.array_equal, _read(video, range(20)), _in_sequence(plain)))


def test_an_avi_without_its_index_and_one_that_was_cut() -> None:
    whole = Kind("avi", "mjpeg", "yuvj420p").write(20)
    without = whole[: whole.index(b"idx1")]
    assert _video(without).num_frames == 20
    assert 5 < _video(whole[: len(whole) // 2]).num_frames < 15


# Turned, and mirrored: the display matrix, as (a, b, c, d), and what it does to the pixels.
MATRICES: dict[tuple[int, int, int, int], Callable[[Pixels], Pixels]] = {
    (1, 0, 0, 1): lambda pixels: pixels,
    (0, 1, -1, 0): lambda pixels: np.rot90(pixels, -1),
    (-1, 0, 0, -1): lambda pixels: np.rot90(pixels, 2),
    (0, -1, 1, 0): lambda pixels: np.rot90(pixels),
    (-1, 0, 0, 1): lambda pixels: pixels[:, ::-1],
    (1, 0, 0, -1): lambda pixels: pixels[::-1],
    (0, 1, 1, 0): lambda pixels: pixels.swapaxes(0, 1),
    (0, -1, -1, 0): lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_frames_are_turned_and_mirrored_as_the_camera_says(
    matrix: tuple[int, int, int, int],
) -> None:
    plain = Kind().write(4)
    start = plain.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    written = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    video = _video(plain[:start] + written + plain[start + 36 :])
    for frame, source in zip(_read(video, range(4)), _in_sequence(plain), strict=True):
        assert np.array_equal(frame, MATRICES[matrix](source))
        assert (video.height, video.width) == frame.shape[:2]


# A frame a second, then a burst, then a long pause: as the screen changes.
SCREEN = [0, 1000, 2000, 3000, *range(3100, 4000, 20), 30_000, 30_500, 31_000]


@pytest.mark.parametrize("container", ["matroska", "mp4", "flv"])
def test_a_frames_time_is_its_own_timestamp(container: str) -> None:
    video = _video(Kind(container, times=SCREEN).write(len(SCREEN)))
    assert not video.is_steady
    assert video.times == pytest.approx([time / 1000 for time in SCREEN], abs=0.001)
    assert 31 <= video.duration < 33
    assert video.fps == pytest.approx(len(SCREEN) / video.duration)


def test_jitter_changes_times_but_not_which_frames_are_looked_at() -> None:
    times = [100 * number + (-1) ** number * 20 for number in range(1, 41)]
    video = _video(Kind("matroska", times=times).write(40))
    assert video.is_steady
    assert video.times == pytest.approx([(time - times[0]) / 1000 for time in times], abs=0.001)


@pytest.mark.parametrize("fps", [10, 24, 30, 60])
@pytest.mark.parametrize("seconds", [2, 10, 29, 31, 299, 301, 2500])
def test_sampling_by_time_is_that_of_transformers_for_a_steady_video(
    seconds: int, fps: float
) -> None:
    num_frames = int(seconds * fps)
    times = [number * (1 / fps) for number in range(num_frames)]
    by_number = sample_frames(num_frames, fps)
    by_time = sample_times(times, num_frames / fps)
    assert abs(len(by_time) - len(by_number)) <= 2
    step = times[by_number[1]] - times[by_number[0]]
    for one, other in zip(by_time, by_number, strict=False):
        assert abs(times[one] - times[other]) <= step + 1 / fps


def test_sampling_by_time_looks_at_each_interval_once() -> None:
    times = [time / 1000 for time in SCREEN]
    indices = sample_times(times, 31.5)
    # Two frames a second: all that are a second apart, and of the burst no more than two.
    assert indices[:4] == [0, 1, 2, 3]
    burst = [index for index in indices if 3.05 < times[index] < 4]
    assert 1 <= len(burst) <= 2
    assert {times[index] for index in indices[-4:]} >= {30.0, 30.5, 31.0}
    assert len(indices) % 2 == 0


def test_sampling_by_time_has_a_limit() -> None:
    times = sorted(np.random.default_rng(0).uniform(0, 2000, 50_000).tolist())
    indices = sample_times(times, 2000)
    assert 600 < len(indices) <= 640
    assert sample_times([0.0, 5.0], 10) == [0, 1]
    assert sample_times([0.0], 10) == [0, 0]


def test_sampling_evenly() -> None:
    times = [number / 10 for number in range(101)]
    assert sample_evenly(times, 4) == [0, 33, 66, 100]
    assert sample_evenly(times, 3) == [0, 50, 100, 100]
    assert sample_evenly(times, 1) == [0, 0]
    assert sample_evenly([0.0, 0.1, 9.0], 2) == [0, 2]
    assert len(sample_evenly([float(number) for number in range(9000)], 5000)) == 640


def _with_index(file: bytes, **tables: Sequence[int]) -> bytes:
    """An MP4 whose index has other contents: 32-bit words after each table's version."""

    def boxes(data: bytes) -> bytes:
        done, start = b"", 0
        while start < len(data):
            size, name = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
            body = data[start + 8 : start + size]
            if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                body = boxes(body)
            elif words := tables.get(name.decode()):
                body = bytes(4) + b"".join(word.to_bytes(4, "big") for word in words)
            done += (len(body) + 8).to_bytes(4, "big") + name + body
            start += size
        return done

    begin = file.index(b"moov") - 4  # behind the frames, whose places stay the same
    return file[:begin] + boxes(file[begin:]).replace(b"edts", b"free")


def test_frames_that_share_their_bytes_are_refused() -> None:
    """An index whose thousand entries are all of the same megabyte would fill a gigabyte."""
    file = Kind(encoder="mjpeg", pixels="yuvj420p", size=(1600, 1200)).write(4)
    place, num_frames, size = file.index(b"mdat") + 4, 900, len(file) // 2
    many = _with_index(
        file,
        stsc=[1, 1, 1, 1],
        stsz=[0, num_frames, *[size] * num_frames],
        stco=[num_frames, *[place] * num_frames],
        stts=[1, num_frames, 1024],
    )
    with pytest.raises(InvalidInput, match=r"^video\[0\]: the video is damaged: its frames share"):
        _video(many, VideoLimits(max_pixels=2_000_000, max_frames=1000, max_seconds=60))


def test_an_index_of_more_frames_than_the_file_has_bytes() -> None:
    many = 400_000_000
    file = _with_index(Kind().write(4), stsc=[1, 1, many, 1], stsz=[1, many], stts=[1, many, 1024])
    began = time.process_time()
    with pytest.raises(InvalidInput, match=r"^video\[0\]: "):
        _video(file)
    assert time.process_time() - began < 5
