"""Metrics, rules and dashboard with a real Prometheus. CI installs it; elsewhere it may lack."""

import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e.calls import chat, content, post
from tools.load import picture
from tools.stack import ROOT, Stack, free_ports
from waiting import wait_until

FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
# Triton has its metrics, nv_gpu_*, only where there is a GPU.
GPU_ROW = "GPU"
# It takes a few seconds, until a rate has its second scrape; this long only when it fails.
DATA_TIMEOUT = 120.0

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="there is no Prometheus on this machine"
)


def promtool(*arguments: str, given: str = "") -> None:
    done = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, text=True, cwd=FOLDER
    )
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr


def queries() -> dict[str, list[str]]:
    """Those of the dashboard, by the title of their row."""
    rows: dict[str, list[str]] = {}
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            row = rows.setdefault(panel["title"], [])
        else:
            row.extend(target["expr"] for target in panel["targets"])
    return rows


def test_the_configuration_and_the_rules_are_in_order() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "rules_test.yml")


def test_our_metrics_follow_the_conventions(stack: Stack) -> None:
    assert content(post(stack, chat("Hello")))
    promtool("check", "metrics", given=requests.get(f"{stack.base_url}/metrics", timeout=60).text)
    of_triton = requests.get(f"{stack.metrics_url}/metrics", timeout=60).text.splitlines()
    ours = [line for line in of_triton if " glm_" in line or line.startswith("glm_")]
    assert ours
    promtool("check", "metrics", given="\n".join([*ours, ""]))


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """The URL of one that scrapes the server by our configuration, only more often."""
    config = (FOLDER / "prometheus.yml").read_text()
    for ours, here in (
        ('"frontend:8000"', f'"127.0.0.1:{stack.port}"'),
        ('"triton:8002"', f'"127.0.0.1:{stack.metrics_port}"'),
        ("15s", "1s"),
    ):
        assert ours in config
        config = config.replace(ours, here)
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(FOLDER / "rules.yml", tmp_path)
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}",
             f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: _has_both(url), 120)  # it takes five seconds to begin
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _has_both(url: str) -> bool:
    try:
        if requests.get(f"{url}/-/ready", timeout=60).status_code != 200:
            return False
    except requests.ConnectionError:
        return False
    return len(ask(url, "query", query="up == 1")["result"]) == 2


def ask(prometheus: str, path: str, **parameters: str) -> Any:
    response = requests.get(f"{prometheus}/api/v1/{path}", params=parameters, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["data"]


def without_data(prometheus: str) -> list[str]:
    """Queries of the dashboard, but for the GPU's, that return nothing yet."""
    rows = queries()
    assert all(query.startswith("nv_gpu_") for query in rows.pop(GPU_ROW))
    assert len(rows) == 5 and all(rows.values())
    empty = []
    for query in itertools.chain(*rows.values()):
        found = ask(prometheus, "query", query=query.replace("$__rate_interval", "30s"))["result"]
        if not any(series["value"][1] != "NaN" for series in found):
            empty.append(query)
    return empty


@pytest.mark.timing
def test_every_query_of_the_dashboard_returns_data_under_load(
    stack: Stack, prometheus: str
) -> None:
    """The load goes on until it has been scraped often enough for every rate.

    Each picture is a new one: those that the server has seen are not encoded again.
    """
    seen = threading.Event()

    def load(number: int) -> None:
        for seed in itertools.count(number, 2):
            if seen.is_set():
                break
            asked = chat("What is it?", stream=True)
            image = {"url": picture(seed)}
            asked["messages"][0]["content"].insert(0, {"type": "image_url", "image_url": image})
            assert "[DONE]" in post(stack, asked).text
            assert post(stack, chat("Who are you?", max_tokens=0)).status_code == 400
            unreachable = chat("What is it?")
            part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
            unreachable["messages"][0]["content"].append(part)
            assert post(stack, unreachable).status_code == 400
            left = chat("Hello", stream=True, ignore_eos=True, max_tokens=4000)
            url = f"{stack.base_url}/v1/chat/completions"
            with requests.post(url, json=left, stream=True, timeout=60) as response:
                next(response.iter_lines())

    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load, number) for number in range(2)]
        try:
            deadline = time.monotonic() + DATA_TIMEOUT
            while (empty := without_data(prometheus)) and time.monotonic() < deadline:
                assert not any(load.done() for load in loads), [load.result() for load in loads]
                time.sleep(0.3)
        finally:
            seen.set()
    for one in loads:
        one.result()
    assert empty == []

    targets = ask(prometheus, "targets")["activeTargets"]
    assert {(t["labels"]["job"], t["health"]) for t in targets} == {
        ("glm-frontend", "up"),
        ("glm-triton", "up"),
    }
    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
