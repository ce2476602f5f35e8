"""Marks every test by its folder: what lies in tests/unit is a unit test, and so on. What is marked
``slow`` comes first."""

import gc
import os
import signal
from pathlib import Path

import pytest

# The GPU's kernels are interpreted in the unit tests. Their compiler looks when it is imported,
# which transformers does as well, and later; servers that tests start do without.
os.environ["TRITON_INTERPRET"] = "1"

# Workers that each compute on all cores would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# A shell has what it starts in the background ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent


def pytest_collection_finish() -> None:
    # Thousands of collected tests are there to stay: to look through them again and again for
    # garbage takes a fifth of the unit tests' time.
    gc.set_threshold(200_000, 20, 20)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        item.add_marker(folder)
    # So that no worker is left with them at the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
