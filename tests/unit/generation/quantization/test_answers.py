"""What quantised weights cost in true answers of the demo checkpoint."""

from functools import cache

import pytest

from benchmarks.quantised import true_answers

PICTURES = 100


@cache
def true(quantization: str) -> float:
    """Share of all answers."""
    return true_answers(quantization, PICTURES)["all"]


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "lost"), [("int8", 0.01), ("fp8", 0.01), ("int4", 0.05)])
def test_as_many_answers_are_true_as_before(quantization: str, lost: float) -> None:
    assert true("none") > 0.85
    assert true(quantization) >= true("none") - lost
