"""A real server, in a thread, of an app of the tests."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from glm_frontend.http.protocol import bounded_protocol
from waiting import wait_until

# A limit that no test reaches, however slow the machine.
PATIENT = 600


@contextmanager
def served(
    app: FastAPI,
    *,
    max_connections: int = 100,
    header_timeout: float = PATIENT,
    write_timeout: float = PATIENT,
    keep_alive: int = PATIENT,
    on_refused: Callable[[str], None] = lambda code: None,
) -> Iterator[int]:
    """The port of 127.0.0.1 at which a thread serves the app until the end of the block."""
    protocol = bounded_protocol(
        max_connections=max_connections,
        header_timeout=header_timeout,
        write_timeout=write_timeout,
        on_refused=on_refused,
    )
    config = uvicorn.Config(
        app, port=0, http=protocol, timeout_keep_alive=keep_alive, log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
