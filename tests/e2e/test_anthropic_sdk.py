"""The official Anthropic client against the real stack."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel

from e2e.calls import MODEL, chat, content, data_uri, post
from tools.stack import Stack

QUESTION = "What is in this image?"
GREEDY = {"temperature": 0}  # the client has no argument for it
THINKING: Any = {"type": "enabled", "budget_tokens": 200}
LOOK: Any = {
    "name": "look",
    "description": "A picture of a place.",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"enum": ["here", "there"]}},
        "required": ["place"],
    },
}


class Thing(BaseModel):
    """What is in a picture."""

    colour: Literal["red", "green", "blue"]
    shape: Literal["circle", "square", "star"]


def image(name: str) -> Any:
    head, _, data = data_uri(name).partition(";base64,")
    source = {"type": "base64", "media_type": head.removeprefix("data:"), "data": data}
    return {"type": "image", "source": source}


def ask(*pictures: str, question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    """Arguments for one greedy question about pictures."""
    parts = [*map(image, pictures), {"type": "text", "text": question}]
    turn = {"role": "user", "content": parts}
    return {
        "model": MODEL,
        "max_tokens": 300,
        "messages": [turn],
        "extra_body": GREEDY,
        **fields,
    }


def text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.fixture
def sdk(stack: Stack) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=stack.base_url, api_key="none", max_retries=0) as sdk:
        yield sdk


def test_a_message_is_what_a_chat_says(stack: Stack, sdk: anthropic.Anthropic) -> None:
    message = sdk.messages.create(**ask("photo-square.jpg", system="Be brief."))
    assert [block.type for block in message.content] == ["text"]
    assert text(message) == "A red square."
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message._request_id is not None

    beta = sdk.beta.messages.create(**ask("photo-square.jpg", betas=["x-2026-01-01"]))
    assert text(beta) == text(message)

    body = chat(QUESTION, "photo-square.jpg", reasoning_effort="none")
    body["messages"].insert(0, {"role": "system", "content": "Be brief."})
    answer = post(stack, body)
    assert content(answer) == text(message)
    used, expected = message.usage, answer.json()["usage"]
    read = used.cache_read_input_tokens
    assert read is not None
    assert used.input_tokens + read == expected["prompt_tokens"]
    assert used.output_tokens == expected["completion_tokens"]


@pytest.mark.parametrize("thinking", [THINKING, {"type": "adaptive"}, {"type": "disabled"}])
def test_a_stream_is_the_whole_in_pieces(sdk: anthropic.Anthropic, thinking: Any) -> None:
    arguments = ask("plot-three.jpg", thinking=thinking)
    whole = sdk.messages.create(**arguments)
    with sdk.messages.stream(**arguments) as stream:
        names = [event.type for event in stream]
        streamed = stream.get_final_message()
    blocks = [block.to_dict() for block in whole.content]
    assert [block.to_dict() for block in streamed.content] == blocks
    thinks = thinking["type"] != "disabled"
    assert [block["type"] for block in blocks] == ["thinking"] * thinks + ["text"]
    assert streamed.stop_reason == whole.stop_reason == "end_turn"
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert names[0] == "message_start" and names[-1] == "message_stop"
    details = whole.usage.output_tokens_details
    assert details is not None and (details.thinking_tokens > 0) is thinks


@pytest.mark.parametrize("thinking", [THINKING, {"type": "disabled"}])
def test_tokens_are_counted_as_they_are_used(sdk: anthropic.Anthropic, thinking: Any) -> None:
    arguments = ask("photo-square.jpg", system="Be brief.", tools=[LOOK], thinking=thinking)
    used = sdk.messages.create(**arguments).usage
    del arguments["max_tokens"], arguments["extra_body"]
    counted = sdk.messages.count_tokens(**arguments).input_tokens
    assert counted == used.input_tokens + (used.cache_read_input_tokens or 0) > 50


def test_an_answer_goes_on_with_what_is_given(sdk: anthropic.Anthropic) -> None:
    arguments = ask("photo-square.jpg")
    arguments["messages"].append({"role": "assistant", "content": "A red"})
    assert text(sdk.messages.create(**arguments)) == " square."
    use: Any = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
    arguments["messages"][-1]["content"] = [use]
    with pytest.raises(anthropic.BadRequestError) as bad:
        sdk.messages.create(**arguments)
    assert str(bad.value.api_message).startswith("messages[1].content: must end in text")


def test_a_budget_ends_the_thought(sdk: anthropic.Anthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 2}
    message = sdk.messages.create(**ask("plot-42.png", thinking=thinking))
    details = message.usage.output_tokens_details
    assert details is not None and details.thinking_tokens == 4  # with <think> and </think>
    assert text(message) == "The number 42."


@pytest.mark.parametrize("thinking", [THINKING, {"type": "disabled"}])
def test_a_conversation_goes_on(sdk: anthropic.Anthropic, thinking: Any) -> None:
    arguments = ask("plot-circle-square.png", thinking=thinking)
    first = sdk.messages.create(**arguments)
    arguments["messages"] += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "What color is the square?"},
    ]
    second = sdk.messages.create(**arguments)
    assert text(first) == "A red circle and a blue square."
    assert text(second) == "The square is blue."
    assert second.usage.cache_read_input_tokens


def test_why_it_ended(sdk: anthropic.Anthropic) -> None:
    stopped = sdk.messages.create(**ask("photo-square.jpg", stop_sequences=["circle", " square"]))
    assert text(stopped) == "A red"
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " square")
    with sdk.messages.stream(**ask("photo-square.jpg", stop_sequences=[" square"])) as stream:
        assert stream.get_final_message().stop_sequence == " square"
    cut = sdk.messages.create(**ask("photo-square.jpg") | {"max_tokens": 1})
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 1)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "look"}])
def test_a_tool_is_called_and_its_picture_seen(sdk: anthropic.Anthropic, choice: Any) -> None:
    arguments = ask(question="Look at the place.", tools=[LOOK])
    choice |= {"disable_parallel_tool_use": True}
    called = sdk.messages.create(**arguments, tool_choice=choice)
    assert called.stop_reason == "tool_use"
    (use,) = [block for block in called.content if block.type == "tool_use"]
    assert use.name == "look" and use.input["place"] in ("here", "there")
    with sdk.messages.stream(**arguments, tool_choice=choice) as stream:
        streamed = stream.get_final_message().content[-1]
    assert streamed.type == "tool_use" and streamed.input == use.input

    result = {"type": "tool_result", "tool_use_id": use.id, "content": [image("plot-42.png")]}
    arguments["messages"] += [
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    answered = sdk.messages.create(**arguments, tool_choice={"type": "auto"})
    assert answered.stop_reason == "end_turn" and text(answered)
    used = answered.usage.input_tokens + (answered.usage.cache_read_input_tokens or 0)
    assert used > called.usage.input_tokens + 16  # the picture's tokens


def test_an_answer_is_held_to_a_class(sdk: anthropic.Anthropic) -> None:
    arguments = ask("photo-square.jpg")
    parsed = sdk.messages.parse(**arguments, output_format=Thing).parsed_output
    assert isinstance(parsed, Thing)


async def test_many_at_once(stack: Stack) -> None:
    questions = {
        "photo-square.jpg": "A red square.",
        "plot-42.png": "The number 42.",
        "browser-star.png": "A pink star.",
    }
    async with anthropic.AsyncAnthropic(
        base_url=stack.base_url, auth_token="none", max_retries=0
    ) as sdk:

        async def answer(name: str) -> str:
            async with sdk.messages.stream(**ask(name)) as stream:
                return "".join([piece async for piece in stream.text_stream])

        names = [*questions] * 4
        answers = await asyncio.gather(*map(answer, names))
    assert answers == [questions[name] for name in names]


def test_errors_are_the_clients_own_exceptions(sdk: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as bad:
        sdk.messages.create(**ask() | {"max_tokens": 0})
    assert bad.value.type == "invalid_request_error"
    assert str(bad.value.api_message).startswith("max_tokens: ")
    assert bad.value.request_id is not None
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.create(**ask() | {"model": "claude-opus-5-5"})
    broken = image("plot-42.png")
    broken["source"]["data"] = broken["source"]["data"][:400]
    turn: Any = {"role": "user", "content": [{"type": "text", "text": "?"}, broken]}
    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError) as bad:
            sdk.messages.create(model=MODEL, max_tokens=9, messages=[turn], stream=stream)
        assert str(bad.value.api_message).startswith("messages[0].content[1].source.data: ")
    # As clients send fixed large values: what the context leaves.
    assert sdk.messages.create(**ask() | {"max_tokens": 100_000}, timeout=60).content
