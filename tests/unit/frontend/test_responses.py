"""``POST /v1/responses``: what is sent to the model, and what comes back, whole and in events."""

import asyncio
import base64
import json
import re
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from glm_client import InvalidRequestError, OverloadedError, TokenLogprob, TokenLogprobs
from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import (
    ANSWER,
    MODEL,
    PIXEL,
    RESPONSES,
    FakeBackend,
    Visitor,
    delta,
    sampled,
)
from waiting import TIMEOUT, until

PIXEL_BYTES = base64.b64decode(PIXEL.partition(",")[2])
IMAGE = {"type": "input_image", "image_url": PIXEL, "detail": "auto"}
TEXT = {"type": "input_text", "text": "What is this?"}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather somewhere.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALLING = [
    delta("<think>hm</think>\nI look.\n", num_reasoning_tokens=3),
    delta("<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Pa"),
    delta("ris</arg_value>\n</tool_call>\n<tool_call>weather\n</tool_call>", finish_reason="stop"),
]
USAGE = {
    "input_tokens": 30,
    "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0, "image_tokens": 25},
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 34,
}
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def ask(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": content, **fields}


def post(client: TestClient, body: dict[str, Any]) -> Any:
    response = client.post(RESPONSES, json=body)
    assert response.status_code == 200, response.text
    Response.model_validate(response.json())
    return response.json()


def stream(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a response, each as OpenAI's client wants it, numbered, under its name."""
    response = client.post(RESPONSES, json=body | {"stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return parsed(response.text)


def parsed(text: str) -> list[dict[str, Any]]:
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    events: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event)
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        events.append(event)
    return events


def sent(backend: FakeBackend) -> Any:
    return backend.requests[-1].messages


def refused(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(RESPONSES, json=body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


# --- the response -------------------------------------------------------------------------------


def test_a_whole_response(client: TestClient) -> None:
    answer = post(client, ask())
    thought, message = answer.pop("output")
    assert re.fullmatch(r"resp_\w+", answer.pop("id"))
    assert 0 <= answer.pop("completed_at") - answer.pop("created_at") < 5
    assert re.fullmatch(r"rs_\w+", thought.pop("id"))
    assert re.fullmatch(r"msg_\w+", message.pop("id"))
    assert thought == {
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "a thought"}],
    }
    assert message == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": "A red circle.", "annotations": [], "logprobs": []}
        ],
    }
    assert answer == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": MODEL,
        "usage": USAGE,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "background": False,
        "store": False,
        "reasoning": {"effort": None, "summary": None},
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "truncation": "disabled",
        "service_tier": "default",
        "prompt_cache_key": None,
        "safety_identifier": None,
        "user": None,
    }


def test_what_was_asked_for_comes_back(client: TestClient) -> None:
    given = {
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "tool_choice": "none",
        "tools": [WEATHER],
        "top_p": 0.9,
        "user": "me",
    }
    answer = post(client, ask(**given, reasoning={"effort": "low", "summary": "auto"}))
    given["tools"] = [WEATHER | {"strict": False}]
    assert {name: answer[name] for name in given} == given
    assert answer["reasoning"] == {"effort": "low", "summary": "auto"}


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_is_cut_is_incomplete(
    client: TestClient, backend: FakeBackend, streamed: bool
) -> None:
    backend.script = [delta("<think>hm</think>A r", finish_reason="length")]
    if streamed:
        events = stream(client, ask())
        assert events[-1]["type"] == "response.incomplete"
        answer = events[-1]["response"]
    else:
        answer = post(client, ask())
    assert answer["status"] == "incomplete" and answer["completed_at"] is None
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in answer["output"]] == ["completed", "incomplete"]
    assert answer["output"][1]["content"][0]["text"] == "A r"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_thought_that_is_cut_is_all_there_is(
    client: TestClient, backend: FakeBackend, streamed: bool
) -> None:
    backend.script = [delta("<think>h"), delta("m", finish_reason="length")]
    answer = stream(client, ask())[-1]["response"] if streamed else post(client, ask())
    (item,) = answer["output"]
    assert (item["type"], item["status"]) == ("reasoning", "incomplete")
    assert item["content"] == [{"type": "reasoning_text", "text": "hm"}]


def test_a_call_that_is_cut_is_cut(client: TestClient, backend: FakeBackend) -> None:
    backend.script = [CALLING[0], delta(CALLING[1].text, finish_reason="length")]
    answer = post(client, ask(tools=[WEATHER]))
    assert answer["status"] == answer["output"][-1]["status"] == "incomplete"
    assert answer["output"][-1]["arguments"] == '{"city": "Pa'


def test_calls_are_items(client: TestClient, backend: FakeBackend) -> None:
    backend.script = CALLING
    answer = post(client, ask(tools=[WEATHER]))
    thought, message, *calls = answer["output"]
    assert thought["content"][0]["text"] == "hm"
    assert message["content"][0]["text"] == "I look."
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
        ("weather", {"city": "Paris"}),
        ("weather", {}),
    ]
    for call in calls:
        assert call["type"] == "function_call" and call["status"] == "completed"
        assert re.fullmatch(r"fc_\w+", call["id"]) and re.fullmatch(r"call_\w+", call["call_id"])
    assert len({call["call_id"] for call in calls}) == 2
    assert backend.requests[0].tools == [
        {"type": "function", "function": {k: v for k, v in WEATHER.items() if k != "type"}}
    ]


MAIL = {
    "type": "namespace",
    "name": "mcp__mail__",
    "description": "Mail.",
    "tools": [
        {"type": "custom", "name": "patch"},
        {"type": "function", "name": "send", "description": "Send.", "defer_loading": True},
    ],
}
SENDING = [
    delta("<tool_call>mcp__mail__send\n</tool_call>\n<tool_call>weather\n</tool_call>"),
    delta("", finish_reason="stop"),
]


def test_functions_of_a_namespace(client: TestClient, backend: FakeBackend) -> None:
    backend.script = SENDING
    request = ask(tools=[WEATHER, MAIL, {"type": "web_search"}])
    answer = client.post(RESPONSES, json=request)
    assert answer.headers["x-glm-ignored-fields"] == "tools[1].tools[0], tools[2]"
    offered = [tool["function"] for tool in backend.requests[0].tools or ()]
    assert [one["name"] for one in offered] == ["weather", "mcp__mail__send"]
    assert offered[1]["description"] == "Send."
    body = answer.json()
    first, second = body["output"]
    assert (first["namespace"], first["name"]) == ("mcp__mail__", "send")
    assert second["name"] == "weather" and "namespace" not in second
    weather, mail = body["tools"]
    assert weather["type"] == "function"
    assert (mail["type"], mail["name"], mail["description"]) == ("namespace", MAIL["name"], "Mail.")
    assert [tool["name"] for tool in mail["tools"]] == ["send"]

    events = stream(client, request)
    items = [event["item"] for event in events if event["type"].startswith("response.output_item")]
    assert [item.get("namespace") for item in items] == [MAIL["name"]] * 2 + [None] * 2

    back = [*body["output"], *(result(item["call_id"], "ok") for item in body["output"])]
    post(client, ask([{"role": "user", "content": "hi"}, *back], tools=[MAIL]))
    calls = sent(backend)[1]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["mcp__mail__send", "weather"]


@pytest.mark.parametrize(
    ("choice", "names", "wire"),
    [
        ({"type": "function", "name": "send"}, ["weather", "mail__send"], "mail__send"),
        ({"type": "function", "name": "mail__send"}, ["weather", "mail__send"], "mail__send"),
        (
            {"type": "allowed_tools", "tools": [{"type": "function", "name": "send"}]},
            ["mail__send"],
            None,
        ),
    ],
)
def test_a_choice_among_functions_of_a_namespace(
    client: TestClient, backend: FakeBackend, choice: Any, names: list[str], wire: str | None
) -> None:
    post(client, ask(tools=[WEATHER, {**MAIL, "name": "mail"}], tool_choice=choice))
    request = backend.requests[0]
    assert [tool["function"]["name"] for tool in request.tools or ()] == names
    chosen = request.sampling_parameters.get("tool_choice")
    assert (chosen and chosen["function"]["name"]) == wire


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "namespace", "tools": []}], "tools[0].name"),
        ([{**MAIL, "name": "a b"}], "tools[0].name"),
        ([{**MAIL, "tools": 3}], "tools[0].tools"),
        ([{**MAIL, "tools": [{"type": "function"}]}], "tools[0].tools[0].name"),
        ([{**MAIL, "tools": [MAIL["tools"][1]] * 100}] * 2, "tools"),
    ],
)
def test_bad_namespaces_are_named(client: TestClient, tools: Any, param: str) -> None:
    assert refused(client, ask(tools=tools))["param"] == param


def test_one_call_where_they_are_not_to_be_parallel(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = CALLING
    answer = post(client, ask(tools=[WEATHER], parallel_tool_calls=False))
    assert [item["type"] for item in answer["output"]] == ["reasoning", "message", "function_call"]


def test_the_model_is_not_told_of_tools_that_it_may_not_call(
    client: TestClient, backend: FakeBackend
) -> None:
    post(client, ask(tools=[WEATHER], tool_choice="none"))
    assert backend.requests[0].tools is None


# --- the stream ---------------------------------------------------------------------------------


def test_the_order_of_a_stream(client: TestClient) -> None:
    events = stream(client, ask())
    thought, message = (e["item"]["id"] for e in events if e["type"].endswith("item.added"))
    in_thought = {"item_id": thought, "output_index": 0, "content_index": 0}
    in_message = {"item_id": message, "output_index": 1, "content_index": 0}
    reasoning = {"type": "reasoning_text", "text": "a thought"}
    text = {"type": "output_text", "text": "A red circle.", "annotations": [], "logprobs": []}
    thought_item = {"type": "reasoning", "id": thought, "summary": []}
    message_item = {"type": "message", "id": message, "role": "assistant"}
    for event in events:
        del event["sequence_number"]
    first, second, *between, last = events
    assert (first.pop("type"), second.pop("type")) == ("response.created", "response.in_progress")
    assert first == second
    assert first["response"]["status"] == "in_progress" and first["response"]["output"] == []
    assert first["response"]["usage"] is None
    assert between == [
        {"type": "response.output_item.added", "output_index": 0,
         "item": thought_item | {"status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **in_thought, "part": reasoning | {"text": ""}},
        {"type": "response.reasoning_text.delta", **in_thought, "delta": "a "},
        {"type": "response.reasoning_text.delta", **in_thought, "delta": "thought"},
        {"type": "response.reasoning_text.done", **in_thought, "text": "a thought"},
        {"type": "response.content_part.done", **in_thought, "part": reasoning},
        {"type": "response.output_item.done", "output_index": 0,
         "item": thought_item | {"status": "completed", "content": [reasoning]}},
        {"type": "response.output_item.added", "output_index": 1,
         "item": message_item | {"status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **in_message, "part": text | {"text": ""}},
        {"type": "response.output_text.delta", **in_message, "delta": "A red", "logprobs": []},
        {"type": "response.output_text.delta", **in_message, "delta": " circle.", "logprobs": []},
        {"type": "response.output_text.done", **in_message, "text": "A red circle.",
         "logprobs": []},
        {"type": "response.content_part.done", **in_message, "part": text},
        {"type": "response.output_item.done", "output_index": 1,
         "item": message_item | {"status": "completed", "content": [text]}},
    ]  # fmt: skip
    assert last["type"] == "response.completed"
    assert last["response"]["id"] == first["response"]["id"]
    assert last["response"]["output"] == [between[6]["item"], between[-1]["item"]]
    assert last["response"]["usage"] == USAGE


def test_calls_in_a_stream(client: TestClient, backend: FakeBackend) -> None:
    backend.script = CALLING
    events = stream(client, ask(tools=[WEATHER]))
    added = [e for e in events if e["type"] == "response.output_item.added"]
    assert [e["item"]["type"] for e in added] == [
        "reasoning", "message", "function_call", "function_call"
    ]  # fmt: skip
    assert [e["output_index"] for e in added] == [0, 1, 2, 3]
    assert added[2]["item"]["arguments"] == ""
    pieces = [e for e in events if e["type"] == "response.function_call_arguments.delta"]
    done = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    for index in (2, 3):
        told = "".join(e["delta"] for e in pieces if e["output_index"] == index)
        (whole,) = (e for e in done if e["output_index"] == index)
        assert told == whole["arguments"] == events[-1]["response"]["output"][index]["arguments"]
        assert whole["item_id"] == added[index]["item"]["id"]
    assert json.loads(done[0]["arguments"]) == {"city": "Paris"} and len(pieces) == 3


@pytest.mark.parametrize("size", [1, 5, 20, 1000])
def test_text_between_calls_in_pieces_of_any_size(
    client: TestClient, backend: FakeBackend, size: int
) -> None:
    text = "".join(piece.text for piece in CALLING)
    text = text.replace("</tool_call>\n", "</tool_call>\nAgain.\n")
    backend.script = [
        *(delta(text[at : at + size]) for at in range(0, len(text), size)),
        delta("", finish_reason="stop"),
    ]
    last = stream(client, ask(tools=[WEATHER]))[-1]["response"]
    for output in (last["output"], post(client, ask(tools=[WEATHER]))["output"]):
        calls = [item for item in output if item["type"] == "function_call"]
        assert [json.loads(call["arguments"]) for call in calls] == [{"city": "Paris"}, {}]
        texts = [item["content"][0]["text"] for item in output if item["type"] == "message"]
        assert texts == ["I look.", "\nAgain."]


@pytest.mark.parametrize(
    ("error", "code", "failed"),
    [
        (RuntimeError("secret"), "internal_error", "server_error"),
        (OverloadedError("full"), "overloaded", "rate_limit_exceeded"),
        (InvalidRequestError("is wrong", "messages"), "invalid_value", "invalid_prompt"),
    ],
)
def test_an_error_in_a_stream(
    client: TestClient, backend: FakeBackend, error: Exception, code: str, failed: str
) -> None:
    backend.script = [*ANSWER[:3], error]
    *_, told, last = stream(client, ask())
    assert (told["type"], told["code"]) == ("error", code)
    assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": failed, "message": told["message"]}
    thought, message = last["response"]["output"]
    assert (thought["status"], message["status"]) == ("completed", "incomplete")
    assert message["content"][0]["text"] == "A red"
    assert "secret" not in str(last)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_before_the_first_byte_has_its_status(
    client: TestClient, backend: FakeBackend, streamed: bool
) -> None:
    backend.script = [OverloadedError("full")]
    response = client.post(RESPONSES, json=ask(stream=streamed))
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "overloaded"


@pytest.mark.timing
async def test_a_client_that_leaves_ends_its_request(backend: FakeBackend) -> None:
    backend.script = [ANSWER[0], None]
    app = create_app(Settings(), backend)
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, RESPONSES, ask(stream=True))
        visit = asyncio.create_task(visitor.run())
        await until(lambda: len(visitor.messages) >= 3)
        visitor.leave()
        await asyncio.wait_for(visit, TIMEOUT)
    assert backend.cancelled == 1


# --- what the model is told ---------------------------------------------------------------------


def test_a_text_is_a_user_turn_after_the_instructions(
    client: TestClient, backend: FakeBackend
) -> None:
    post(client, ask("Who are you?", instructions="Be brief."))
    assert sent(backend) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who are you?"},
    ]


def test_messages_and_pictures_in_order(client: TestClient, backend: FakeBackend) -> None:
    other = "data:image/jpeg;base64,/9j/"
    post(
        client,
        ask(
            [
                {"role": "developer", "content": "Be brief."},
                {"type": "message", "role": "user", "content": [TEXT, IMAGE]},
                {"role": "assistant", "content": "A dot."},
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": other}, TEXT],
                    "status": "completed",
                },
            ]
        ),
    )
    text, image = {"type": "text", "text": "What is this?"}, {"type": "image"}
    assert sent(backend) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [text, image]},
        {"role": "assistant", "content": "A dot."},
        {"role": "user", "content": [image, text]},
    ]
    assert backend.requests[0].images == [PIXEL_BYTES, b"\xff\xd8\xff"]


def test_low_detail_is_a_limit_of_pixels(client: TestClient, backend: FakeBackend) -> None:
    details: list[Any] = ["low", "high", "original", None]
    post(client, ask([{"role": "user", "content": [IMAGE | {"detail": d} for d in details]}]))
    assert list(backend.requests[0].image_max_pixels) == [512 * 512, 0, 0, 0]


def thought(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
        **fields,
    }


def said(text: str) -> dict[str, Any]:
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }


def called(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": arguments}


def result(call_id: str, output: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def wire_call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def test_items_of_one_answer_are_one_turn(client: TestClient, backend: FakeBackend) -> None:
    post(
        client,
        ask(
            [
                {"role": "user", "content": "hi"},
                thought("hm"),
                said("I look."),
                called("a", '{"city": "Paris"}'),
                called("b"),
                result("a", [{"type": "input_text", "text": "A map:"}, IMAGE]),
                result("b", "rain"),
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
                said("It rains."),
                {"type": "reasoning", "summary": []},
                {"role": "user", "content": "And now?"},
            ]
        ),
    )
    assert sent(backend) == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "content": [{"type": "text", "text": "I look."}],
            "tool_calls": [wire_call("a", '{"city": "Paris"}'), wire_call("b")],
        },
        {"role": "tool", "content": [{"type": "text", "text": "A map:"}, {"type": "image"}]},
        {"role": "tool", "content": "rain"},
        {
            "role": "assistant",
            "reasoning_content": "so",
            "content": [{"type": "text", "text": "It rains."}],
        },
        {"role": "user", "content": "And now?"},
    ]
    assert backend.requests[0].images == [PIXEL_BYTES]


def test_a_turn_begins_where_an_answer_cannot_go_on(
    client: TestClient, backend: FakeBackend
) -> None:
    post(
        client,
        ask(
            [
                called("a"),
                thought("x"),
                thought("y"),
                said("one"),
                said("two"),
                thought("z"),
                called("b"),
                result("b", ""),
                called("c"),
                result("c", ""),
            ]
        ),
    )
    turns = [message for message in sent(backend) if message["role"] == "assistant"]
    one, two = ([{"type": "text", "text": text}] for text in ("one", "two"))
    assert turns == [
        {"role": "assistant", "content": None, "tool_calls": [wire_call("a")]},
        {"role": "assistant", "reasoning_content": "x\ny", "content": one},
        {"role": "assistant", "content": two},
        {
            "role": "assistant",
            "reasoning_content": "z",
            "content": None,
            "tool_calls": [wire_call("b")],
        },
        {"role": "assistant", "content": None, "tool_calls": [wire_call("c")]},
    ]


def test_outputs_are_in_the_order_of_their_calls(client: TestClient, backend: FakeBackend) -> None:
    second = [{"type": "input_image", "image_url": "data:image/jpeg;base64,/9j/"}]
    calls = [called("a"), called("b"), called("c")]
    outputs = [result("c", "3"), result("b", second), result("a", [IMAGE])]
    post(client, ask([*calls, *outputs]))
    contents = [message["content"] for message in sent(backend) if message["role"] == "tool"]
    assert contents == [[{"type": "image"}], [{"type": "image"}], "3"]
    assert backend.requests[0].images == [PIXEL_BYTES, b"\xff\xd8\xff"]


@pytest.mark.parametrize("nulls", [False, True])
def test_the_output_can_be_sent_back(client: TestClient, backend: FakeBackend, nulls: bool) -> None:
    backend.script = CALLING
    output = post(client, ask(tools=[WEATHER]))["output"]
    if nulls:  # as the SDK's model_dump() writes them
        output[0]["encrypted_content"] = output[1]["phase"] = None
        output[2] |= {"async_": None, "caller": None, "namespace": None}
    ids = [item["call_id"] for item in output if item["type"] == "function_call"]
    results = [result(call_id, "rain") for call_id in ids]
    question = {"role": "user", "content": "hi"}
    post(client, ask([question, *output, *results], tools=[WEATHER]))
    assert sent(backend) == [
        question,
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "content": [{"type": "text", "text": "I look."}],
            "tool_calls": [wire_call(ids[0], '{"city": "Paris"}'), wire_call(ids[1])],
        },
        {"role": "tool", "content": "rain"},
        {"role": "tool", "content": "rain"},
    ]


@pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("low", True), ("high", True)])
def test_no_effort_is_no_thought(
    client: TestClient, backend: FakeBackend, effort: str, thinks: bool
) -> None:
    post(client, ask(reasoning={"effort": effort}))
    assert backend.requests[0].chat_template_kwargs == {"enable_thinking": thinks}


def test_sampling_goes_through(client: TestClient, backend: FakeBackend) -> None:
    own = {
        "top_k": 5,
        "min_p": 0.1,
        "seed": 7,
        "repetition_penalty": 1.1,
        "thinking_token_budget": 3,
    }
    post(client, ask(**own, temperature=0.5, top_p=0.9, max_output_tokens=9, metadata={"a": "b"}))
    assert sampled(backend) == {
        **own, "temperature": 0.5, "top_p": 0.9, "max_tokens": 9
    }  # fmt: skip


SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}}
FORMAT = {"type": "json_schema", "name": "x", "description": None, "schema": SCHEMA}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "function", "name": "weather"}},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"structured_outputs": {"json_object": True}},
        ),
        (
            {"text": {"format": {**FORMAT, "strict": False}}},
            {"structured_outputs": {"json": {**SCHEMA, "x-guidance": {"lenient": True}}}},
        ),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    ],
)
def test_what_the_answer_is_held_to(
    client: TestClient, backend: FakeBackend, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    answer = post(client, ask(tools=[WEATHER], **fields))
    assert sampled(backend) == sent
    assert {name: answer[name] for name in fields} == fields


# --- log probabilities --------------------------------------------------------------------------


def tokens(*texts: str) -> tuple[TokenLogprobs, ...]:
    found = []
    for i, text in enumerate(texts):
        chosen = TokenLogprob(token_id=i, text=text, data=text.encode(), logprob=-0.5, rank=2)
        likelier = TokenLogprob(token_id=99, text="?", data=b"?", logprob=-0.1, rank=1)
        found.append(TokenLogprobs(chosen=chosen, top=(likelier, chosen)))
    return tuple(found)


LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}


@pytest.mark.parametrize("streamed", [False, True])
def test_the_tokens_of_the_text_alone_are_told(
    client: TestClient, backend: FakeBackend, streamed: bool
) -> None:
    backend.script = [
        delta("<think>hm", logprobs=tokens("<think>", "hm"), num_reasoning_tokens=2),
        delta("</think>\nI", logprobs=tokens("</think>", "\n", "I"), num_reasoning_tokens=1),
        delta(" look.", logprobs=tokens(" look", ".")),
        delta("<tool_call>weather\n", logprobs=tokens("<tool_call>", "weather", "\n")),
        delta("</tool_call>", logprobs=tokens("</tool_call>"), finish_reason="stop"),
    ]
    body = ask(tools=[WEATHER], **LOGPROBS)
    if streamed:
        events = stream(client, body)
        pieces = [e["logprobs"] for e in events if e["type"] == "response.output_text.delta"]
        assert [[token["token"] for token in piece] for piece in pieces] == [
            ["I"], [" look", "."]
        ]  # fmt: skip
        answer = events[-1]["response"]
    else:
        answer = post(client, body)
    told = answer["output"][1]["content"][0]["logprobs"]
    assert [token["token"] for token in told] == ["I", " look", "."]
    assert told[0] == {
        "token": "I",
        "bytes": [73],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "?", "bytes": [63], "logprob": -0.1},
            {"token": "I", "bytes": [73], "logprob": -0.5},  # the sampled one is always there
        ],
    }
    assert answer["top_logprobs"] == 1
    assert sampled(backend) == {"logprobs": 1}


def test_the_token_that_ends_the_answer_is_not_of_its_text(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = [
        delta("Red", logprobs=tokens("Red")),
        delta("", logprobs=tokens("<|user|>"), finish_reason="stop"),
    ]
    events = stream(client, ask(**LOGPROBS))
    (piece,) = (e for e in events if e["type"] == "response.output_text.delta")
    (done,) = (e for e in events if e["type"] == "response.output_text.done")
    assert [token["token"] for token in piece["logprobs"]] == ["Red"]
    assert [token["token"] for token in done["logprobs"]] == ["Red"]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == done["logprobs"]


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("background", True),
        ("conversation", "conv_1"),
        ("previous_response_id", "resp_1"),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
def test_fields_of_openai_that_are_not_supported(
    client: TestClient, field: str, value: Any
) -> None:
    error = refused(client, ask(**{field: value}))
    assert (error["param"], error["code"]) == (field, "unsupported_field")
    assert error["message"] == f"{field}: is not supported by this server"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("background", False),
        ("include", []),
        ("include", ["reasoning.encrypted_content"]),
        ("prompt_cache_key", "x"),
        ("safety_identifier", "x"),
        ("metadata", None),
        ("previous_response_id", None),
        ("reasoning", {}),
        ("service_tier", "auto"),
        ("store", False),
        ("stream", False),
        ("text", {"format": {"type": "text"}, "verbosity": "medium"}),
        ("tool_choice", "auto"),
        ("tools", []),
        ("truncation", "disabled"),
        ("user", "me"),
    ],
)
def test_fields_that_ask_for_nothing_pass(client: TestClient, field: str, value: Any) -> None:
    post(client, ask(**{field: value}))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"model": None}, "model"),
        ({"instructions": ["x"]}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({**LOGPROBS, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": []}}},
         "text.format.schema"),
        ({"text": {"format": {"type": "json_object"}}, "guided_choice": ["a"]}, "text"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [WEATHER | {"name": "a b"}]}, "tools[0].name"),
        ({"tools": [WEATHER | {"strict": "yes"}]}, "tools[0].strict"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "other"}, "tools": [WEATHER]},
         "tool_choice"),
        ({"tool_choice": {"type": "function"}, "tools": [WEATHER]}, "tool_choice.name"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)  # fmt: skip
def test_bad_values_are_named(client: TestClient, changes: dict[str, Any], param: str) -> None:
    error = refused(client, ask() | changes)
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ("hi", "input[0].type"),
        ({}, "input[0].type"),
        ({"type": "item_reference", "id": "msg_1"}, "input[0]"),
        ({"type": "web_search_call", "role": "user"}, "input[0].type"),
        ({"role": "king", "content": "hi"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": 5}, "input[0].content"),
        ({"role": "user", "content": [TEXT, {"type": "input_file"}]}, "input[0].content[1].type"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        ({"role": "user", "content": [TEXT, {"type": "input_image"}]},
         "input[0].content[1].image_url"),
        ({"role": "user", "content": [{**IMAGE, "file_id": "file_1"}]},
         "input[0].content[0].file_id"),
        (thought("x") | {"content": [{"type": "text"}]}, "input[0].content[0].type"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[0].call_id"),
        (result("a", "rain"), "input[0].call_id"),
        ({"type": "function_call_output", "call_id": "a"}, "input[0].output"),
    ],
)  # fmt: skip
def test_bad_items_are_named(client: TestClient, item: Any, param: str) -> None:
    error = refused(client, ask([item]))
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("wire", "param"),
    [
        ("messages", "input"),
        ("messages[0].content", "instructions"),
        ("messages[1].content[0].text", "input[0].content[0].text"),
        ("messages[1].role", "input[0].role"),
        ("messages[2].reasoning_content", "input[1]"),
        ("messages[2].content[0].text", "input[2].content[0].text"),
        ("messages[2].tool_calls[1].function.arguments", "input[4].arguments"),
        ("messages[3].content[1].text", "input[6].output[1].text"),
        ("messages[4].content", "input[5].output"),
        ("image[0]", "input[0].content[1].image_url"),
        ("image[1]", "input[6].output[0].image_url"),
        ("tools[0].function.parameters", "tools[0].parameters"),
        ("sampling_parameters.max_tokens", "max_output_tokens"),
        ("sampling_parameters.structured_outputs.json", "text.format.schema"),
        ("sampling_parameters.tool_choice", "tool_choice"),
        ("sampling_parameters.temperature", "temperature"),
    ],
)
def test_wire_names_become_those_of_the_request(
    client: TestClient, backend: FakeBackend, wire: str, param: str
) -> None:
    backend.script = [InvalidRequestError("is wrong", wire)]
    items = [
        {"role": "user", "content": [TEXT, IMAGE]},
        thought("hm"),
        said("I look."),
        called("a"),
        called("b"),
        result("b", "rain"),
        result("a", [IMAGE, TEXT]),
    ]
    body = ask(items, instructions="Be brief.", tools=[WEATHER], max_output_tokens=9)
    body["text"] = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    error = refused(client, body)
    assert (error["param"], error["message"]) == (param, f"{param}: is wrong")


def test_another_model_is_not_here(client: TestClient) -> None:
    response = client.post(RESPONSES, json=ask() | {"model": "gpt-4o"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_a_conversation_made_shorter(client: TestClient, backend: FakeBackend) -> None:
    backend.script = [delta("You launch on Tuesday.", num_input_tokens=9, finish_reason="stop")]
    turns = [{"role": "user", "content": "We launch on Tuesday."}, called("a"), result("a", "ok")]
    asked = ask(turns, instructions="Be short.", prompt_cache_key="x")
    answer = client.post(f"{RESPONSES}/compact", json=asked)
    assert answer.status_code == 200 and "x-glm-ignored-fields" not in answer.headers
    compact = answer.json()
    assert (compact["object"], compact["usage"]["input_tokens"]) == ("response.compaction", 9)
    *before, last = sent(backend)
    assert [message["role"] for message in before] == ["system", "user", "assistant", "tool"]
    assert last["role"] == "user" and last["content"].startswith("Summarise")

    post(client, ask([*compact["output"], {"role": "user", "content": "When?"}]))
    summary, question = sent(backend)
    assert summary["role"] == "user" and summary["content"].endswith("You launch on Tuesday.")
    assert question["content"] == "When?"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/compact", {"input": "hi"}, "model"),
        ("/compact", {"model": MODEL}, "input"),
        ("/compact", {"model": MODEL, "input": "x", "previous_response_id": "r"},
         "previous_response_id"),
        ("", ask([{"type": "compaction", "encrypted_content": "glm-summary:?"}]), "input[0]"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_shorter(
    client: TestClient, path: str, body: dict[str, Any], param: str
) -> None:
    response = client.post(f"{RESPONSES}{path}", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == param


def test_a_compaction_of_another_server_is_left_out(client: TestClient) -> None:
    item = {"type": "compaction", "encrypted_content": "gAAAA"}
    answer = client.post(RESPONSES, json=ask([item, {"role": "user", "content": "hi"}]))
    assert answer.headers["x-glm-ignored-fields"] == "input.compaction"


@pytest.mark.parametrize(
    ("path", "status"), [("input_tokens", 405), ("compact", 405), ("other", 404)]
)
def test_what_is_no_response(client: TestClient, path: str, status: int) -> None:
    assert client.get(f"{RESPONSES}/{path}").status_code == status


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_response_is_stored(client: TestClient, method: str) -> None:
    response = client.request(method, f"{RESPONSES}/resp_1")
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")
    assert "'resp_1'" in error["message"] and "stores none" in error["message"]


# --- the official client ------------------------------------------------------------------------


async def test_the_official_sdk(backend: FakeBackend) -> None:
    app = create_app(Settings(), backend)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(
            base_url="http://test/v1", api_key="-", http_client=http, max_retries=0
        ) as sdk,
    ):
        items: Any = [{"role": "user", "content": "hi"}]
        backend.script = CALLING
        async with sdk.responses.stream(model=MODEL, input=items, tools=[WEATHER]) as events:  # type: ignore[list-item]
            final = await events.get_final_response()
        assert final.output_text == "I look."
        calls = [item for item in final.output if item.type == "function_call"]
        assert [json.loads(call.arguments) for call in calls] == [{"city": "Paris"}, {}]

        items += final.output
        items += [result(call.call_id, "rain") for call in calls]
        backend.script = ANSWER
        answer = await sdk.responses.create(model=MODEL, input=items)
        assert answer.output_text == "A red circle."
        assert sent(backend)[1]["tool_calls"][0]["function"]["name"] == "weather"

        backend.script = [ANSWER[0], RuntimeError()]
        seen = [
            event.type
            async for event in await sdk.responses.create(model=MODEL, input="hi", stream=True)
        ]
        assert seen[-2:] == ["error", "response.failed"]
        with pytest.raises(openai.NotFoundError, match="stores none"):
            await sdk.responses.retrieve(answer.id)
        with pytest.raises(openai.NotFoundError, match="stores none"):
            await sdk.responses.delete(answer.id)
