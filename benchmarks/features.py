"""``make compare-features``: the same requests to this server and to vLLM, one after the other.

Each row is a request and a check of its answer; the checks are the same for both. The checkpoint is
the demo one, so that a check is about the server and not about what a model knows.
"""

import argparse
import json
import re
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jsonschema

from benchmarks.peers.servers import OURS, PEERS, VLLM, running
from tools.load import picture
from tools.report import ROOT, report

CHAT = "/v1/chat/completions"
PICTURE = {"type": "image_url", "image_url": {"url": picture(1)}}
NO_THOUGHT = {"chat_template_kwargs": {"enable_thinking": False}}
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"enum": [0, 1, 2]}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
FORMAT = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }
}
PAINT = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    """A conversation of one user turn, greedy."""
    messages = [{"role": "user", "content": list(parts) or [PICTURE, text("What is this?")]}]
    return {"messages": messages, "temperature": 0, "max_tokens": 60} | fields


def text(words: str) -> dict[str, Any]:
    """A text part."""
    return {"type": "text", "text": words}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: Any

    @property
    def message(self) -> Any:
        """Of the first choice of a chat completion."""
        return self.body["choices"][0]["message"]

    def refuses(self, field: str) -> bool:
        """Whether it is an error of the client's that names the field."""
        return 400 <= self.status < 500 and self.body["error"].get("param") == field


@dataclass(frozen=True)
class Feature:
    """A request, and whether an answer to it is as it should be."""

    name: str
    check: Callable[[Answer], bool]
    body: Any
    path: str = CHAT


def _is_json(answer: Answer) -> bool:
    jsonschema.validate(json.loads(answer.message["content"]), SCHEMA)
    return True


def _calls(answer: Answer) -> bool:
    for call in answer.message["tool_calls"]:
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    return bool(answer.message["tool_calls"])


def _is_clean(answer: Answer) -> bool:
    content = answer.message["content"]
    return bool(content == content.strip() != "")


FEATURES = [
    Feature("a picture in a chat", lambda a: a.status == 200, chat()),
    Feature("content after a thought without a line break before it", _is_clean, chat()),
    Feature(
        "thought in `reasoning_content`",
        lambda a: bool(a.message.get("reasoning_content")),
        chat(),
    ),
    Feature(
        "thought in `reasoning`",
        lambda a: bool(a.message.get("reasoning")),
        chat(),
    ),
    Feature(
        "`thinking_token_budget`",
        lambda a: a.body["usage"]["completion_tokens"] < 60 and bool(a.message["content"]),
        chat(thinking_token_budget=1),
    ),
    Feature(
        "`json_schema`",
        _is_json,
        chat(**FORMAT, **NO_THOUGHT),
    ),
    Feature("`json_schema` after a thought", _is_json, chat(**FORMAT)),
    Feature(
        "`structured_outputs`: choice",
        lambda a: a.message["content"].strip() in ("tea", "coffee"),
        chat(structured_outputs={"choice": ["tea", "coffee"]}),
    ),
    Feature(
        "`guided_choice`, its older name: enforced, or refused",
        lambda a: a.refuses("guided_choice") or a.message["content"].strip() in ("tea", "coffee"),
        chat(guided_choice=["tea", "coffee"]),
    ),
    Feature(
        "`tool_choice: required`: arguments obey the schema",
        _calls,
        chat(tools=[PAINT], tool_choice="required"),
    ),
    Feature(
        "a named function without arguments is called, and the answer ends",
        lambda a: (
            a.body["choices"][0]["finish_reason"] != "length"
            and a.message["tool_calls"][0]["function"]["arguments"] == "{}"
        ),
        chat(tools=[PAINT, CLOCK], tool_choice=CLOCK),
    ),
    Feature(
        "a picture in a tool's result",
        lambda a: a.status == 200,
        {
            "messages": [
                {"role": "user", "content": "Look."},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": [PICTURE]},
            ],
            "max_tokens": 8,
        },
    ),
    Feature(
        "`n: 2` of a greedy answer, with `logprobs`",
        lambda a: len(a.body["choices"]) == 2 and bool(a.body["choices"][1]["logprobs"]["content"]),
        chat(n=2, logprobs=True, top_logprobs=2),
    ),
    Feature(
        "`continue_final_message`",
        lambda a: a.status == 200,
        chat(continue_final_message=True, add_generation_prompt=False, **NO_THOUGHT)
        | {
            "messages": [
                {"role": "user", "content": "Who are you?"},
                {"role": "assistant", "content": "I am"},
            ]
        },
    ),
    Feature(
        "boxes in pixels",
        lambda a: "boxes" in a.message,
        chat(return_boxes=True),
    ),
    Feature(
        "usage: image tokens",
        lambda a: a.body["usage"]["prompt_tokens_details"]["image_tokens"] > 0,
        chat(),
    ),
    Feature(
        "usage: reasoning tokens",
        lambda a: a.body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0,
        chat(),
    ),
    Feature(
        "an unsupported field is refused by name",
        lambda a: a.refuses("use_beam_search"),
        chat(use_beam_search=True),
    ),
    Feature("`store: true` is stored, or refused", lambda a: a.refuses("store"), chat(store=True)),
    Feature(
        "an unknown role is refused by name",
        lambda a: a.refuses("messages[0].role"),
        {"messages": [{"role": "robot", "content": "hi"}]},
    ),
    Feature(
        "a broken picture is refused by name",
        lambda a: a.refuses("messages[0].content[0].image_url.url"),
        chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}),
    ),
    Feature(
        "a schema that cannot be enforced is refused by name",
        lambda a: a.refuses("response_format.json_schema.schema"),
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "bad", "schema": {"type": "nothing"}},
            }
        ),
    ),
    Feature(
        "another model is a 404",
        lambda a: a.status == 404 and a.body["error"]["param"] == "model",
        chat(model="other"),
    ),
    Feature(
        "`/v1/responses`",
        lambda a: {item["type"] for item in a.body["output"]} == {"reasoning", "message"},
        {"input": "Who are you?"},
        "/v1/responses",
    ),
    Feature(
        "`/v1/messages`",
        lambda a: a.body["content"][-1]["type"] == "text",
        {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 60},
        "/v1/messages",
    ),
    Feature(
        "`/v1/completions`",
        lambda a: bool(a.body["choices"][0]["text"]),
        {"prompt": "A red", "max_tokens": 4},
        "/v1/completions",
    ),
    Feature(
        "`/tokenize` of a conversation with a picture",
        lambda a: a.body["count"] > 20,
        {"messages": chat()["messages"]},
        "/tokenize",
    ),
]


class _Asker:
    def __init__(self, url: str, model: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=120, trust_env=False)
        self._model = model

    def ask(self, feature: Feature) -> str:
        body = {"model": self._model, **feature.body}
        response = self._client.post(feature.path, json=body)
        try:
            answer = Answer(response.status_code, response.json())
            return "yes" if feature.check(answer) else "no"
        except (ValueError, LookupError, TypeError, AttributeError, jsonschema.ValidationError):
            return "no"

    def dials_in(self) -> str:
        """Whether a picture's URL can make the server connect to a port of its own machine."""
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            listener.settimeout(2)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/picture.png"
            body = chat({"type": "image_url", "image_url": {"url": url}}, model=self._model)
            with suppress(httpx2.TimeoutException):
                self._client.post(CHAT, json=body, timeout=1)
            try:
                listener.accept()
            except TimeoutError:
                return "yes"
            return "no"

    def forges(self) -> str:
        """Whether ``<|user|>`` in a user's text stays text."""
        (user,) = self._tokens(prompt="<|user|>", add_special_tokens=False)
        forged = self._tokens(messages=chat(text("<|user|>"))["messages"])
        return "yes" if forged.count(user) == 1 else "no"

    def _tokens(self, **body: Any) -> list[int]:
        answer = self._client.post("/tokenize", json={"model": self._model, **body}).json()
        tokens: list[int] = answer["tokens"]
        return tokens

    def docs_stay_inside(self) -> str:
        """Whether the page of /docs loads nothing from other hosts."""
        page = self._client.get("/docs").text
        sources = re.findall(r'(?:src|href)="([^"]+)"', page)
        return "no" if any(source.startswith("http") for source in sources) else "yes"


def main() -> None:
    """Ask both, print the table and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "demo_model" / "checkpoint")
    arguments = parser.parse_args()
    answers: list[dict[str, str]] = []
    logs = Path(tempfile.mkdtemp(prefix="compare-features-"))
    for peer in (OURS, VLLM):
        with running(peer, arguments.checkpoint.resolve(), logs / f"{peer.name}.log") as server:
            asker = _Asker(server.url, server.model)
            found = {feature.name: asker.ask(feature) for feature in FEATURES}
            found["a picture's URL cannot reach into the server's own network"] = asker.dials_in()
            found["`<|user|>` typed by a user stays text"] = asker.forges()
            found["`/docs` loads nothing from other hosts"] = asker.docs_stay_inside()
        answers.append(found)
    version = subprocess.run(
        [PEERS / "vllm/bin/python", "-c", "import vllm; print(vllm.__version__)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()[-1]  # fmt: skip
    ours, theirs = answers
    report(
        ROOT / "benchmarks" / "results" / "features.md",
        "The API beside vLLM's",
        f"vLLM {version} with its glm45 parsers",
        "The same requests to both, with the demo checkpoint; `benchmarks/features.py` has them, "
        "and what counts as yes.\n",
        [
            "| request | ours | vLLM |",
            "|---|---|---|",
            *(f"| {name} | {ours[name]} | {theirs[name]} |" for name in ours),
        ],
    )


if __name__ == "__main__":
    main()
