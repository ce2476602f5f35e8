"""``make bench-video``: what it costs to read a video, from its file to the patches of its frames.

Each reader takes the frames that GLM looks at and gives them the same size by the same function:

- this project's, which decodes what these frames depend on;
- every frame, one after the other, by the same FFmpeg: what a reader does that cannot skip;
- decord, where it is installed: the reader that others use, which seeks.

They take turns, each run in a process of its own. Wall time depends on what else the machine does,
so CPU time stands beside it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import av
import numpy as np

from glm_preprocessing.media_options import NO_OPTIONS
from glm_preprocessing.patches import PatchConfig, cut_frame, target_size
from glm_preprocessing.videos import Video, VideoLimits, sample
from tools.report import ROOT, report

CONFIG = PatchConfig.from_video_processor(
    {"size": {"shortest_edge": 12_544, "longest_edge": 100_352_000}}
)
LIMITS = VideoLimits(max_pixels=50_000_000, max_frames=100_000, max_seconds=3600)
SIZE = (1920, 1080)
FPS = 30
SEGMENT_SECONDS = 10

# Encoder, its options, key frames and B-frames.
KINDS: Mapping[str, tuple[str, Mapping[str, str], int, int]] = MappingProxyType(
    {
        "H.264 as x264 makes it": ("libx264", {"preset": "veryfast", "crf": "33"}, 250, 3),
        "H.264 as phones make it": ("libx264", {"preset": "superfast", "crf": "36"}, 30, 0),
        "MJPEG": ("mjpeg", {"q:v": "12"}, 1, 0),
    }
)


def ours(data: bytes) -> int:
    """By this project's reader; returns the number of frames."""
    video = Video(data, "video", LIMITS)
    indices = sample(video, NO_OPTIONS)
    size = target_size(video.width, video.height, CONFIG, "video", frames=len(indices))
    return len(video.frames(indices, lambda pixels: cut_frame(pixels, size, CONFIG)))


def every_frame(data: bytes) -> int:
    """By a decoder that is given everything, on all cores; likewise."""
    indices, size = _wanted(data)
    wanted, rows = set(indices), []
    with av.open(BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                pixels: Any = frame.to_ndarray(format="rgb24")
                rows.append(cut_frame(pixels, size, CONFIG))
    return len(rows)


def decord(data: bytes) -> int:
    """By decord; likewise."""
    import decord  # type: ignore[import-not-found]

    indices, size = _wanted(data)
    reader = decord.VideoReader(BytesIO(data), num_threads=0)
    return len([cut_frame(reader[i].asnumpy(), size, CONFIG) for i in sorted(set(indices))])


def _wanted(data: bytes) -> tuple[list[int], tuple[int, int]]:
    """Numbers of the frames that GLM looks at, and their size; it costs next to nothing."""
    with av.open(BytesIO(data)) as container:
        num_frames = container.streams.video[0].frames
    times = [number / FPS for number in range(num_frames)]
    video: Any = type("Steady", (), {"times": times, "fps": FPS, "is_steady": True})
    video.duration = num_frames / FPS
    indices = sample(video, NO_OPTIONS)
    return indices, target_size(*SIZE, CONFIG, "video", frames=len(indices))


READERS: Mapping[str, Callable[[bytes], int]] = MappingProxyType(
    {"ours": ours, "every frame": every_frame, "decord": decord}
)


def make_clip(path: Path, kind: str, seconds: int) -> None:
    """A moving picture of 1920 x 1080, ten seconds again and again."""
    encoder, options, gop, b_frames = KINDS[kind]
    width, height = SIZE
    noise = np.random.default_rng(0).integers(0, 256, (160, 320, 3)).astype(np.uint8)
    scenery = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    segment = BytesIO()
    with av.open(segment, "w", format="mp4") as output:
        stream: Any = output.add_stream(encoder, rate=FPS, options=dict(options))
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        for number in range(SEGMENT_SECONDS * FPS):
            left, top = 2 * number % 600, number % 200
            pixels = scenery[top : top + height, left : left + width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with (
        av.open(BytesIO(segment.getvalue()), "r") as source,
        av.open(path, "w") as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        packets: list[Any] = [packet for packet in source.demux(video=0) if packet.size]
        step = int(Fraction(SEGMENT_SECONDS) / packets[0].time_base)
        for repeat in range(seconds // SEGMENT_SECONDS):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts = packet.pts + repeat * step, packet.dts + repeat * step
                again.time_base, again.is_keyframe = packet.time_base, packet.is_keyframe
                again.stream = stream
                output.mux(again)


def run(reader: str, path: Path) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.video_decoding", "--one", reader, str(path)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    result: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return result


def run_here(reader: str, path: Path) -> None:
    """The same here; prints what it took, without what is imported for all of them."""
    data = path.read_bytes()
    cut_frame(np.zeros((112, 112, 3), np.uint8), (112, 112), CONFIG)  # imports torch
    cpu, wall = time.process_time(), time.perf_counter()
    frames = READERS[reader](data)
    used = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**used, "memory": memory, "frames": frames}))


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=300, help="of each video")
    parser.add_argument("--runs", type=int, default=3, help="of each reader")
    parser.add_argument("--one", nargs=2, metavar=("READER", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_here(arguments.one[0], Path(arguments.one[1]))
        return
    readers = [name for name in READERS if name != "decord" or find_spec("decord")]
    table = [
        "| video | reader | frames | CPU s | of ours | wall s | of ours | memory MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder) / "clip.mp4"
            make_clip(path, kind, arguments.seconds)
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
            for _ in range(arguments.runs):
                for name in readers:
                    runs[name].append(run(name, path))
            cost = {
                name: {key: median(run[key] for run in own) for key in own[0]}
                for name, own in runs.items()
            }
            for name, own in cost.items():
                cpu, wall = (own[key] / cost["ours"][key] for key in ("cpu", "wall"))
                table.append(
                    f"| {kind} | {name} | {own['frames']:.0f} | {own['cpu']:.1f} | {cpu:.2f} | "
                    f"{own['wall']:.1f} | {wall:.2f} | {own['memory']:.0f} |"
                )
    report(
        ROOT / "benchmarks/results/media.md",
        "Reading videos",
        f"1920 x 1080, {FPS} frames a second, {arguments.seconds} s; medians of {arguments.runs}, "
        f"load average {os.getloadavg()[0]:.0f}",
        __doc__.partition("\n\n")[2],
        table,
    )


if __name__ == "__main__":
    main()
