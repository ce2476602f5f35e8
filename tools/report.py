"""How a result is written down: what was measured, on what, and the table."""

import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_MARKERS = 20
MOST_COLUMNS = 3


def hardware() -> str:
    """Cores, processor, memory, GPU, and the versions that matter; no GPU where torch is not."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if "model name" in line), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB"
    python = f"Python {platform.python_version()}"
    if not find_spec("torch"):  # where only a load is made
        return f"{machine}; {python}"
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{machine}, {gpu}; {python}, torch {torch.__version__}"


@dataclass(frozen=True)
class Panel:
    """One plot; a series is drawn bold if its name begins with ``ours``, and the others dashed.

    Attributes:
        over: what the plot is over. A concurrency is drawn in powers of two.
    """

    title: str
    unit: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    logarithmic: bool = False
    over: str = "concurrency"


def report(
    page: Path,
    title: str,
    details: str,
    explanation: str | None,
    table: Sequence[str],
    panels: Sequence[Panel] = (),
) -> None:
    """Print a result and write it to ``page``, with the day and the machine.

    Args:
        panels: plots that go above the table, in a file beside the page.
    """
    head = f"{datetime.now():%Y-%m-%d}, {hardware()}, {details}"
    if panels:
        picture = page.with_suffix(".svg")
        _draw(picture, panels, head)
        table = [f"![{title}]({picture.name})", "", *table]
    text = "\n".join([f"# {title}", "", head, "", explanation or "", *table, ""])
    print(text)
    page.write_text(text)


def _draw(file: Path, panels: Sequence[Panel], caption: str) -> None:
    import matplotlib
    from matplotlib import pyplot

    # The same numbers make the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "glm", "font.size": 9, "svg.fonttype": "none"})
    columns = len(panels) if len(panels) <= MOST_COLUMNS else 2
    rows = -(-len(panels) // columns)
    size = (5 * columns, 3.6 * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False)
    is_comparison = any(name.startswith("ours") for panel in panels for name in panel.series)
    has_one_legend = len({tuple(panel.series) for panel in panels}) == 1
    for axis, panel in zip(axes.flat, panels, strict=True):
        for name, points in panel.series.items():
            ours = name.startswith("ours")
            axis.plot(
                *zip(*points, strict=True), label=name, markersize=4,
                marker="o" if len(points) <= MOST_MARKERS else "",
                linewidth=2.6 if ours else 1.2,
                linestyle="-" if ours or not is_comparison else "--",
            )  # fmt: skip
        if panel.over == "concurrency":
            ticks = sorted({x for points in panel.series.values() for x, _ in points})
            axis.set_xscale("log", base=2)
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        if panel.logarithmic:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_title(panel.title)
        axis.set_xlabel(panel.over)
        axis.set_ylabel(panel.unit)
        axis.grid(alpha=0.3)
        if not has_one_legend:
            axis.legend(fontsize=8, frameon=False)
    caption = textwrap.fill(caption, 100 * columns)
    space = 0.02 / rows * (2 + caption.count("\n"))
    if has_one_legend:
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(
            handles, names, ncols=3, fontsize=8, frameon=False,
            loc="lower center", bbox_to_anchor=(0.5, space),  # above the caption
        )  # fmt: skip
        space += 0.06 * -(-len(names) // 3)
    figure.text(0.01, 0.005, caption, fontsize=6, color="gray")
    figure.tight_layout(rect=(0, space, 1, 1))
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
