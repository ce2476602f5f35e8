"""OpenAI's Responses API by the official client, against the real stack."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import pydantic_responses_function_tool
from openai.types.responses import Response
from pydantic import BaseModel

from e2e.calls import MODEL, chat, data_uri
from tools.stack import Stack

QUESTION = "What is in this image?"
LOOK: Any = {
    "type": "function",
    "name": "look",
    "description": "A picture of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    "strict": False,
}


class Thing(BaseModel):
    """What is in a picture."""

    colour: Literal["red", "green", "blue", "orange"]
    shape: Literal["circle", "square", "star"]


class Paint(BaseModel):
    """Paint something."""

    colour: Literal["red", "orange"]
    size: int


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(*pictures: str, question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    """The arguments of a request with one user turn, greedy unless ``fields`` say otherwise."""
    parts = [
        {"type": "input_image", "image_url": data_uri(name), "detail": "auto"} for name in pictures
    ]
    turn = {"role": "user", "content": [*parts, {"type": "input_text", "text": question}]}
    return {"model": MODEL, "input": [turn], "temperature": 0} | fields


def thought(response: Response) -> str:
    """The text of the thought."""
    (item,) = (item for item in response.output if item.type == "reasoning")
    assert item.content is not None
    return "".join(part.text for part in item.content)


def test_a_response(client: openai.OpenAI) -> None:
    response = client.responses.create(**ask("photo-square.jpg"))
    assert response.output_text == "A red square."
    assert response.status == "completed" and response.error is None
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert thought(response)
    usage = response.usage
    assert usage is not None
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 2 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens


def test_a_text_alone_and_instructions(client: openai.OpenAI) -> None:
    plain = client.responses.create(model=MODEL, input="Who are you?", temperature=0)
    told = client.responses.create(
        model=MODEL, input="Who are you?", instructions="Answer in one sentence.", temperature=0
    )
    assert plain.output_text and told.usage is not None and plain.usage is not None
    assert told.usage.input_tokens > plain.usage.input_tokens


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    whole = client.responses.create(**ask("plot-three.jpg"))
    events = list(client.responses.create(**ask("plot-three.jpg"), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[1].type, events[-1].type] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    thoughts = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(texts) == whole.output_text
    assert "".join(thoughts) == thought(whole)
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text
    assert last.response.usage is not None and whole.usage is not None
    assert last.response.usage.total_tokens == whole.usage.total_tokens


def test_the_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(**ask("browser-star.png")) as stream:
        snapshots = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == "A pink star."


def test_items_sent_back_are_the_turn_of_a_chat(client: openai.OpenAI) -> None:
    arguments = ask("photo-circle.jpg")
    first = client.responses.create(**arguments)
    arguments["input"] += [*first.output, {"role": "user", "content": "What colour is it?"}]
    second = client.responses.create(**arguments)
    assert first.usage is not None and second.usage is not None
    # The second prompt begins as the first one did.
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 17

    conversation: Any = chat(QUESTION, "photo-circle.jpg")["messages"]
    conversation += [
        {
            "role": "assistant",
            "content": first.output_text,
            "reasoning_content": thought(first),
        },
        {"role": "user", "content": "What colour is it?"},
    ]
    same = client.chat.completions.create(model=MODEL, messages=conversation, temperature=0)
    assert same.usage is not None
    assert second.output_text == same.choices[0].message.content
    assert second.usage.input_tokens == same.usage.prompt_tokens


def test_dumped_items_can_be_sent_back(client: openai.OpenAI) -> None:
    arguments = ask("photo-circle.jpg")
    items = [item.model_dump() for item in client.responses.create(**arguments).output]
    arguments["input"] += [*items, {"role": "user", "content": "Describe it."}]
    assert client.responses.create(**arguments).status == "completed"


def test_no_effort_is_no_thought(client: openai.OpenAI) -> None:
    response = client.responses.create(**ask("plot-42.png"), reasoning={"effort": "none"})
    assert [item.type for item in response.output] == ["message"]
    assert response.output_text == "The number 42."
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == 0


def test_the_engines_own_fields(client: openai.OpenAI) -> None:
    response = client.responses.create(
        **ask("plot-42.png"), extra_body={"thinking_token_budget": 2, "top_k": 1}
    )
    assert response.output_text == "The number 42."
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == 4  # with <think> and </think>


def test_an_answer_that_is_cut(client: openai.OpenAI) -> None:
    arguments = ask("plot-42.png", max_output_tokens=3, reasoning={"effort": "none"})
    response = client.responses.create(**arguments)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None and response.usage.output_tokens == 3
    last = list(client.responses.create(**arguments, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == response.output_text


@pytest.mark.parametrize("effort", ["none", "low"])
def test_parse_gives_an_object_of_the_class(client: openai.OpenAI, effort: Any) -> None:
    arguments = ask("hand-circle-64.png", reasoning={"effort": effort})
    parsed = client.responses.parse(**arguments, text_format=Thing)
    assert isinstance(parsed.output_parsed, Thing)
    assert ("reasoning" in [item.type for item in parsed.output]) is (effort == "low")
    with client.responses.stream(**arguments, text_format=Thing) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


@pytest.mark.parametrize("streamed", [False, True])
def test_a_required_call_is_made(client: openai.OpenAI, streamed: bool) -> None:
    arguments = ask(
        "hand-circle-64.png",
        tools=[pydantic_responses_function_tool(Paint, name="paint")],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=200,
    )
    if streamed:
        with client.responses.stream(**arguments) as stream:
            events = list(stream)
            response = stream.get_final_response()
        done = [e for e in events if e.type == "response.function_call_arguments.done"]
        assert len(done) == 1
    else:
        response = client.responses.parse(**arguments)
    (call,) = (item for item in response.output if item.type == "function_call")
    assert isinstance(call.parsed_arguments, Paint)

    arguments["input"] += response.output
    arguments["input"] += [
        {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    ]
    answer = client.responses.create(**arguments | {"tool_choice": "auto"})
    assert answer.status == "completed"


def test_a_named_function_is_the_one_that_is_called(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "name": name} for name in ("open", "close", "get_time")]
    for name in ("open", "get_time"):
        response = client.responses.create(
            model=MODEL,
            input="hello",
            tools=tools,
            tool_choice={"type": "function", "name": name},
            temperature=0,
        )
        (call,) = (item for item in response.output if item.type == "function_call")
        assert (call.name, json.loads(call.arguments)) == (name, {})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}},
            "text.format.schema",
        ),
        (
            {
                "tools": [
                    LOOK | {"parameters": {"properties": {"place": {"$ref": "#/$defs/none"}}}}
                ],
                "tool_choice": "required",
            },
            "tools[0].parameters.place",
        ),
    ],
)
def test_what_cannot_be_enforced_is_named(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(**ask(**fields))
    assert bad.value.param == param


def test_results_of_calls_may_hold_pictures(client: openai.OpenAI) -> None:
    arguments = ask(question="What is there?", tools=[LOOK])
    picture = {"type": "input_image", "image_url": data_uri("plot-42.png")}
    arguments["input"] += [
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": '{"place": "x"}'},
        {
            "type": "function_call_output",
            "call_id": "a",
            "output": [{"type": "input_text", "text": "This:"}, picture],
        },
    ]
    response = client.responses.create(**arguments)
    assert response.output_text and response.usage is not None
    details = json.loads(response.usage.input_tokens_details.to_json())
    assert details["image_tokens"] >= 16


def test_the_text_is_told_token_by_token(client: openai.OpenAI) -> None:
    arguments = ask("plot-42.png", include=["message.output_text.logprobs"], top_logprobs=2)
    (message,) = (
        item for item in client.responses.create(**arguments).output if item.type == "message"
    )
    (part,) = message.content
    assert part.type == "output_text" and part.logprobs
    told = b"".join(bytes(token.bytes) for token in part.logprobs).decode()
    assert part.text in told and "</think>" not in told
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
    (done,) = (
        event
        for event in client.responses.create(**arguments, stream=True)
        if event.type == "response.output_text.done"
    )
    assert [token.token for token in done.logprobs] == [token.token for token in part.logprobs]


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(**ask("plot-42.png", max_output_tokens=0))
    assert bad.value.param == "max_output_tokens"
    arguments = ask("plot-42.png")
    arguments["input"][0]["content"][0]["image_url"] = "data:image/png;base64,AAAA"
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(**arguments)
    assert bad.value.param == "input[0].content[0].image_url"
    call = {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{place"}
    assert client.responses.create(**ask(tools=[LOOK], input=[call])).status == "completed"
    result = {"type": "function_call_output", "call_id": "b", "output": "?"}
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(**ask(tools=[LOOK], input=[call, result]))
    assert bad.value.param == "input[1].call_id"
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(**ask(previous_response_id="resp_1"))
    assert bad.value.code == "unsupported_field"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**ask(model="gpt-4o"))
    with pytest.raises(openai.NotFoundError, match="stores none"):
        client.responses.retrieve("resp_1")


async def test_the_async_client(stack: Stack) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0
    ) as client:
        response = await client.responses.create(**ask("hand-triangle.jpg"))
        async with client.responses.stream(**ask("hand-triangle.jpg")) as stream:
            final = await stream.get_final_response()
    assert response.output_text == final.output_text == "A blue triangle."
