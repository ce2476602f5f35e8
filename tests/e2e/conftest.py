"""The whole server, started once for all end-to-end tests."""

from collections.abc import Iterator

import pytest

from e2e.calls import running
from tools.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running server, with its URLs. It must stop cleanly at the end."""
    with running(tmp_path_factory.mktemp("stack") / "launcher.log") as server:
        yield server
