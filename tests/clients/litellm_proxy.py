# mypy: ignore-errors
"""LiteLLM's proxy in front of this server: OpenAI's and Anthropic's SDK ask the proxy."""

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import anthropic
import openai

from clients.common import BASE, KEY, MODEL, QUESTION, RESULT, SCHEMA, STAR_URI, TOOL, ok

PROXY_KEY = "sk-0123456789abcdef0123456789abcdef"
CONFIG = f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: {BASE}/v1
      api_key: {KEY}
  - model_name: by-messages
    litellm_params:
      model: anthropic/{MODEL}
      api_base: {BASE}
      api_key: {KEY}
litellm_settings:
  num_retries: 0
general_settings:
  master_key: {PROXY_KEY}
"""


def started(url: str, process: subprocess.Popen) -> bool:
    assert process.poll() is None, "the proxy has ended"
    try:
        with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def check(url: str) -> None:
    """Chats, responses and messages through the proxy."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=PROXY_KEY, max_retries=0)
    messages = [{"role": "user", "content": QUESTION}]
    for model in (MODEL, "by-messages"):
        ask = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 300}
        message = client.chat.completions.create(**ask, tools=[TOOL]).choices[0].message
        call = message.tool_calls[0]
        assert json.loads(call.function.arguments) == {"city": "Paris"}, message
        history = [
            *messages,
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": RESULT},
        ]
        answer = client.chat.completions.create(**ask | {"messages": history}, tools=[TOOL])
        assert RESULT in answer.choices[0].message.content, answer
        chunks = list(client.chat.completions.create(**ask, stream=True))
        assert any(c.choices and c.choices[0].finish_reason == "stop" for c in chunks), chunks
    content = [
        {"type": "image_url", "image_url": {"url": STAR_URI}},
        {"type": "text", "text": "What is in this image?"},
    ]
    looked = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    assert "star" in client.chat.completions.create(**looked).choices[0].message.content

    response = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert response.status == "completed", response
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        assert [event.type for event in stream][-1] == "response.completed"

    claude = anthropic.Anthropic(base_url=url, api_key=PROXY_KEY, max_retries=0)
    tool = {"name": "get_weather", "description": "Tell the weather.", "input_schema": SCHEMA}
    for model in (MODEL, "by-messages"):
        asked = {"model": model, "max_tokens": 300, "messages": messages}
        message = claude.messages.create(**asked, tools=[tool])
        assert message.content[-1].input == {"city": "Paris"}, message
        with claude.messages.stream(**asked) as stream:
            assert stream.get_final_message().stop_reason == "end_turn"
    try:
        client.chat.completions.create(model=MODEL, messages=messages, temperature=9)
        raise AssertionError("temperature 9 was accepted")
    except openai.BadRequestError as error:
        assert "temperature" in str(error), error


with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
    free.close()
    (Path(folder) / "config.yaml").write_text(CONFIG)
    process = subprocess.Popen(
        [
            *("venv/bin/litellm", "--config", f"{folder}/config.yaml"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        stdin=subprocess.DEVNULL,
    )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while not started(url, process):
            assert time.monotonic() < deadline, "the proxy does not start"
            time.sleep(0.5)
        check(url)
    finally:
        process.terminate()
        process.wait(30)

ok("litellm-proxy", "litellm")
