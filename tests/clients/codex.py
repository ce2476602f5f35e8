# mypy: ignore-errors
"""Codex, not interactive, with this server as its model provider: a question, a picture, and a tool
of an MCP server, which Codex offers as a function of a namespace.

No small model would choose that tool, nor come to an end. So a forwarder between the two has the
first request choose it, and the others say that they are done; what Codex makes of it is its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from clients.common import BASE, MODEL, RESULT, ok

TOOL = "forecast"
# The words of a stdio MCP server with one tool.
MCP_SERVER = f"""
import json, sys
SCHEMA = {{"type": "object", "properties": {{}}, "additionalProperties": False}}
TOOL = {{"name": "{TOOL}", "description": "Tell the weather.", "inputSchema": SCHEMA}}
for line in sys.stdin:
    asked = json.loads(line)
    results = {{
        "initialize": {{"protocolVersion": "2025-03-26", "capabilities": {{"tools": {{}}}},
                       "serverInfo": {{"name": "weather", "version": "1"}}}},
        "tools/list": {{"tools": [TOOL]}},
        "tools/call": {{"content": [{{"type": "text", "text": "{RESULT}"}}]}},
    }}
    if "id" in asked:
        result = results.get(asked["method"], {{}})
        print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], "result": result}}), flush=True)
"""


def config(base: str, server: str) -> str:
    return f"""
model = "{MODEL}"
model_provider = "glm"
model_context_window = 131072
approval_policy = "never"

[model_providers.glm]
name = "GLM"
base_url = "{base}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
stream_idle_timeout_ms = 600000

[mcp_servers.weather]
command = "{sys.executable}"
args = ["{server}"]
default_tools_approval_mode = "approve"
"""


class Forwarder(BaseHTTPRequestHandler):
    """Passes everything on, and notes it."""

    bodies: ClassVar[list[dict]] = []
    ignored: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.endswith("/responses"):
            asked = json.loads(body)
            if not self.bodies:
                asked["tool_choice"] = {"type": "function", "name": TOOL}
            else:
                done = {"structured_outputs": {"choice": ["Done."]}, "tool_choice": "none"}
                asked |= done | {"reasoning": {"effort": "none"}}
            self.bodies.append(asked)
            body = json.dumps(asked).encode()
        headers = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
        request = urllib.request.Request(
            BASE + self.path, data=body or None, headers=headers, method=self.command
        )
        try:
            answer = urllib.request.urlopen(request, timeout=600)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.ignored.append(answer.headers.get("x-glm-ignored-fields", ""))
            self.send_response(answer.status)
            self.send_header("content-type", answer.headers.get("content-type", ""))
            self.end_headers()
            while piece := answer.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        pass


def codex(home: str, *arguments: str) -> str:
    done = subprocess.run(
        ["codex", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": home, "CODEX_HOME": home},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout


def turn(home: str, *arguments: str) -> list[dict]:
    """The events of one run, which must end well."""
    options = ("--json", "--skip-git-repo-check", "--sandbox", "read-only")
    lines = codex(home, "exec", *options, *arguments)
    events = [json.loads(line) for line in lines.splitlines()]
    kinds = [event["type"] for event in events]
    assert "error" not in kinds and "turn.failed" not in kinds, events
    assert kinds[-1] == "turn.completed", events
    assert events[-1]["usage"]["output_tokens"] > 0, events[-1]
    return events


with tempfile.TemporaryDirectory() as home:
    server = Path(home) / "weather.py"
    server.write_text(MCP_SERVER)
    forwarder = ThreadingHTTPServer(("127.0.0.1", 0), Forwarder)
    threading.Thread(target=forwarder.serve_forever, daemon=True).start()
    between = f"http://127.0.0.1:{forwarder.server_port}"
    (Path(home) / "config.toml").write_text(config(between, str(server)))
    number = codex(home, "--version").split()[-1]

    events = turn(home, "Who are you?")
    first, second = Forwarder.bodies[:2]
    spaces = [tool for tool in first["tools"] if tool["type"] == "namespace"]
    assert any(one["name"] == TOOL for space in spaces for one in space["tools"]), spaces
    places = [i for i, tool in enumerate(first["tools"]) if tool["type"] == "namespace"]
    named = Forwarder.ignored[-1].split(", ")
    assert not any(f"tools[{place}]" in named for place in places), named
    # Codex found the function by the name and the namespace of the call, and sends both back.
    call = next(item for item in second["input"] if item["type"] == "function_call")
    assert call["name"] == TOOL and call["namespace"], call
    output = next(item for item in second["input"] if item["type"] == "function_call_output")
    assert RESULT in json.dumps(output["output"]), output
    called = [event["item"] for event in events if event["type"] == "item.completed"]
    assert any(item["type"] == "mcp_tool_call" for item in called), called

    turn(home, "What is in this image?", "--image", os.environ["STAR"])
    asked = json.dumps(Forwarder.bodies[-1]["input"])
    assert '"input_image"' in asked and "data:image/" in asked
    forwarder.shutdown()

ok("codex", number=number)
