"""What ``make load`` and ``make load-ui`` run: users, load shapes and figures for Locust.

``OpenAIUser`` asks over HTTP, ``GrpcUser`` asks Triton itself; those named on the command line run,
and without a name the first. ``--shape`` is how many of them there are over the time, and a group
of options says what they ask. Everything else is Locust's own.
"""

import argparse
import signal
import sys
from typing import Any

import gevent
from locust import events
from locust.env import Environment
from locust.runners import WorkerRunner
from locust.web import WebUI

from benchmarks.loadtest import options, page, preflight, results
from benchmarks.loadtest.book import Book, use_finer_buckets, wait_for_slow_workers
from benchmarks.loadtest.shapes import Burst, Shape, Soak, Steps
from benchmarks.loadtest.users import GrpcUser, OpenAIUser

# What Locust looks for here.
__all__ = ["Burst", "GrpcUser", "OpenAIUser", "Soak", "Steps"]

use_finer_buckets()
wait_for_slow_workers()


def begin(environment: Environment, web_ui: WebUI | None, **_: Any) -> None:
    """Choose users and shape, look whether the server is there, and open the book."""
    chosen = environment.parsed_options
    assert isinstance(chosen, argparse.Namespace) and environment.runner is not None
    # Workers learn their options from the master, which may be on another machine.
    if not isinstance(environment.runner, WorkerRunner):
        if not chosen.user_classes:
            environment.user_classes = [OpenAIUser]
        environment.shape_class = (environment.available_shape_classes or {}).get(
            chosen.shape.capitalize()
        )
        if environment.shape_class:
            environment.shape_class.runner = environment.runner
            if chosen.num_users is None:
                chosen.num_users = getattr(environment.shape_class, "default_users", None)
        if problem := preflight.problem(environment.user_classes, chosen):
            print(problem, file=sys.stderr)
            if not web_ui:
                sys.exit(2)
    # Left to Python, Ctrl-C ends whatever runs just then: gRPC's own thread perhaps, and no more.
    # Forked workers get them from the master.
    is_forked = isinstance(environment.runner, WorkerRunner) and chosen.processes
    gevent.signal_handler(signal.SIGINT, _ignore if is_forked else _interrupt)
    book = Book(environment)
    Shape.book = book
    if environment.shape_class and not web_ui:
        # Locust would stop by its own clock, which does not stand still for --least-answers.
        Shape.run_time, chosen.run_time = chosen.run_time, None
    if web_ui:
        page.extend(web_ui, book)
    if not isinstance(environment.runner, WorkerRunner):
        results.register(environment, book)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _ignore() -> None:
    pass


events.init_command_line_parser.add_listener(options.add)
events.init.add_listener(begin)
