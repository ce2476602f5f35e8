"""How many users there are over the time."""

import time
from typing import ClassVar

from locust import LoadTestShape

from benchmarks.loadtest.book import Book
from benchmarks.loadtest.figures import levels

BURST_EVERY_SECONDS = 30.0
BURSTS = 4
SOAK_SECONDS = 1800.0


class Shape(LoadTestShape):
    abstract = True
    # --users and --run-time are read below.
    use_common_options = True
    # Without --users; Locust's own default of 1 would come first.
    default_users = 1
    book: ClassVar[Book | None] = None
    # --run-time of a run without Locust's page, in seconds.
    run_time: ClassVar[float | None] = None

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._users: int | None = None
        self._asked = self.start_time

    def reset_time(self) -> None:
        super().reset_time()  # type: ignore[no-untyped-call]
        self._users, self._asked = None, self.start_time

    def users(self) -> int | None:
        """How many there have to be now; None at the end."""
        raise NotImplementedError

    def tick(self) -> tuple[int, float] | None:
        """What Locust asks once a second. All come at once, and a level that has not got its
        --least-answers goes on: the clock stands still at its end."""
        now, users = time.perf_counter(), self.users()
        if users != self._users and self._is_short():
            self.start_time += now - self._asked
            users = self._users
        self._asked, self._users = now, users
        return None if users is None else (users, users)

    def _is_short(self) -> bool:
        if self._users is None or self.book is None or not self.option("least_answers"):
            return False
        found = levels(list(self.book.records), self.book.windows, self.book.limits)
        ends = found[self._users].ends if self._users in found else {}
        return ends.get("answered", 0) < self.option("least_answers")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - float(self.start_time)

    def whole(self, default: float) -> float:
        """Seconds from the start to the end."""
        return self.option("run_time", default) if self.run_time is None else float(self.run_time)

    def option(self, name: str, default: float | None = None) -> float:
        """A number of the command line, or of the page."""
        assert self.runner is not None
        value = getattr(self.runner.environment.parsed_options, name)
        return float(default if value is None and default is not None else value)


class Steps(Shape):
    """Ever more users: what is the throughput, and what does it cost in latency?"""

    def users(self) -> int | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        users = [int(step) for step in options.steps.split(",")]
        step = int(self.seconds // options.step_seconds)
        return users[step] if step < len(users) else None


class Burst(Shape):
    """A few users, and every half minute many more at once: who waits, and how soon is it over?"""

    default_users = 4

    def users(self) -> int | None:
        if self.seconds >= self.whole(BURSTS * BURST_EVERY_SECONDS):
            return None
        users = int(self.option("num_users", self.default_users))
        begin = BURST_EVERY_SECONDS - self.option("burst_seconds")
        if self.seconds % BURST_EVERY_SECONDS >= begin:
            users += int(self.option("burst_users"))
        return users


class Soak(Shape):
    """The same users all the time: does anything get slower?"""

    default_users = 8

    def users(self) -> int | None:
        if self.seconds >= self.whole(SOAK_SECONDS):
            return None
        return int(self.option("num_users", self.default_users))
