"""The page of /docs in a real browser. Runs where Chromium is installed; CI installs it."""

import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tools.stack import Stack

CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_it_shows_every_endpoint_and_asks_no_other_host(stack: Stack, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    page = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--disable-default-apps", f"--user-data-dir={tmp_path / 'profile'}",
         f"--log-net-log={log}", "--virtual-time-budget=10000", "--dump-dom",
         f"{stack.base_url}/docs"],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/tokenize"):
        assert f'data-path="{path}"' in page
    asked = {
        urlsplit(event["params"]["url"]).netloc
        for event in json.loads(log.read_text())["events"]
        if isinstance(event.get("params"), dict)
        and str(event["params"].get("url", "")).startswith(("http://", "https://"))
        and str(event["params"].get("initiator", "")).startswith("http")
    }
    assert asked == {urlsplit(stack.base_url).netloc}
