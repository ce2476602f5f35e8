"""Tools over HTTP: what the model is told of them, and how its calls come back."""

import json
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from unit.frontend.fakes import CHAT, PIXEL, FakeBackend, chat, events, script

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}
TEXT = (
    "<think>hm</think>\nI look.\n<tool_call>weather\n<arg_key>city</arg_key>\n"
    "<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
    "</tool_call>\n<tool_call>weather\n</tool_call>"
)
CALLS = [("weather", {"city": "Paris", "days": 2}), ("weather", {})]


@pytest.fixture(params=[1, 3, 7, 1000])
def calling(request: pytest.FixtureRequest, backend: FakeBackend) -> FakeBackend:
    """A backend whose model calls, in pieces of many sizes."""
    backend.script = script(TEXT, request.param)
    return backend


def test_calls_of_a_whole_answer(client: TestClient, calling: FakeBackend) -> None:
    choice = client.post(CHAT, json=chat(tools=[WEATHER])).json()["choices"][0]
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("I look.", "hm")
    assert choice["finish_reason"] == "tool_calls"
    found = [(c["function"]["name"], json.loads(c["function"]["arguments"]))
             for c in message["tool_calls"]]  # fmt: skip
    assert found == CALLS
    assert {call["type"] for call in message["tool_calls"]} == {"function"}
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert calling.requests[0].tools == [WEATHER]


def test_calls_of_a_stream(client: TestClient, calling: FakeBackend) -> None:
    chunks = events(client.post(CHAT, json=chat(tools=[WEATHER], stream=True)).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(d.get("content", "") for d in deltas) == "I look."
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    calls: list[dict[str, Any]] = []
    for piece in (piece for d in deltas for piece in d.get("tool_calls", [])):
        if "id" in piece:
            assert piece["type"] == "function" and piece["index"] == len(calls)
            calls.append({"name": piece["function"]["name"], "arguments": ""})
        calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == CALLS


def test_nothing_but_calls_has_no_content(client: TestClient, backend: FakeBackend) -> None:
    backend.script = script("<tool_call>weather\n</tool_call>", 5)
    message = client.post(CHAT, json=chat(tools=[WEATHER])).json()["choices"][0]["message"]
    assert message["content"] is None


def test_a_cut_call_is_cut(client: TestClient, backend: FakeBackend) -> None:
    backend.script = script(TEXT[: TEXT.index("Paris") + 2], 4, "length")
    choice = client.post(CHAT, json=chat(tools=[WEATHER])).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city": "Pa'


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": [WEATHER], "tool_choice": "none"}])
def test_without_tools_it_is_text(
    client: TestClient, calling: FakeBackend, fields: dict[str, Any]
) -> None:
    choice = client.post(CHAT, json=chat(**fields)).json()["choices"][0]
    assert choice["message"]["content"] == TEXT.partition("</think>\n")[2]
    assert "tool_calls" not in choice["message"] and choice["finish_reason"] == "stop"
    assert calling.requests[0].tools is None


def test_one_call_where_they_are_not_to_be_parallel(
    client: TestClient, calling: FakeBackend
) -> None:
    body = chat(tools=[WEATHER], parallel_tool_calls=False)
    message = client.post(CHAT, json=body).json()["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1


def test_results_go_back_with_pictures(client: TestClient, calling: FakeBackend) -> None:
    answer = client.post(CHAT, json=chat(tools=[WEATHER])).json()["choices"][0]["message"]
    result = [
        {"type": "text", "text": "A map:"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    body = chat(tools=[WEATHER])
    body["messages"] += [
        answer,
        {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": result},
        {"role": "tool", "tool_call_id": answer["tool_calls"][1]["id"], "content": "rain"},
    ]
    assert client.post(CHAT, json=body).status_code == 200
    sent = calling.requests[1]
    assert sent.messages is not None and len(sent.images) == 1
    assert sent.messages[1]["tool_calls"] == answer["tool_calls"]
    assert sent.messages[2] == {
        "role": "tool", "content": [{"type": "text", "text": "A map:"}, {"type": "image"}]
    }  # fmt: skip
    assert sent.messages[3] == {"role": "tool", "content": "rain"}


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "function"}], "tools[0].function"),
        ([{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
        ([{"type": "function", "function": {"name": "f", "parameters": []}}],
         "tools[0].function.parameters"),
        ([{"type": "function", "function": {"name": "f", "strict": "yes"}}],
         "tools[0].function.strict"),
        ([WEATHER] * 129, "tools"),
    ],
)  # fmt: skip
def test_bad_tools_are_named(client: TestClient, tools: Any, param: str) -> None:
    response = client.post(CHAT, json=chat(tools=tools))
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_the_official_sdk(client: TestClient, calling: FakeBackend) -> None:
    sdk = openai.OpenAI(base_url="http://testserver/v1", api_key="x", http_client=client)
    with sdk.chat.completions.stream(**chat(tools=[WEATHER])) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls is not None
    found = [(c.function.name, json.loads(c.function.arguments))
             for c in choice.message.tool_calls]  # fmt: skip
    assert found == CALLS
