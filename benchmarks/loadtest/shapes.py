"""How many users there are over the time."""

import time

from locust import LoadTestShape

BURST_EVERY_SECONDS = 30.0
BURSTS = 4
SOAK_SECONDS = 1800.0


class _Shape(LoadTestShape):
    abstract = True
    # --users and --run-time are read below.
    use_common_options = True
    # Without --users; Locust's own default of 1 would come first.
    default_users = 1

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - float(self.start_time)

    def option(self, name: str, default: float | None = None) -> float:
        """A number of the command line, or of the page."""
        assert self.runner is not None
        value = getattr(self.runner.environment.parsed_options, name)
        return float(default if value is None and default is not None else value)


class Steps(_Shape):
    """Ever more users: what is the throughput, and what does it cost in latency?"""

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        users = [int(step) for step in options.steps.split(",")]
        step = int(self.seconds // options.step_seconds)
        return (users[step], users[step]) if step < len(users) else None


class Burst(_Shape):
    """A few users, and every half minute many more at once: who waits, and how soon is it over?"""

    default_users = 4

    def tick(self) -> tuple[int, float] | None:
        if self.seconds >= self.option("run_time", BURSTS * BURST_EVERY_SECONDS):
            return None
        users = int(self.option("num_users", self.default_users))
        begin = BURST_EVERY_SECONDS - self.option("burst_seconds")
        if self.seconds % BURST_EVERY_SECONDS >= begin:
            users += int(self.option("burst_users"))
        return users, users


class Soak(_Shape):
    """The same users all the time: does anything get slower?"""

    default_users = 8

    def tick(self) -> tuple[int, float] | None:
        if self.seconds >= self.option("run_time", SOAK_SECONDS):
            return None
        users = int(self.option("num_users", self.default_users))
        return users, users
