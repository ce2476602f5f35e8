"""The app over a fake backend, with a network that nobody may use."""

import os
from collections.abc import Iterator

import httpx2
import pytest
from starlette.testclient import TestClient

from glm_frontend.app import create_app
from glm_frontend.media.fetch import ImageFetcher
from glm_frontend.settings import Settings
from glm_frontend.variables import PREFIX
from unit.frontend.fakes import FakeBackend


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith((PREFIX, "OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def client(backend: FakeBackend) -> Iterator[TestClient]:
    """An HTTP client of the app with default settings."""
    settings = Settings()
    fetcher = ImageFetcher(settings, httpx2.MockTransport(_refuse))
    app = create_app(settings, backend, fetcher)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def _refuse(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("no test dials out")
