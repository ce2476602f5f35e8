"""What records of a load come to."""

import pytest

from benchmarks.loadtest.figures import Figures, Limits, Record, Window, levels, timeline

LIMITS = Limits(ttft=0.2, tpot=0.02)


def record(
    moment: float, ttft: float = 0.1, tpot: float | None = 0.01, end: str = "answered"
) -> Record:
    return Record("HTTP", "text", end, moment, total=1.0, ttft=ttft, tpot=tpot, tokens=10)


def test_goodput_is_of_all_that_could_have_been_answered() -> None:
    records = [
        record(1),
        record(1, tpot=None),  # of one token
        record(1, ttft=0.3),
        record(1, tpot=0.03),
        record(1, end="refused"),
        record(1, end="left reading"),
        record(1, end="stopped"),
    ]
    figures = Figures.of(records, 2.0, LIMITS)
    assert figures.goodput == pytest.approx(2 / 5) and figures.good_per_second == 1.0
    assert figures.requests_per_second == 2.0 and figures.tokens_per_second == 20.0
    assert figures.left == 1
    assert figures.ttft[50] == pytest.approx(100) and figures.tpot[50] == pytest.approx(10)


def test_empty_data_has_no_figures() -> None:
    figures = Figures.of([record(1, end="left waiting")], 1.0, LIMITS)
    assert figures.goodput is None and figures.ttft[99] is None and figures.total[50] is None
    assert timeline([], [], LIMITS) == []


def test_a_level_leaves_out_its_warm_up_and_short_windows() -> None:
    windows = [Window(1, 0, 10), Window(4, 10, 20), Window(2, 20, 21), Window(1, 21, 31)]
    records = [record(moment + 0.5) for moment in range(31)]
    found = levels(records, windows, LIMITS)
    assert list(found) == [1, 4]
    assert found[1].seconds == 16 and found[1].ends == {"answered": 16}
    assert found[4].seconds == 8 and found[4].requests_per_second == 1.0


def test_the_timeline_is_bounded_and_counts_all() -> None:
    records = [record(100 + second) for second in range(1000)]
    points = timeline(records, [Window(3, 100, 1100)], LIMITS)
    assert len(points) <= 150 and points[0]["time"] == 0
    assert {point["users"] for point in points} == {3}
    width = points[1]["time"]
    assert sum(point["answers"] * width for point in points) == pytest.approx(1000)
