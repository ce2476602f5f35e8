"""A minute and a half of everything at once. Half an hour of it is ``make soak``.

Judged is how requests end, how many Triton counts, and what grows from rest to rest; never how long
anything takes: a slow machine gets the same requests, and more time for them.
"""

from pathlib import Path

import pytest

from stress import soak
from tools.processes import MIB

pytestmark = pytest.mark.alone

# This is too short for allocators to find their size; a leak of a picture's file with
# each request would show.
MEMORY_TOLERANCE = 100 * MIB
# So that a leak of each one's file is more than that.
LEAST_REQUESTS = 1400


@pytest.mark.timing
@pytest.mark.timeout(900)
def test_every_request_is_accounted_for_and_nothing_grows(tmp_path: Path) -> None:
    run = soak.run(
        minutes=1.5,
        seed=7,
        folder=tmp_path,
        memory_tolerance=MEMORY_TOLERANCE,
        least_requests=LEAST_REQUESTS,
    )
    assert not run.books.faults, "\n".join(run.books.faults)
    assert sum(run.books.ends.values()) > 500
    assert {end for _, end in run.books.ends} >= {"answered", "refused for load", "400", "404"}
    assert run.books.left_late
    assert [row for row in run.verdicts() if not row[-1]] == []
