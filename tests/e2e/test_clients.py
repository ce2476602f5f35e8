"""The real clients of ``tests/clients`` whose packages the tests have; `make test-clients` runs
all of them."""

import os
import subprocess
import sys

import pytest

from tools.stack import ROOT, Stack

# Those whose packages the tests need anyway, or that are small.
CLIENTS = ("openai", "anthropic", "open_responses", "locust", "curl", "http10")


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_works(stack: Stack, name: str) -> None:
    star = ROOT / "client" / "examples" / "pictures" / "star.png"
    environment = os.environ | {"BASE": stack.base_url, "STAR": str(star), "PYTHONPATH": "tests"}
    ran = subprocess.run(
        [sys.executable, "-m", f"clients.{name}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    assert ran.stdout.splitlines()[-1].endswith(": ok")
