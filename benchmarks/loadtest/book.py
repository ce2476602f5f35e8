"""Every request's end, in Locust's table and, in full, where the results are made.

Locust sums its table up over all workers by itself; the records go to the master with its reports.
"""

import argparse
import time
from collections import deque
from dataclasses import astuple
from typing import Any

import gevent
import locust.runners
import locust.stats
from gevent.event import Event
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner, WorkerRunner

from benchmarks.loadtest import users
from benchmarks.loadtest.figures import Figures, Limits, Record, Window

# Some hours of what the demo checkpoint answers; of a longer load the last ones.
MOST_RECORDS = 200_000
MOST_WINDOWS = 10_000
WATCH_SECONDS = 0.1

# What a worker is asked at the end, and what it says when its last request has ended.
DRAIN, DRAINED = "drain", "drained"
# Beyond what --stop-timeout gives the requests.
DRAIN_SECONDS = 10.0


def wait_for_slow_workers() -> None:
    """A worker that is silent for three seconds on a busy machine is not gone: Locust would give
    its users to the others, and run both once it is heard again."""
    locust.runners.HEARTBEAT_LIVENESS = 30


def use_finer_buckets() -> None:
    """Locust rounds times to whole milliseconds and two digits: too coarse for TPOT."""
    locust.stats.bucket_response_time = lambda time: float(f"{time:.3g}")  # type: ignore[assignment,return-value]


class Book:
    """The records of all workers; on a worker those that the master does not have yet.

    Attributes:
        records: of the load that runs, or ran last.
        windows: how many users there were when; the last one goes on.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.records: deque[Record] = deque(maxlen=MOST_RECORDS)
        self.windows: deque[Window] = deque(maxlen=MOST_WINDOWS)
        self._is_on = False
        self._drained: dict[str, Event] = {}
        users.ended.add_listener(self._add)
        events = environment.events
        events.report_to_master.add_listener(self._send)
        events.worker_report.add_listener(self._receive)
        events.reset_stats.add_listener(self._clear)
        events.test_start.add_listener(self._start)
        events.test_stopping.add_listener(self._stop)
        if isinstance(environment.runner, WorkerRunner):
            environment.runner.register_message(DRAIN, self._drain)
        else:
            gevent.spawn(self._watch)
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(DRAINED, self._note_drained)

    @property
    def limits(self) -> Limits:
        """As they are set now: they can be changed on Locust's page."""
        options = self._environment.parsed_options
        assert isinstance(options, argparse.Namespace)
        return Limits(options.ttft_limit / 1e3, options.tpot_limit / 1e3)

    @property
    def seconds(self) -> float:
        """From the start of the load to its last request."""
        if not self.records or not self.windows:
            return 0.0
        return max(record.moment for record in self.records) - self.windows[0].begin

    def kinds(self) -> dict[str, Figures]:
        """The figures of all requests, and then of each protocol and kind."""
        groups: dict[str, list[Record]] = {"all": list(self.records)}
        for record in sorted(self.records, key=lambda one: (one.protocol, one.kind)):
            groups.setdefault(f"{record.protocol}, {record.kind}", []).append(record)
        seconds, limits = self.seconds, self.limits
        return {name: Figures.of(own, seconds, limits) for name, own in groups.items()}

    def _add(self, record: Record, length: int, error: Exception | None) -> None:
        self.records.append(record)
        milliseconds: Any = 1e3 * record.total  # Locust takes fractions, whatever its types say
        stats = self._environment.stats
        if record.end in ("answered", "failed"):
            self._environment.events.request.fire(
                request_type=record.protocol,
                name=record.kind,
                response_time=milliseconds,
                response_length=length,
                exception=error,
                context={},
            )
        else:
            # Into the table, but not among the requests that Locust sums up and draws.
            stats.get(record.protocol, record.end.split()[0]).log(milliseconds, length)
        if record.end == "answered":
            for name, value in (("TTFT", record.ttft), ("TPOT", record.tpot)):
                if value is not None:
                    milliseconds = 1e3 * value
                    stats.get(record.protocol, name).log(milliseconds, 0)

    def _send(self, data: dict[str, Any], **_: Any) -> None:
        data["records"] = [astuple(record) for record in self.records]
        self.records.clear()

    def _receive(self, data: dict[str, Any], **_: Any) -> None:
        self.records.extend(Record(*values) for values in data["records"])

    def _clear(self, **_: Any) -> None:
        self.records.clear()
        self.windows.clear()

    def _start(self, **_: Any) -> None:
        self._clear()
        self._is_on = True

    def _stop(self, **_: Any) -> None:
        self._is_on = False
        runner, options = self._environment.runner, self._environment.parsed_options
        assert isinstance(options, argparse.Namespace)
        if isinstance(runner, MasterRunner) and options.headless:
            # Locust would quit now, with the workers half a second later, and count no request that
            # is still under way.
            self._drained = {client.id: Event() for client in runner.clients.all}
            runner.send_message(DRAIN)
            deadline = time.monotonic() + options.stop_timeout + DRAIN_SECONDS
            for drained in self._drained.values():
                drained.wait(max(0.0, deadline - time.monotonic()))

    def _drain(self, environment: Environment, **_: Any) -> None:
        runner = environment.runner
        assert isinstance(runner, WorkerRunner)
        runner.stop()
        data: dict[str, Any] = {}
        environment.events.report_to_master.fire(client_id=runner.client_id, data=data)
        runner.send_message("stats", data)
        runner.send_message(DRAINED)

    def _note_drained(self, msg: Message, **_: Any) -> None:
        self._drained[msg.node_id].set()

    def _watch(self) -> None:
        while True:
            now = time.time()
            runner = self._environment.runner
            if self._is_on and runner:
                last = self.windows[-1] if self.windows else None
                if last and last.users == runner.user_count:
                    self.windows[-1] = Window(last.users, last.begin, now)
                else:
                    self.windows.append(Window(runner.user_count, now, now))
            gevent.sleep(WATCH_SECONDS)
