"""Videos of every kind that clients send, broken ones included, against transformers' own code.

``video_processing_glm46v.py`` cannot be imported without torchvision, which it needs for resizing
only. Its functions are taken out of its source.
"""

import ast
import tempfile
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.patches import PatchConfig, cut_frame, pair_frames, target_size
from glm_preprocessing.videos import Video, VideoLimits, sample_frames
from tools.clips import ENCODERS, clip, encode, scene

LIMITS = VideoLimits(max_pixels=1_000_000, max_frames=1000, max_seconds=30)
CONFIG = PatchConfig.from_video_processor({})
_SOURCE = Path(transformers.__file__).parent / "models/glm46v/video_processing_glm46v.py"


def _images(video: Video, indices: list[int]) -> list[Image.Image]:
    return video.frames(indices, Image.fromarray)


def _of_transformers(name: str) -> Any:
    found = next(
        node
        for node in ast.walk(ast.parse(_SOURCE.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    namespace: dict[str, Any] = {"np": np, "torch": torch, "math": __import__("math")}
    exec("from __future__ import annotations\n" + ast.unparse(found), namespace)
    return namespace[name]


@pytest.mark.parametrize("fps", [0.5, 1, 3, 8, 10, 15, 23.976, 24, 25, 29.97, 30, 60, 120])
def test_the_frames_are_those_that_transformers_samples(fps: float) -> None:
    theirs = _of_transformers("sample_frames")
    processor = SimpleNamespace(temporal_patch_size=2)
    for num_frames in [*range(1, 60), 90, 151, 299, 301, 900, 1000, 2999, 9001, 72_011, 80_000]:
        metadata = SimpleNamespace(fps=fps, total_num_frames=num_frames, duration=num_frames / fps)
        expected = theirs(processor, metadata).tolist()
        assert sample_frames(num_frames, fps) == expected, num_frames
        assert len(expected) % 2 == 0 and len(expected) <= 640


@pytest.mark.parametrize("frames", [2, 4, 30, 60, 240, 640])
def test_frames_get_the_size_that_transformers_gives_them(frames: int) -> None:
    theirs = _of_transformers("smart_resize")
    for config in (CONFIG, PatchConfig.from_video_processor({"size": _FLASH})):
        for width, height in [(16, 16), (64, 48), (27, 300), (640, 480), (1280, 720), (3840, 2160)]:
            expected = theirs(frames, height, width, 2, 28, config.min_pixels, config.max_pixels)
            assert target_size(width, height, config, "video[0]", frames=frames) == expected[::-1]


_FLASH = {"shortest_edge": 12_544, "longest_edge": 100_352_000}


def test_patches_are_those_of_transformers_with_a_row_for_each_frame() -> None:
    frames = [scene(number) for number in range(4)]
    rows = [cut_frame(np.array(frame), (112, 112), CONFIG) for frame in frames]
    made = list(pair_frames(rows, (112, 112), CONFIG))
    pixels = torch.from_numpy(np.stack([np.asarray(f) for f in frames])).permute(0, 3, 1, 2)[None]
    theirs, *grid = _of_transformers("patchify")(None, pixels.contiguous(), 14, 2, 2)
    assert grid == [2, 8, 8]
    assert [grid for _, grid in made] == [(1, 8, 8)] * 2
    pairs = torch.from_numpy(np.concatenate([patches for patches, _ in made]))
    # Theirs have the channels outermost.
    ours = pairs.view(-1, 2, 3, 196).transpose(1, 2).reshape(-1, 1176)
    assert torch.equal(ours, theirs[0])


@pytest.mark.parametrize("size", [(420, 308), (112, 84), (840, 616), (640, 480)])
def test_frames_are_resized_as_torchvision_does(size: tuple[int, int]) -> None:
    """By this very function, of a tensor with the channels first."""
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    config = PatchConfig.from_video_processor({"patch_size": 14 if size[0] % 28 == 0 else 10})
    width, height = (
        size[0] // config.factor * config.factor,
        size[1] // config.factor * config.factor,
    )
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous()
    theirs = F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    grid = height // config.patch_size, width // config.patch_size
    rows = _of_transformers("patchify")(
        None, theirs.repeat(2, 1, 1, 1)[None], config.patch_size, 2, 2
    )
    ours = cut_frame(frame, (width, height), config)
    assert ours.shape == (grid[0] * grid[1], config.row)
    expected = rows[0][0].view(-1, 3, 2, config.patch_size**2)[:, :, 0].reshape(-1, config.row)
    assert torch.equal(torch.from_numpy(ours), expected)


@pytest.mark.parametrize("container", ENCODERS)
def test_each_accepted_format(container: str) -> None:
    video = Video(clip(9, 4, container), "video[0]", LIMITS)
    assert (video.width, video.height, video.num_frames, video.fps) == (112, 112, 9, 4.0)
    found = _images(video, [0, 3, 8])
    for number, frame in zip([0, 3, 8], found, strict=True):
        off = np.abs(np.asarray(frame, int) - np.asarray(scene(number), int))
        assert frame.mode == "RGB" and off.mean() < 15  # a GIF has 256 colours


def test_repeated_index_yields_the_frame_twice() -> None:
    video = Video(clip(3), "video[0]", LIMITS)
    first, second, third = _images(video, [0, 2, 2])
    assert second.tobytes() == third.tobytes() != first.tobytes()


def test_a_frame_rate_that_the_frames_contradict_is_measured() -> None:
    buffer = BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 112, 112, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(11):
            frame = av.VideoFrame.from_image(scene(number))
            frame.pts, frame.time_base = number * 100, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    video = Video(buffer.getvalue(), "video[0]", LIMITS)
    assert (video.num_frames, video.fps) == (11, 10.0)


def _remuxed(file: bytes, change: Callable[[int, bytes], bytes]) -> bytes:
    """A WebM with other packets."""
    buffer = BytesIO()
    with av.open(BytesIO(file), "r") as source, av.open(buffer, "w", format="webm") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                changed = av.Packet(change(number, bytes(packet)))
                changed.pts, changed.dts, changed.time_base = (
                    packet.pts, packet.dts, packet.time_base,
                )  # fmt: skip
                changed.is_keyframe, changed.stream = packet.is_keyframe, stream
                output.mux(changed)
    return buffer.getvalue()


def _hidden(*numbers: int) -> bytes:
    """A video of VP8 with frames that are not for showing, as its encoder makes them for others."""
    frames = [scene(number) for number in range(20)]
    return _remuxed(
        encode(frames, 10, "webm", "libvpx"),
        # The bit after the version says that a frame is shown.
        lambda number, data: bytes([data[0] & ~0x10]) + data[1:] if number in numbers else data,
    )


def test_hidden_packets_do_not_shift_frames() -> None:
    video = Video(_hidden(3, 19), "video[0]", LIMITS)
    assert video.num_frames == 18
    for number, frame in zip([0, 2, 8, 17], _images(video, [0, 2, 8, 17]), strict=True):
        shown = scene(number + (number > 2))
        off = np.abs(np.asarray(frame, int) - np.asarray(shown, int))
        assert off.mean() < 3, number


def _turned(file: bytes) -> bytes:
    """The file with the note that phones write: show it turned by 90 degrees clockwise."""
    matrix = file.index(b"tkhd") + 44
    clockwise = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    values = b"".join(value.to_bytes(4, "big", signed=True) for value in clockwise)
    return file[:matrix] + values + file[matrix + 36 :]


def test_frames_are_upright() -> None:
    wide = [scene(number, (140, 84)) for number in range(4)]
    video = Video(_turned(encode(wide)), "video[0]", LIMITS)
    assert (video.width, video.height) == (84, 140)
    (frame,) = _images(video, [0])
    upright = wide[0].transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(frame, int) - np.asarray(upright, int)).mean() < 12


def test_metadata_that_is_not_utf_8_is_ignored() -> None:
    file = clip(8).replace(b"VideoHandler", b"Vid\xe9oHandler")
    assert b"Vid\xe9o" in file
    assert Video(file, "video[0]", LIMITS).num_frames == 8


def _audio() -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8000)
        silence = np.zeros((1, 8000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def _animation() -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mov") as output:
        stream = output.add_stream("qtrle", rate=4)
        stream.width, stream.height, stream.pix_fmt = 112, 112, "rgb24"
        output.mux(stream.encode(av.VideoFrame.from_image(scene(0))))
        output.mux(stream.encode())
    return buffer.getvalue()


def _png() -> bytes:
    buffer = BytesIO()
    scene(0).save(buffer, "PNG")
    return buffer.getvalue()


def _without_media(file: bytes) -> bytes:
    """An index whose frames all lie in zeros."""
    start, moov = file.index(b"mdat") + 4, file.index(b"moov") - 4
    return file[:start] + bytes(moov - start) + file[moov:]


def _begun() -> bytes:
    """The index first, and half of the frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(path, "w", options={"movflags": "faststart"}) as output:
            stream = output.add_stream("libx264", rate=4)
            stream.width, stream.height, stream.pix_fmt = 112, 112, "yuv420p"
            for number in range(12):
                output.mux(stream.encode(av.VideoFrame.from_image(scene(number))))
            output.mux(stream.encode())
        data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    return data[: (data.index(b"mdat") + len(data)) // 2]


CLIP = clip(12)
PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"not a video", "not a readable video"),
        (_png(), "not a readable video"),
        (PLAYLIST, "not a readable video"),
        (CLIP[: len(CLIP) // 2], "damaged"),
        (CLIP[:40], "damaged"),
        (_begun(), "ends after [0-9]+ of its 12 frames"),
        (_without_media(CLIP), "damaged"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "damaged"),
        (b"GIF89a", "damaged"),
        (_audio(), "no video stream"),
        (_animation(), "the codec qtrle is not supported"),
        (CLIP.replace(b"avc1", b"abcd"), "the codec of the video is not supported"),
    ],
    ids=[
        "text", "picture", "playlist", "half", "beginning", "half-of-frames", "zeros", "matroska",
        "gif", "audio", "animation", "unknown-codec",
    ],
)  # fmt: skip
def test_unreadable_video_is_rejected_with_its_reason(file: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^video\[2\]: .*{reason}"):
        _images(Video(file, "video[2]", LIMITS), [0, 5, 11])


def _limits(**changed: Any) -> VideoLimits:
    usual = {"max_pixels": 1_000_000, "max_frames": 1000, "max_seconds": 30}
    return VideoLimits(**usual | changed)


@pytest.mark.parametrize("container", ENCODERS)
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (_limits(max_pixels=112 * 112 - 1), "pixels|damaged"),
        (_limits(max_frames=11), "more than 11 frames"),
        (_limits(max_seconds=0), "more than 0 s"),
    ],
    ids=["pixels", "frames", "seconds"],
)
def test_video_beyond_the_limits_is_rejected(
    limits: VideoLimits, reason: str, container: str
) -> None:
    with pytest.raises(InvalidInput, match=rf"^video\[0\]: .*({reason})"):
        Video(clip(12, container=container), "video[0]", limits)


def test_frames_larger_than_the_file_says_are_refused_by_the_decoder() -> None:
    file = encode([scene(number) for number in range(4)], 4, "webm", "libvpx")
    # The elements PixelWidth and PixelHeight.
    small = file.replace(b"\xb0\x81\x70", b"\xb0\x81\x10").replace(b"\xba\x81\x70", b"\xba\x81\x10")
    assert small != file
    with pytest.raises(InvalidInput, match=r"^video\[0\]: "):
        Video(small, "video[0]", _limits(max_pixels=112 * 112 - 1))
    assert Video(small, "video[0]", LIMITS).width == 112
