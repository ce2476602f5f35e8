"""The whole server, started once for all end-to-end tests."""

from collections.abc import Iterator

import pytest

from tools.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running server, with its URLs. It must stop cleanly at the end."""
    server = Stack(tmp_path_factory.mktemp("stack") / "launcher.log")
    try:
        server.wait_ready()
        yield server
        server.interrupt()
        assert server.wait_stopped() == 0, server.log
    finally:
        server.kill()
