# mypy: ignore-errors
"""Locust's own HTTP user, without the load test of this project: a few chats, none may fail."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from clients.common import BASE, MODEL, ok

USERS = f"""
from locust import HttpUser, task

class Asker(HttpUser):
    @task
    def ask(self):
        body = {{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Who are you?"}}],
                "max_tokens": 16}}
        with self.client.post("/v1/chat/completions", json=body, catch_response=True) as answer:
            if not answer.json()["choices"]:
                answer.failure("no answer")

    @task
    def models(self):
        self.client.get("/v1/models")
"""

with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "users.py").write_text(USERS)
    options = ("--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "8s", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", "users.py", "--host", BASE, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
assert done.returncode == 0, done.stderr
entries = json.loads(done.stdout)
assert {entry["name"] for entry in entries} == {"/v1/chat/completions", "/v1/models"}, entries
for entry in entries:
    assert entry["num_requests"] > 0 and entry["num_failures"] == 0, entry

ok("locust")
