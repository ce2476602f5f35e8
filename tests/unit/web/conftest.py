"""The page's server before a real frontend, each on a port of its own; the model is a script."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

import glm_frontend.app
import glm_web.app
from glm_frontend.settings import Settings as FrontendSettings
from glm_web.settings import PageSettings
from unit.frontend.conftest import clean_environment
from unit.frontend.fakes import FakeBackend
from unit.serving import served

__all__ = ["clean_environment"]

Connect = Callable[..., httpx2.Client]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def connect(backend: FakeBackend) -> Iterator[Connect]:
    """Starts both servers with the frontend's settings; gives a client of the page's server."""
    with ExitStack() as stack:

        def start(frontend: FrontendSettings | None = None, **settings: Any) -> httpx2.Client:
            own = glm_frontend.app.create_app(frontend or FrontendSettings(), backend)
            port = stack.enter_context(served(own))
            settings.setdefault("web_api_url", f"http://127.0.0.1:{port}")
            port = stack.enter_context(served(glm_web.app.create_app(PageSettings(**settings))))
            url = f"http://127.0.0.1:{port}"
            return stack.enter_context(httpx2.Client(base_url=url, trust_env=False, timeout=60))

        yield start
