# mypy: ignore-errors
"""curl that asks for HTTP/2 with a body, and for 100-continue: the server answers by HTTP/1.1."""

import json
import subprocess

from clients.common import BASE, MODEL, STAR_URI, ok

picture = {"type": "image_url", "image_url": {"url": STAR_URI}}
text = {"type": "text", "text": "What is in this image?"}
body = {"model": MODEL, "messages": [{"role": "user", "content": [picture, text]}]}


def curl(body: dict, *options: str) -> str:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60"]
    command += [*options, "--json", "@-", f"{BASE}/v1/chat/completions"]
    done = subprocess.run(
        command, input=json.dumps(body), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"curl {options}: {done.returncode} {done.stderr} {done.stdout}"
    return done.stdout


for options in (
    ["--http2"],
    ["--http1.0"],
    ["--http1.1", "--header", "Expect: 100-continue"],
    ["--http1.1", "--header", "Transfer-Encoding: chunked"],
    ["--http1.1", "--compressed"],
):
    answer = json.loads(curl(body, *options))
    assert "star" in answer["choices"][0]["message"]["content"], answer
    stream = curl(body | {"stream": True}, "--no-buffer", *options)
    assert stream.endswith("data: [DONE]\n\n"), stream

number = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
ok("curl", number=number.split()[1])
