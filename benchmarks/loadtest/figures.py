"""How requests went, and what that is in numbers: nothing here knows of Locust."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PERCENTS = (50, 90, 95, 99)
MOST_POINTS = 150
WARM_UP_SHARE = 0.2
LEAST_WINDOW_SECONDS = 1.5

LEFT = ("left waiting", "left reading")


@dataclass(frozen=True, slots=True)
class Record:
    """How one request went; times in seconds.

    Attributes:
        protocol: "HTTP" or "gRPC".
        kind: what was asked.
        end: "answered", "left waiting", "left reading" (by the mix's wish), "refused" (a 429 or 503
            with Retry-After), "failed", or "stopped" (with the whole load).
        moment: of the end, by ``time.time()``.
        total: from the first byte sent to the last token.
        ttft: to the first token; None if there was none.
        tpot: between two tokens after that, on average; None without two tokens and an end.
        tokens: of an answer, as the server counts them.
    """

    protocol: str
    kind: str
    end: str
    moment: float
    total: float
    ttft: float | None
    tpot: float | None
    tokens: int


@dataclass(frozen=True)
class Limits:
    """Within which an answer is a good one, in seconds."""

    ttft: float
    tpot: float

    def hold(self, record: Record) -> bool:
        """Whether it is a whole answer in time."""
        return (
            record.end == "answered"
            and (record.ttft or 0.0) <= self.ttft
            and (record.tpot or 0.0) <= self.tpot
        )


@dataclass(frozen=True)
class Figures:
    """What some requests come to.

    Attributes:
        seconds: of the time that they were made in.
        ends: how many requests ended in which way.
        ttft, tpot, total: percentiles of the answers in milliseconds, by percent; None for each
            where there is no answer.
        goodput: share of answers within the limits among all requests but those whose client left
            or that ended with the load; None where there are none.
    """

    seconds: float
    ends: dict[str, int]
    requests_per_second: float
    tokens_per_second: float
    ttft: dict[int, float | None]
    tpot: dict[int, float | None]
    total: dict[int, float | None]
    goodput: float | None
    good_per_second: float

    @classmethod
    def of(cls, records: Sequence[Record], seconds: float, limits: Limits) -> "Figures":
        """The figures of these records."""
        seconds = max(seconds, 1e-3)
        ends: dict[str, int] = {}
        for record in records:
            ends[record.end] = ends.get(record.end, 0) + 1
        answers = [record for record in records if record.end == "answered"]
        judged = sum(ends.get(end, 0) for end in ("answered", "refused", "failed"))
        good = sum(limits.hold(record) for record in answers)
        return cls(
            seconds=seconds,
            ends=ends,
            requests_per_second=len(answers) / seconds,
            tokens_per_second=sum(record.tokens for record in answers) / seconds,
            ttft=_percentiles(record.ttft for record in answers),
            tpot=_percentiles(record.tpot for record in answers),
            total=_percentiles(record.total for record in answers),
            goodput=good / judged if judged else None,
            good_per_second=good / seconds,
        )

    @property
    def left(self) -> int:
        """Requests whose client left on purpose."""
        return sum(self.ends.get(end, 0) for end in LEFT)


def _percentiles(seconds: Iterable[float | None]) -> dict[int, float | None]:
    values = [1e3 * value for value in seconds if value is not None]
    if not values:
        return dict.fromkeys(PERCENTS)
    return dict(zip(PERCENTS, map(float, np.percentile(values, PERCENTS)), strict=True))


@dataclass(frozen=True)
class Window:
    """A period with a constant number of users, by ``time.time()``."""

    users: int
    begin: float
    end: float


def levels(
    records: Sequence[Record], windows: Iterable[Window], limits: Limits
) -> dict[int, Figures]:
    """The figures for each number of users.

    The first fifth of each window is left out, for the users before and their first requests, and
    windows shorter than LEAST_WINDOW_SECONDS are.
    """
    spans: dict[int, list[tuple[float, float]]] = {}
    for window in windows:
        seconds = window.end - window.begin
        if window.users and seconds >= LEAST_WINDOW_SECONDS:
            begin = window.begin + WARM_UP_SHARE * seconds
            spans.setdefault(window.users, []).append((begin, window.end))
    found = {}
    for users, times in sorted(spans.items()):
        own = [one for one in records if any(begin <= one.moment < end for begin, end in times)]
        if own:
            found[users] = Figures.of(own, sum(end - begin for begin, end in times), limits)
    return found


def timeline(
    records: Sequence[Record], windows: Sequence[Window], limits: Limits
) -> list[dict[str, Any]]:
    """Figures over the time, at most MOST_POINTS of them; ``time`` is in seconds from the start."""
    if not records or not windows:
        return []
    begin = windows[0].begin
    last = max(record.moment for record in records)
    width = max(1, math.ceil((last - begin) / MOST_POINTS))
    slots: list[list[Record]] = [[] for _ in range(int((last - begin) / width) + 1)]
    for record in records:
        slots[max(0, int((record.moment - begin) / width))].append(record)
    points = []
    for number, slot in enumerate(slots):
        moment = begin + (number + 0.5) * width
        figures = Figures.of(slot, width, limits)
        points.append(
            {
                "time": number * width,
                "users": next((w.users for w in reversed(windows) if w.begin <= moment), 0),
                "ttft_p50": figures.ttft[50],
                "ttft_p95": figures.ttft[95],
                "tpot_p50": figures.tpot[50],
                "tpot_p95": figures.tpot[95],
                "tokens": figures.tokens_per_second,
                "answers": figures.requests_per_second,
                "good": figures.good_per_second,
            }
        )
    return points
