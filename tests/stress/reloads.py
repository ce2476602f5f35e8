"""Models that are reloaded, polled and changed under load, in a plain tritonserver.

``make reloads`` runs all of it at length; tests/e2e/test_plain_triton.py has short forms.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tools.plain_triton import (
    PlainTriton,
    Traffic,
    add_version,
    copy_models,
    digest,
    set_version_policy,
)
from tools.report import ROOT, report
from tools.stack import START_TIMEOUT, wait_until

RESULTS = ROOT / "benchmarks" / "results" / "reloads.md"
EXPLANATION = """\
A tritonserver without the launcher, on a copy of `model_repository/`. Each request has to be
answered with a 200, the counters must never become less and in the end be the number of the
answers, and no file of the repository may be written.
"""
EXPLICIT = ("--model-control-mode=explicit", "--load-model=*")
POLL = ("--model-control-mode=poll", "--repository-poll-secs=1")


class Counters:
    """What ``glm_requests_total`` counts from now on, by version; it must not become less."""

    def __init__(self, triton: PlainTriton) -> None:
        self._triton = triton
        self._seen: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self._before: dict[str, int] = {}
        self._before = self.look()

    def look(self) -> dict[str, int]:
        """Requests answered by each version; every counter and bucket is compared.

        Raises:
            AssertionError: one has become less, or is gone.
        """
        now = dict(self._triton.metrics())
        for series, value in self._seen.items():
            assert now.get(series, -1) >= value, (series, value, now.get(series))
        self._seen = {
            s: v for s, v in now.items() if s[0].endswith(("_total", "_count", "_bucket"))
        }
        answered: dict[str, int] = {}
        for (name, labels), value in now.items():
            if name == "glm_requests_total":
                version = dict(labels)["version"]
                answered[version] = answered.get(version, 0) + int(value)
        return {version: n - self._before.get(version, 0) for version, n in answered.items()}

    def wait(self, answered: Mapping[str, int]) -> None:
        """Returns once the counters are those numbers of answers."""
        want = {version: number for version, number in answered.items() if number}

        def agree() -> bool:
            return {v: n for v, n in self.look().items() if n} == want

        try:
            wait_until(agree, 20)
        except TimeoutError:
            raise AssertionError(f"counted {self.look()}, answered {want}") from None


def reload_under_load(triton: PlainTriton, reloads: int) -> str:
    """Reload stage 2, and now and then stage 1, while requests are under way; returns a summary."""
    counters = Counters(triton)
    began = time.monotonic()
    with Traffic(triton) as traffic:
        for number in range(1, reloads + 1):
            traffic.wait(5)
            model = "preprocessing" if number % 4 == 2 else "generation"
            (triton.repository / model / "1" / "model.py").touch()
            touched = digest(triton.repository)
            triton.load(model)
            counters.look()
            traffic.wait(5)
            assert digest(triton.repository) == touched, "something was written there"
    assert not traffic.failed, traffic.failed
    counters.wait(traffic.answered)
    # The old processes have ended.
    wait_until(lambda: len(triton.stubs("generation")) == 1, 30)
    wait_until(lambda: len(triton.stubs("preprocessing")) == 2, 30)
    return (
        f"{reloads} reloads in {time.monotonic() - began:.0f} s, {traffic.total} answers, "
        f"the slowest after {traffic.longest:.1f} s"
    )


def poll(triton: PlainTriton, seconds: float) -> str:
    """Watch a server that polls its repository: it loads what has changed, and nothing else."""
    before, pids = digest(triton.repository), triton.stubs("")
    began = time.monotonic()
    with Traffic(triton) as traffic:
        while time.monotonic() - began < seconds:
            traffic.wait(5)
            assert triton.stubs("") == pids, triton.log[-5000:]
        assert digest(triton.repository) == before, "something was written there"
        (triton.repository / "generation" / "1" / "model.py").touch()
        wait_until(lambda: triton.stubs("generation")[0] not in pids, START_TIMEOUT)
        traffic.wait(5)
    assert not traffic.failed, traffic.failed
    return f"no reload in {seconds:.0f} s, one after a change, {traffic.total} answers"


def change_versions(triton: PlainTriton, answers: int) -> str:
    """Version 2 comes beside version 1, both answer, version 1 goes; returns a summary."""
    repository = triton.repository
    counters = Counters(triton)
    with Traffic(triton) as traffic:
        traffic.wait(answers)
        for model in ("preprocessing", "generation"):
            set_version_policy(repository, model, "all {}")
            add_version(repository, model, 2)
            triton.load(model)
            assert {v: s for v, (s, _) in triton.states(model).items()} == dict.fromkeys(
                "12", "READY"
            )
        before = digest(repository)
        counted = dict(traffic.answered)
        with Traffic(triton, versions=("1", "2")) as both:
            both.wait(answers)
        assert not both.failed, both.failed
        assert both.answered["1"] and both.answered["2"]
        assert digest(repository) == before, "something was written there"
        for model in ("preprocessing", "generation"):
            set_version_policy(repository, model, "latest { num_versions: 1 }")
            triton.load(model)
            wait_until(partial(_is_unloaded, triton, model, "1"), 60)
        counters.look()
        traffic.wait(answers)
    assert not traffic.failed, traffic.failed
    total = {v: traffic.answered[v] + both.answered[v] for v in ("1", "2")}
    assert traffic.answered["2"] > 0 and counted.get("1", 0) > 0
    counters.wait(total)
    return f"{total['1']} answers of version 1, {total['2']} of version 2"


def _is_unloaded(triton: PlainTriton, model: str, version: str) -> bool:
    return triton.states(model)[version][0] == "UNAVAILABLE"


def main() -> int:
    """Returns 0; raises AssertionError where something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m stress.reloads", description=__doc__)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--poll-seconds", type=float, default=60)
    parser.add_argument("--answers", type=int, default=200, help="at each step of the versions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glm-reloads-") as name:
        folder = Path(name)
        rows = []
        with PlainTriton(folder / "explicit", copy_models(folder / "a"), *EXPLICIT) as triton:
            rows.append(("reloads by the API", reload_under_load(triton, arguments.reloads)))
            rows.append(("two versions", change_versions(triton, arguments.answers)))
        with PlainTriton(folder / "poll", copy_models(folder / "b"), *POLL) as triton:
            rows.append(("poll mode", poll(triton, arguments.poll_seconds)))
    report(
        RESULTS,
        "Reloads, versions and poll mode of a plain tritonserver",
        "the demo checkpoint",
        EXPLANATION,
        ["| what | result |", "|---|---|", *(f"| {what} | {result} |" for what, result in rows)],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
