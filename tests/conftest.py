"""Marks every test by its folder: what lies in tests/unit is a unit test, and so on. What is marked
``last`` comes last."""

import os
from pathlib import Path

import pytest

# The GPU's kernels are interpreted in the unit tests. Their compiler looks when it is imported,
# which transformers does as well, and later; servers that tests start do without.
os.environ["TRITON_INTERPRET"] = "1"

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        item.add_marker(folder)
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
