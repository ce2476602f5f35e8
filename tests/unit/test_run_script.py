"""``tests/run.sh``: what it cannot test it says in the last lines, whatever became of the rest."""

import shutil
import subprocess
from pathlib import Path

import pytest

from unit.paths import ROOT

PHASES = [
    "tests: unit and contract",
    "tests: end to end",
    "tests: end to end, one at a time",
]
UNTESTED = [
    "!!! NOT TESTED: the web page and /docs in a real browser. "
    "To test it: apt-get install chromium",
    "!!! NOT TESTED: the web page in a real browser. To test it: apt-get install chromium-driver",
    "!!! NOT TESTED: answers kept in a Redis of several frontends. "
    "To test it: apt-get install redis-server",
    "!!! NOT TESTED: metrics, alerts and the dashboard's queries in a real Prometheus. "
    "To test it: apt-get install prometheus",
    "!!! NOT TESTED: the example configuration for nginx. To test it: apt-get install nginx",
    "!!! NOT TESTED: the example configuration for HAProxy. To test it: apt-get install haproxy",
]


@pytest.mark.parametrize(("pytest_is", "code", "phases"), [("true", 0, 3), ("false", 1, 1)])
def test_what_is_not_tested_is_said_last(
    tmp_path: Path, pytest_is: str, code: int, phases: int
) -> None:
    """On a machine with neither the programs nor apt-get, where pytest is replaced by a program
    that succeeds or fails."""
    for program in ("bash", "dirname", "id", "nproc", pytest_is):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    ran = subprocess.run(
        ["bash", str(ROOT / "tests" / "run.sh")],
        env={"PATH": str(tmp_path), "PYTHON": pytest_is},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == code, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line]
    assert lines[-len(UNTESTED) :] == UNTESTED
    assert [
        line for line in lines if line in ("tests: unit and contract", "tests: end to end")
    ] == [
        "tests: unit and contract",
        "tests: end to end",
    ][:phases]
