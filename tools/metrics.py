"""Reads the models' own metrics from Triton's metrics endpoint."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

Values = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Value of each series, by the name of the metric and its labels."""

_LINE = re.compile(r"(?P<name>glm_\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
# Which model and which of its versions: in most places only one is loaded.
_PLACE = {"model", "version"}


def read_metrics(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The metrics that begin with ``glm_``."""
    return {(name, frozenset(labels.items())): value for name, labels, value in _series(text)}


def sums_over_versions(text: str) -> dict[str, float]:
    """The same in Prometheus's form, summed over models and versions."""
    sums: dict[str, float] = defaultdict(float)
    for name, labels, value in _series(text):
        rest = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()) if k not in _PLACE)
        sums[f"{name}{{{rest}}}" if rest else name] += value
    return dict(sums)


def _series(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            yield match["name"], dict(_LABEL.findall(match["labels"] or "")), float(match["value"])
