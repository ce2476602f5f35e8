"""Three minutes of everything at once. Half an hour of it is ``make soak``."""

from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.processes import MIB

# Three minutes are too short for allocators to find their size; a leak of a picture's file with
# each request would show.
MEMORY_TOLERANCE = 100 * MIB


@pytest.mark.last
@pytest.mark.timeout(600)
def test_every_request_is_accounted_for_and_nothing_grows(tmp_path: Path) -> None:
    run = soak.run(minutes=3, seed=7, folder=tmp_path, memory_tolerance=MEMORY_TOLERANCE)
    assert run.books.faults == []
    assert sum(run.books.ends.values()) > 500
    assert {end for _, end in run.books.ends} >= {"answered", "refused for load", "400", "404"}
    assert run.books.left_late
    assert [row for row in run.verdicts() if not row[-1]] == []
