"""The page's server before a real frontend, each on a port of its own; the model is a script."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

import glm_frontend.app
import glm_web.app
from glm_frontend.protocol import bounded_protocol
from glm_frontend.settings import Settings as FrontendSettings
from glm_web.settings import Settings
from unit.frontend.conftest import clean_environment
from unit.frontend.fakes import FakeBackend

__all__ = ["clean_environment"]

Connect = Callable[..., httpx2.Client]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The URL of an app that a thread serves."""
    config = uvicorn.Config(
        app,
        port=0,
        http=bounded_protocol(max_connections=100, header_timeout=5, write_timeout=5),
        log_config=None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def connect(backend: FakeBackend) -> Iterator[Connect]:
    """Starts both servers with the frontend's settings; gives a client of the page's server."""
    with ExitStack() as stack:

        def start(frontend: FrontendSettings | None = None, **settings: Any) -> httpx2.Client:
            app = glm_frontend.app.create_app(frontend or FrontendSettings(), backend)
            settings.setdefault("web_api_url", stack.enter_context(served(app)))
            url = stack.enter_context(served(glm_web.app.create_app(Settings(**settings))))
            return stack.enter_context(httpx2.Client(base_url=url, trust_env=False, timeout=10))

        yield start
