"""How an overload is judged."""

import pytest

from stress.overload import Level, Outcome, growth, kept
from tools.processes import MIB, Sample, Usage


def answered(ended: float, ttft: float, answer_id: str) -> Outcome:
    return Outcome("flood", ended - ttft, "answered", ended, ttft, answer_id)


def test_goodput_is_of_the_second_half_of_the_arrivals_and_of_what_came_in_time() -> None:
    level = Level(rate=2, seconds=10)
    level.outcomes = [
        answered(4.9, 0.1, "early"),
        answered(5.0, 0.1, "a"),
        answered(7.0, 3.0, "slow"),
        answered(9.9, 0.1, "b"),
        answered(10.1, 0.1, "late"),
        Outcome("flood", 6.0, "429", 6.0),
    ]
    assert level.goodput() == pytest.approx(3 / 5)
    assert level.goodput(ttft_limit=1) == pytest.approx(2 / 5)


def test_what_comes_twice_or_ends_in_another_way_is_counted() -> None:
    level = Level(rate=2, seconds=10)
    level.outcomes = [answered(1, 0.1, "a"), answered(2, 0.1, "a"), answered(3, 0.1, "b")]
    assert level.doubles == 1
    level.outcomes[2].is_double = True
    assert level.doubles == 2
    level.outcomes += [Outcome("flood", 1.0), Outcome("flood", 1.0, "500: b''")]
    assert level.count("lost") == 1 and level.others == ["500: b''"]


def _level(goodput: int, **resident: int) -> Level:
    level = Level(rate=2, seconds=10)
    level.outcomes = [answered(6 + i / 100, 0.1, f"{i}") for i in range(5 * goodput)]
    usages = {name: Usage(size, size, 1, 1) for name, size in resident.items()}
    level.samples = [Sample(0.0, usages, 0, ())]
    return level


def test_the_goals() -> None:
    levels = [_level(10, a=100 * MIB), _level(9, a=200 * MIB, b=MIB), _level(8, a=240 * MIB, b=MIB)]
    assert kept(levels, 1) == pytest.approx(0.8)
    assert growth(levels) == ["a by 40 MiB"]
    assert growth(levels[:2] + levels[1:2]) == []
