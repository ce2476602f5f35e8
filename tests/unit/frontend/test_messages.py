"""``POST /v1/messages``: what is sent to the model, what comes back, and in which order."""

import base64
import json
import re
from typing import Any

import anthropic
import httpx2
import pytest
from starlette.testclient import TestClient

from glm_client import InvalidRequestError
from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import (
    ANSWER,
    COUNT_TOKENS,
    MESSAGES,
    MODEL,
    PIXEL,
    FakeBackend,
    delta,
    sampled,
    script,
)

DATA = PIXEL.partition(",")[2]
PIXEL_BYTES = base64.b64decode(DATA)
TEXT = {"type": "text", "text": "What is this?"}
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": DATA},
}
CACHED = {"cache_control": {"type": "ephemeral"}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
}
WEATHER = {"name": "weather", "description": "The weather somewhere.", "input_schema": SCHEMA}
CALLING = (
    "<think>hm</think>\nI look.\n<tool_call>weather\n<arg_key>city</arg_key>\n"
    "<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
    "</tool_call>\nAnd here.\n<tool_call>weather\n</tool_call>"
)
# The line break before a call is the template's; all other space is the text's.
TEXT_BESIDE_CALLS = ["I look.", "\nAnd here."]
USAGE = {
    "input_tokens": 14,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 16,
    "output_tokens": 4,
    "output_tokens_details": {"thinking_tokens": 2},
}


def ask(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    """A request with one turn of the user."""
    turn = {"role": "user", "content": content}
    return {"model": MODEL, "max_tokens": 64, "messages": [turn], **fields}


def use(id: str = "call_1", **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "weather", "input": input}


def result(id: str = "call_1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, **fields}


def called(*uses: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """A request with a question, the model's calls, and their results."""
    body = ask("Weather?", tools=[WEATHER])
    body["messages"] += [
        {"role": "assistant", "content": list(uses)},
        {"role": "user", "content": results},
    ]
    return body


def post(client: TestClient, body: dict[str, Any]) -> Any:
    response = client.post(MESSAGES, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, body: dict[str, Any]) -> str:
    """The message of a 400."""
    response = client.post(MESSAGES, json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    return str(response.json()["error"]["message"])


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, parsed; each has its type as its name."""
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    found = []
    for block in blocks:
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


# What is sent to the model.


def test_pictures_anywhere_in_order(client: TestClient, backend: FakeBackend) -> None:
    jpeg = {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"}
    other = {"type": "image", "source": jpeg} | CACHED
    body = ask(system=[{"type": "text", "text": "Be brief."} | CACHED]) | CACHED | {
        "messages": [
            {"role": "user", "content": [TEXT, IMAGE, TEXT | CACHED, other]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "A dot.", "citations": None},
                ],
            },
            {"role": "system", "content": "Hurry."},
            {"role": "user", "content": [other]},
            {"role": "assistant", "content": "Red."},
            {"role": "user", "content": "Why?"},
        ]
    }  # fmt: skip
    post(client, body)
    (request,) = backend.requests
    image = {"type": "image"}
    assert request.messages == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [TEXT, image, TEXT, image]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "A dot."}],
            "reasoning_content": "hm",
        },
        {"role": "system", "content": "Hurry."},
        {"role": "user", "content": [image]},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "Why?"},
    ]
    assert request.images == [PIXEL_BYTES, b"\xff\xd8\xff", b"\xff\xd8\xff"]


def test_the_answer_goes_on_with_a_begun_turn(client: TestClient, backend: FakeBackend) -> None:
    body = ask()
    body["messages"].append({"role": "assistant", "content": "It is"})
    backend.script = script("\n<think> it over.", 5)
    assert post(client, body)["content"] == [{"type": "text", "text": "\n<think> it over."}]
    (request,) = backend.requests
    assert request.chat_template_kwargs == {
        "enable_thinking": False,
        "continue_final_message": True,
    }


def test_tokens_are_counted(client: TestClient, backend: FakeBackend) -> None:
    body = called(use(), results=[result(content=[IMAGE])])
    body |= {"system": "Be brief.", "thinking": {"type": "enabled", "budget_tokens": 9}}
    post(client, body)
    del body["max_tokens"]
    response = client.post(COUNT_TOKENS, json=body)
    assert (response.status_code, response.json()) == (200, {"input_tokens": 3})
    asked, counted = backend.requests
    assert (counted.messages, counted.images) == (asked.messages, asked.images)
    assert (counted.tools, counted.chat_template_kwargs) == (
        asked.tools,
        asked.chat_template_kwargs,
    )


def test_the_system_prompt_comes_first(client: TestClient, backend: FakeBackend) -> None:
    post(client, ask(system="Be brief."))
    post(client, ask(system=""))
    assert [request.messages for request in backend.requests] == [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": "hi"}],
    ]


def test_sampling(client: TestClient, backend: FakeBackend) -> None:
    body = ask(temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["\n", "x"])
    post(client, body | {"metadata": {"user_id": "me"}, "output_config": {"effort": "max"}})
    assert sampled(backend) == {
        "max_tokens": 64,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "stop": ["\n", "x"],
    }


@pytest.mark.parametrize(
    ("thinking", "enabled", "budget"),
    [
        (None, False, None),
        ({"type": "disabled"}, False, None),
        ({"type": "adaptive", "display": "summarized"}, True, None),
        ({"type": "enabled", "budget_tokens": 63}, True, 63),
    ],
)
def test_the_model_thinks_only_when_it_is_asked_to(
    client: TestClient, backend: FakeBackend, thinking: Any, enabled: bool, budget: int | None
) -> None:
    post(client, ask(thinking=thinking))
    (request,) = backend.requests
    assert request.chat_template_kwargs == {"enable_thinking": enabled}
    assert request.sampling_parameters.get("thinking_token_budget") == budget


def test_tools_are_what_a_chats_are(client: TestClient, backend: FakeBackend) -> None:
    plain = {"type": "custom", "name": "plain", "input_schema": {}, "strict": False} | CACHED
    post(client, ask(tools=[WEATHER, plain]))
    assert backend.requests[0].tools == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather somewhere.",
                "parameters": SCHEMA,
            },
        },
        {"type": "function", "function": {"name": "plain", "parameters": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, {}),
        ({"type": "auto"}, {}),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"parallel_tool_calls": False}),
        ({"type": "any"}, {"tool_choice": "required"}),
        (
            {"type": "tool", "name": "weather"},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
    ],
)
def test_the_choice_of_tools(
    client: TestClient, backend: FakeBackend, choice: Any, sent: dict[str, Any]
) -> None:
    post(client, ask(tools=[WEATHER | {"strict": True}], tool_choice=choice))
    (request,) = backend.requests
    assert sampled(backend) == {"max_tokens": 64} | sent
    assert request.tools is not None and request.tools[0]["function"]["strict"]


def test_a_schema_for_the_answer(client: TestClient, backend: FakeBackend) -> None:
    wanted = {"type": "json_schema", "schema": SCHEMA}
    post(client, ask(output_config={"format": wanted, "effort": "low"}))
    sampling = sampled(backend)
    assert sampling == {"max_tokens": 64, "structured_outputs": {"json": SCHEMA}}


def test_the_model_is_not_told_of_tools_that_it_must_not_call(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = script(CALLING, 1000)
    answer = post(client, ask(tools=[WEATHER], tool_choice={"type": "none"}))
    assert backend.requests[0].tools is None
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]


def test_results_go_back_in_the_order_of_the_calls(
    client: TestClient, backend: FakeBackend
) -> None:
    body = called(
        {"type": "text", "text": "I look."},
        use("a", city="Paris"),
        use("b"),
        use("c") | {"caller": {"type": "direct"}},
        results=[
            result("c", content=[IMAGE], is_error=True),
            result("b", content="no net", is_error=True) | CACHED,
            result("a", content=[TEXT, IMAGE]),
            TEXT,
        ],
    )
    post(client, body)
    (request,) = backend.requests
    assert request.messages is not None
    _, turn, *others = request.messages
    assert turn["content"] == [{"type": "text", "text": "I look."}]
    assert turn["tool_calls"][0] == {
        "id": "a",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
    }
    assert [call["function"]["arguments"] for call in turn["tool_calls"][1:]] == ["{}", "{}"]
    mark, image = {"type": "text", "text": "Error: "}, {"type": "image"}
    assert others == [
        {"role": "tool", "content": [TEXT, image]},
        {"role": "tool", "content": "Error: no net"},
        {"role": "tool", "content": [mark, image]},
        {"role": "user", "content": [TEXT]},
    ]


def test_a_result_may_be_empty(client: TestClient, backend: FakeBackend) -> None:
    post(client, called(use(), results=[result()]))
    assert backend.requests[0].messages is not None
    assert backend.requests[0].messages[2:] == [{"role": "tool", "content": ""}]


def test_an_answer_can_be_sent_back(client: TestClient, backend: FakeBackend) -> None:
    backend.script = script(CALLING, 1000)
    answer = post(client, ask(tools=[WEATHER]))
    body = ask(tools=[WEATHER])
    calls = [block for block in answer["content"] if block["type"] == "tool_use"]
    body["messages"] += [
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": [result(call["id"], content="rain") for call in calls]},
    ]
    post(client, body)
    assert backend.requests[1].messages is not None
    _, turn, *results = backend.requests[1].messages
    assert turn["reasoning_content"] == "hm"
    assert [json.loads(c["function"]["arguments"]) for c in turn["tool_calls"]] == [
        {"city": "Paris", "days": 2},
        {},
    ]
    assert results == [{"role": "tool", "content": "rain"}] * 2


# What comes back.


def test_the_shape_of_an_answer(client: TestClient) -> None:
    answer = post(client, ask([TEXT, IMAGE], thinking={"type": "adaptive"}))
    assert re.fullmatch(r"msg_\w+", answer.pop("id"))
    assert answer["content"][0].pop("signature")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [
            {"type": "thinking", "thinking": "a thought"},
            {"type": "text", "text": "A red circle."},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }


def test_the_order_of_a_stream(client: TestClient) -> None:
    response = client.post(MESSAGES, json=ask(stream=True))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    start, *others = events(response.text)
    assert re.fullmatch(r"msg_\w+", start["message"].pop("id"))
    first = {"output_tokens": 1, "output_tokens_details": {"thinking_tokens": 1}}
    assert start == {
        "type": "message_start",
        "message": {
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": USAGE | first,
        },
    }
    whole = post(client, ask())
    thought = {"type": "thinking", "thinking": "", "signature": ""}
    signature = whole["content"][0]["signature"]

    def piece(index: int, **delta: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": delta}

    assert others == [
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": thought},
        piece(0, type="thinking_delta", thinking="a "),
        piece(0, type="thinking_delta", thinking="thought"),
        piece(0, type="signature_delta", signature=signature),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "text", "text": ""},
        },
        piece(1, type="text_delta", text="A red"),
        piece(1, type="text_delta", text=" circle."),
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": USAGE,
        },
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("last", "stop_reason", "stop_sequence"),
    [
        ({"finish_reason": "length"}, "max_tokens", None),
        ({"finish_reason": "stop", "stop_reason": "###"}, "stop_sequence", "###"),
        ({"finish_reason": "stop", "stop_reason": 7}, "end_turn", None),
    ],
)
def test_why_it_ended(
    client: TestClient,
    backend: FakeBackend,
    stream: bool,
    last: dict[str, Any],
    stop_reason: str,
    stop_sequence: str | None,
) -> None:
    backend.script = [delta("", num_input_tokens=9, **last)]
    response = client.post(MESSAGES, json=ask(stream=stream))
    answer = events(response.text)[-2]["delta"] if stream else response.json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == (stop_reason, stop_sequence)


def test_calls(client: TestClient, backend: FakeBackend) -> None:
    backend.script = script(CALLING, 1000)
    answer = post(client, ask(tools=[WEATHER]))
    assert answer["stop_reason"] == "tool_use"
    thought, *blocks = answer["content"]
    assert thought["thinking"] == "hm"
    assert [block["type"] for block in blocks] == ["text", "tool_use", "text", "tool_use"]
    assert [block["text"] for block in blocks[::2]] == TEXT_BESIDE_CALLS
    assert [(call["name"], call["input"]) for call in blocks[1::2]] == [
        ("weather", {"city": "Paris", "days": 2}),
        ("weather", {}),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 40, 1000])
def test_calls_of_a_stream(client: TestClient, backend: FakeBackend, size: int) -> None:
    backend.script = script(CALLING, size)
    found = events(client.post(MESSAGES, json=ask(tools=[WEATHER], stream=True)).text)
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in found[2:-2]:
        match event["type"]:
            case "content_block_start":
                assert not is_open and event["index"] == len(blocks)
                blocks.append(event["content_block"] | {"pieces": ""})
                is_open = True
            case "content_block_delta":
                assert is_open and event["index"] == len(blocks) - 1
                kind, piece = event["delta"].values()
                blocks[-1]["pieces"] += "" if kind == "signature_delta" else piece
            case "content_block_stop":
                assert is_open and event["index"] == len(blocks) - 1
                is_open = False
    assert not is_open
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    texts = [block["pieces"] for block in blocks if block["type"] == "text"]
    assert texts == TEXT_BESIDE_CALLS
    calls = [block for block in blocks if block["type"] == "tool_use"]
    assert [call["input"] for call in calls] == [{}, {}]
    assert [json.loads(call["pieces"]) for call in calls] == [{"city": "Paris", "days": 2}, {}]
    assert len({call["id"] for call in calls}) == 2


def test_of_several_calls_only_the_first(client: TestClient, backend: FakeBackend) -> None:
    backend.script = script(CALLING, 7)
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    answer = post(client, ask(tools=[WEATHER], tool_choice=choice))
    kinds = [block["type"] for block in answer["content"]]
    assert kinds == ["thinking", "text", "tool_use", "text"]


@pytest.mark.parametrize(
    ("end", "input"),
    [
        ("weather\n", {}),
        ("Par", {}),
        ("Paris</arg_value>\n<arg_key>days</arg_key>", {"city": "Paris"}),
    ],
)
def test_of_a_cut_call_there_is_what_is_complete(
    client: TestClient, backend: FakeBackend, end: str, input: dict[str, Any]
) -> None:
    backend.script = script(CALLING[: CALLING.index(end) + len(end)], 4, "length")
    answer = post(client, ask(tools=[WEATHER]))
    assert answer["stop_reason"] == "max_tokens"
    assert answer["content"][-1]["input"] == input


# What is refused.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: must be greater than or equal to 1, not 0"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "tool", "content": ""}]},
         "messages[0].role: must be 'user', 'assistant' or 'system', not \"tool\""),
        ({"messages": [{"role": "user"}]}, "messages[0].content: is required"),
        ({"messages": [{"role": "user", "content": 1}]},
         "messages[0].content: must be a string or a list of blocks"),
        ({"temperature": 2.5}, "temperature: must be less than or equal to 2, not 2.5"),
        ({"top_k": -2}, "top_k: "),
        ({"system": [IMAGE]}, "system[0].type: "),
        ({"thinking": {"type": "enabled", "budget_tokens": 64}},
         "thinking.budget_tokens: must be less than max_tokens"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type: "),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema: is required"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name: "),
        ({"tools": [WEATHER] * 129}, "tools: "),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name: is required"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: needs tools"),
        ({"tool_choice": {"type": "tool", "name": "f"}, "tools": [WEATHER]},
         "tool_choice.name: there is no f in tools"),
        ({"tool_choice": "auto"}, "tool_choice: "),
        ({"output_config": {"format": {"type": "json_schema"}}},
         "output_config.format.schema: is required"),
        ({"mcp_servers": [{}]}, "mcp_servers: is not supported by this server"),
        ({"n": 2}, "n: is not supported by this server"),
    ],
)  # fmt: skip
def test_bad_fields_are_named(client: TestClient, fields: dict[str, Any], message: str) -> None:
    assert refused(client, ask() | fields).startswith(message)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "document", "source": {}},
         "messages[0].content[1].type: must be 'text', 'image' or 'tool_result', not \"document\""),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}},
         "messages[0].content[1].source.type: must be 'base64' or 'url', not \"file\""),
        ({"type": "image", "source": IMAGE["source"] | {"data": "a!"}},  # type: ignore[operator]
         "messages[0].content[1].source.data: invalid base64 (Only base64 data is "
         "allowed)"),
        ({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}},
         "messages[0].content[1].source.url: file: URLs are not accepted"),
        ({"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/a.png"}},
         "messages[0].content[1].source.url: the host 127.0.0.1 is not on the public internet"),
    ],
)  # fmt: skip
def test_bad_blocks_are_named(client: TestClient, block: dict[str, Any], message: str) -> None:
    assert refused(client, ask([TEXT, block])).startswith(message)


def test_a_result_needs_its_call(client: TestClient) -> None:
    message = refused(client, called(use("a"), results=[result("a"), result("b")]))
    assert message.startswith("messages[2].content[1].tool_use_id: there is no call")
    body = called(use("a"), results=[result("a")])
    body["messages"][2:2] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "A"},
    ]
    # Late is no reason to block the conversation.
    assert client.post(MESSAGES, json=body).status_code == 200


@pytest.mark.parametrize(
    ("wire", "param"),
    [
        ("sampling_parameters.temperature", "temperature"),
        ("sampling_parameters.stop[0]", "stop_sequences[0]"),
        ("sampling_parameters.thinking_token_budget", "thinking.budget_tokens"),
        ("sampling_parameters.structured_outputs.json", "output_config.format.schema"),
        ("tools[0].function.name", "tools[0].name"),
        ("tools[0].function.parameters.type", "tools[0].input_schema.type"),
        ("messages", "messages"),
        ("messages[0].content[0].text", "system[0].text"),
        ("messages[1].content", "messages[0].content"),
        ("messages[2].role", "messages[1].role"),
        ("messages[3].content[0]", "messages[2].content[1].is_error"),
        ("messages[3].content[1].text", "messages[2].content[1].content[0].text"),
        ("messages[4].content", "messages[2].content[0].content"),
        ("messages[5].content[1].text", "messages[2].content[3].text"),
        ("image[0]", "messages[2].content[1].content[1].source.data"),
        ("image[1]", "messages[2].content[2].source.data"),
    ],
)
def test_wire_names_become_those_of_the_request(
    client: TestClient, backend: FakeBackend, wire: str, param: str
) -> None:
    backend.script = [InvalidRequestError("is wrong", wire)]
    results = [
        result("b", content="ok"),
        result("a", content=[TEXT, IMAGE], is_error=True),
        IMAGE,
        TEXT,
    ]
    body = called(use("a"), use("b"), results=results)
    assert refused(client, body | {"system": [TEXT]}) == f"{param}: is wrong"


async def test_the_official_sdk(backend: FakeBackend) -> None:
    app = create_app(Settings(), backend)
    transport = httpx2.ASGITransport(app)
    backend.script = script(CALLING, 5)
    request: Any = ask([TEXT, IMAGE], tools=[WEATHER])
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport) as http,
        anthropic.AsyncAnthropic(
            base_url="http://test", api_key="-", http_client=http, max_retries=0
        ) as sdk,
    ):
        answer = await sdk.messages.create(**request)
        assert answer.stop_reason == "tool_use"
        assert answer._request_id is not None and answer._request_id.startswith("req-")
        async with sdk.messages.stream(**request) as stream:
            streamed = await stream.get_final_message()
        assert streamed.usage == answer.usage
        calls = [b.input for b in answer.content if b.type == "tool_use"]
        assert calls == [b.input for b in streamed.content if b.type == "tool_use"]
        assert calls == [{"city": "Paris", "days": 2}, {}]

        backend.script = [ANSWER[0], ZeroDivisionError()]
        with pytest.raises(anthropic.APIStatusError) as broken:
            async with sdk.messages.stream(**request) as stream:
                await stream.get_final_message()
        assert broken.value.type == "api_error"
