"""How many users there are over the time."""

import time
from typing import ClassVar

from locust import LoadTestShape

from benchmarks.loadtest.book import Book

# Beyond its own time, --least-answers keeps a level no longer than this: a server may never answer.
LONGEST_EXTENSION_SECONDS = 60.0
# Locust asks once a second, but not while it waits for a level's users.
LONGEST_TICK_SECONDS = 2.0
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
        self.reset_time()

    def reset_time(self) -> None:
        super().reset_time()  # type: ignore[no-untyped-call]
        self._users: int | None = None
        self._asked = self.start_time
        self._level_began = time.time()
        self._extension = 0.0

    def users(self) -> int | None:
        """How many there have to be now; None at the end."""
        raise NotImplementedError

    def tick(self) -> tuple[int, float] | None:
        """What Locust asks once a second. All come at once, and a level that has not got its
        --least-answers goes on: the clock stands still at its end."""
        now = time.perf_counter()
        # A level is not passed over because the one before took long to begin.
        self.start_time += max(0.0, now - self._asked - LONGEST_TICK_SECONDS)
        users = self.users()
        if users != self._users and self._is_short():
            self.start_time += now - self._asked
            self._extension += now - self._asked
        elif users != self._users:
            self._users, self._level_began, self._extension = users, time.time(), 0.0
        self._asked = now
        return None if self._users is None else (self._users, self._users)

    def _is_short(self) -> bool:
        least = self.option("least_answers")
        if self._users is None or self.book is None or not least:
            return False
        # By the time and not by the number of users: after a worker's pause Locust may miscount.
        answers = sum(
            record.end == "answered" and record.moment >= self._level_began
            for record in list(self.book.records)
        )
        return answers < least and self._extension < LONGEST_EXTENSION_SECONDS

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
