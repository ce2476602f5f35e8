"""Locust, as ``make load`` runs it, against a real server: does it count what the server counts?"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e.calls import settled
from tools.stack import ROOT, Stack, free_ports
from waiting import wait_until

REASONS = ("stop", "length", "cancelled", "error", "rejected")


def load(stack: Stack, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Locust without its page; what it writes lies in ``folder``."""
    (port,) = map(str, free_ports(1))
    command = [
        *(sys.executable, "-m", "locust", "--config", "benchmarks/loadtest/locust.conf"),
        # The master's own port is for others on this machine.
        *("--master-bind-port", port, "--master-port", port),
        *("--headless", "--only-summary", "--host", stack.base_url, "--grpc", stack.grpc_url),
        *("--html", f"{folder}/report.html", "--csv", f"{folder}/load"),
        *("--json-file", f"{folder}/locust", "--output", f"{folder}/load.md"),
        *arguments,
    ]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"Locust does not end: {(hung.stderr or b'').decode()}")


def counts(stack: Stack) -> dict[str, float]:
    """Triton's requests by finish reason, when all have ended and been counted."""

    # The check of the health is a request itself, unless there was one a moment ago.
    assert requests.get(f"{stack.base_url}/v1/health", timeout=60).status_code == 200
    after = settled(stack)
    return {name: after[f'glm_requests_total{{finish_reason="{name}"}}'] for name in REASONS}


GENEROUS = ("--ttft-limit", "60000", "--tpot-limit", "60000")
# However fast the machine is: enough for every kind of request, and some whose clients leave.
ENOUGH = ("--least-answers", "25")
STEPS = ("--steps", "2,4", "--step-seconds", "2", *ENOUGH)
# More at once after the first two seconds of each half minute.
BURST = (
    *("--shape", "burst", "--users", "2", "--burst-users", "2", "--burst-seconds", "28"),
    *("--run-time", "4s", *ENOUGH),
)


@pytest.mark.timing
@pytest.mark.parametrize(
    ("arguments", "levels", "goodput"),
    [
        ((*STEPS, *GENEROUS), {"2", "4"}, 1),
        ((*BURST, "--processes", "2", "--ttft-limit", "0.001"), {"2", "4"}, 0),
    ],
    ids=["steps", "burst, two processes"],
)
def test_its_numbers_are_those_of_the_server(
    stack: Stack, tmp_path: Path, arguments: tuple[str, ...], levels: set[str], goodput: float
) -> None:
    before = counts(stack)
    mix = ("--disconnects", "0.3", "--max-tokens", "100")
    run = load(stack, tmp_path, "OpenAIUser", "GrpcUser", *mix, *arguments)
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr
    after = counts(stack)
    gained = {reason: after[reason] - before[reason] for reason in REASONS}

    results = json.loads((tmp_path / "load.json").read_text())
    whole = results["requests"]["all"]
    ends: dict[str, int] = whole["ends"]
    assert {"answered", "left reading"} <= set(ends) and not {"failed", "refused"} & set(ends), ends
    left_reading = ends["left reading"]
    # Locust stops users between two requests, and now and then one that has just sent the next.
    left_early = ends.get("left waiting", 0) + ends.get("stopped", 0)
    assert gained["stop"] == gained["error"] == gained["rejected"] == 0
    # Of those that left, the first may never have reached Triton, and the last have had all. The
    # checks of the health, ours and Locust's, are short requests.
    others = gained["length"] + gained["cancelled"] - ends["answered"]
    assert left_reading <= others <= left_reading + left_early + 2
    assert 0 < gained["cancelled"] <= left_reading + left_early

    assert whole["goodput"] == goodput
    assert whole["tokens_per_second"] * whole["seconds"] == pytest.approx(100 * ends["answered"])
    assert set(results["users"]) == levels
    for kind in ("text", "picture", "conversation, turn 2"):
        assert any(kind in name for name in results["requests"]), results["requests"]

    table = {(row["name"], row["method"]): row for row in locust_table(tmp_path)}
    for protocol in ("HTTP", "gRPC"):
        answered = sum(
            one["ends"].get("answered", 0)
            for name, one in results["requests"].items()
            if name.startswith(protocol)
        )
        assert table[protocol, "TTFT"]["num_requests"] == answered > 0
        assert table[protocol, "TPOT"]["num_requests"] == answered
    assert sum(row["num_failures"] for row in table.values()) == 0
    asked = [row for (_, method), row in table.items() if method in ("HTTP", "gRPC")]
    assert sum(row["num_requests"] for row in asked) == ends["answered"]

    report = (tmp_path / "report.html").read_text()
    assert "Goodput (%)" in report
    data = re.search(r'id="figures-data">(.*?)</script>', report, re.DOTALL)
    assert data and json.loads(data[1])["rows"][0]["answered"] == ends["answered"]
    assert "<svg" in (tmp_path / "load.svg").read_text()
    assert "time to first token" in (tmp_path / "load.svg").read_text()
    *_, last = (tmp_path / "load_stats.csv").read_text().splitlines()
    assert last.startswith(f",Aggregated,{ends['answered']},0,")
    assert f"{tmp_path}/load_stats.csv" in run.stdout


def locust_table(folder: Path) -> list[dict[str, Any]]:
    """Locust's own statistics."""
    (file,) = folder.glob("locust*")
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    return rows


@pytest.mark.timing
def test_its_page_shows_the_figures_and_is_shut_for_other_pages(
    stack: Stack, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "locust", "--config", "benchmarks/loadtest/locust.conf"),
        *("--web-host", "127.0.0.1", "--web-port", str(port), "--class-picker"),
        *("--host", stack.base_url, "--grpc", stack.grpc_url, "--output", f"{tmp_path}/load.md"),
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_until(lambda: is_there(url))
        page = requests.get(url, timeout=60).text
        assert '"key": "goodput"' in page and 'id="figures"' in page
        for headers in ({"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}):
            refused = requests.post(f"{url}/swarm", headers=headers, timeout=60)
            assert refused.status_code == 403

        form = {"user_count": "2", "spawn_rate": "2", "host": stack.base_url,
                "user_classes": "OpenAIUser", "shape_class": "Soak", "ttft_limit": "60000",
                "tpot_limit": "60000", "disconnects": "0"}  # fmt: skip
        begun = requests.post(f"{url}/swarm", data=form, headers={"Origin": url}, timeout=60)
        assert begun.json()["success"], begun.text
        wait_until(lambda: figures(url).get("answered", 0) > 3)
        assert figures(url)["goodput"] == 100 and figures(url)["ttft50"] > 0
        points = requests.get(f"{url}/charts", timeout=60).json()["points"]
        assert sum(point["answers"] for point in points) > 0 and points[-1]["users"] == 2
        assert 'id="figures"' in requests.get(f"{url}/stats/report", timeout=60).text
    finally:
        process.terminate()
        process.wait(60)
    assert (tmp_path / "load.json").exists(), (tmp_path / "log").read_text()


def is_there(url: str) -> bool:
    try:
        return requests.get(url, timeout=60).status_code == 200
    except requests.ConnectionError:
        return False


def figures(url: str) -> dict[str, float]:
    """The row of all requests in the table of Locust's page."""
    (table,) = requests.get(f"{url}/stats/requests", timeout=60).json()["extended_stats"]
    rows: list[dict[str, float]] = table["data"]
    return rows[0]


def test_without_a_server_it_says_so(tmp_path: Path, stack: Stack) -> None:
    run = load(stack, tmp_path, "--host", "http://127.0.0.1:9")
    assert run.returncode == 2
    assert "No server at http://127.0.0.1:9" in run.stderr and "make serve" in run.stderr
