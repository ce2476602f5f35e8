# mypy: ignore-errors
"""Claude Code, not interactive, with all its tools: a question, a picture; its events as JSON
lines."""

import json
import os
import subprocess
import tempfile

from clients.common import BASE, MODEL, STAR, ok


def claude(home: str, *arguments: str, told: str = "") -> str:
    """What it prints; nothing of the user's own settings is read."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "CLAUDE_CONFIG_DIR": home,
        "ANTHROPIC_BASE_URL": BASE,
        "ANTHROPIC_AUTH_TOKEN": "any",
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "4000",
        "IS_SANDBOX": "1",
    }
    done = subprocess.run(
        ["claude", *arguments],
        env=environment,
        cwd=home,
        input=told,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout


with tempfile.TemporaryDirectory() as home:
    number = claude(home, "--version").split()[0]

    source = {"type": "base64", "media_type": "image/png", "data": STAR}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is in it?"}]
    look = {"type": "user", "message": {"role": "user", "content": content}}
    printed = ("--output-format", "stream-json", "--verbose", "--include-partial-messages")
    for arguments, told in (
        (("-p", "Who are you?"), ""),
        (("-p", "--input-format", "stream-json"), json.dumps(look) + "\n"),
    ):
        # The last of the lines is what `--output-format json` prints.
        lines = claude(home, *arguments, *printed, told=told)
        events = [json.loads(line) for line in lines.splitlines()]
        answer = events[-1]
        assert answer["type"] == "result" and not answer["is_error"], answer
        assert answer["usage"]["output_tokens"] > 0, answer
        streamed = [event["event"]["type"] for event in events if event["type"] == "stream_event"]
        assert streamed[0] == "message_start" and streamed[-1] == "message_stop", streamed

ok("claude-code", number=number)
