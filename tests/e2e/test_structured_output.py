"""Answers and calls held to a grammar, over the real server and the official SDK.

Each test asks for something that the demo checkpoint would not write by itself. What it does know
is in test_skills.py.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
import requests
from openai.lib import pydantic_function_tool
from pydantic import BaseModel, Field

from e2e.calls import MODEL, chat, content, data_uri, post
from tools.stack import Stack


class Thing(BaseModel):
    """What is in a picture."""

    colour: Literal["red", "green", "blue", "orange"]
    shape: Literal["circle", "square", "star"]
    count: int = Field(ge=0, le=9)


class Paint(BaseModel):
    """Paint something."""

    colour: Literal["red", "orange"]
    size: int | None = Field(ge=1, le=99)


QUESTION, PICTURE = "What is in this image?", "hand-circle-64.png"
MESSAGES: Any = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": data_uri(PICTURE)}},
            {"type": "text", "text": QUESTION},
        ],
    }
]
NO_THOUGHT = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.mark.parametrize("thinking", [True, False])
def test_parse_gives_an_object_of_the_class(sdk: openai.OpenAI, thinking: bool) -> None:
    answer = sdk.chat.completions.parse(
        model=MODEL,
        messages=MESSAGES,
        response_format=Thing,
        temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": thinking}},
    )
    message = answer.choices[0].message
    assert isinstance(message.parsed, Thing)
    assert bool(getattr(message, "reasoning_content", None)) is thinking
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_is_held_to_the_schema_too(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(
        model=MODEL, messages=MESSAGES, response_format=Thing, temperature=1.5, seed=3
    ) as stream:
        for _ in stream:
            pass
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Thing)


def test_several_hot_answers_all_obey(stack: Stack) -> None:
    schema = Thing.model_json_schema() | {"additionalProperties": False}
    body = chat(QUESTION, PICTURE, n=8, temperature=2, seed=1, max_tokens=400, **NO_THOUGHT)
    answer = post(stack, body | {"guided_json": schema}).json()
    texts = [
        choice["message"]["content"]
        for choice in answer["choices"]
        if choice["finish_reason"] == "stop"
    ]
    assert len(texts) >= 4
    for text in texts:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
        ({"structured_outputs": {"choice": ["tea", "coffee"]}}, "tea|coffee"),
        ({"structured_outputs": {"grammar": 'root ::= "<" [a-c]{2,4} ">"'}}, "<[a-c]{2,4}>"),
        ({"response_format": {"type": "json_object"}, "max_tokens": 60}, r"(?s)\{.*"),
    ],
)
def test_other_structures(stack: Stack, fields: dict[str, Any], pattern: str) -> None:
    extras: list[dict[str, Any]] = [{}, {"temperature": 2.0, "seed": 4}, NO_THOUGHT]
    for extra in extras:
        text = content(post(stack, chat("hello", **fields | extra)))
        assert re.fullmatch(pattern, text), text


def test_grammars_reach_direct_clients(stack: Stack) -> None:
    sampling = {"structured_outputs": {"choice": ["tea", "coffee"]}, "temperature": 0}
    body: dict[str, Any] = {"text_input": "hello", "sampling_parameters": json.dumps(sampling)}
    body |= {"exclude_input_in_output": True, "chat_template_kwargs": '{"enable_thinking": false}'}
    url = f"{stack.triton_http_url}/v2/models/generation/generate"
    assert requests.post(url, json=body, timeout=60).json()["text_output"] in ("tea", "coffee")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "bad", "schema": {"type": "nothing"}},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"guided_choice": []}, "guided_choice"),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "parameters": {"properties": {"a": {"$ref": "#/$defs/none"}}},
                        },
                    }
                ],
                "tool_choice": "required",
            },
            "tools[0].function.parameters.a",
        ),
    ],
)
def test_what_cannot_be_enforced_is_named(stack: Stack, fields: dict[str, Any], param: str) -> None:
    response = post(stack, chat("hello", **fields))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_a_required_call_is_made(sdk: openai.OpenAI, thinking: bool, stream: bool) -> None:
    arguments: Any = {
        "model": MODEL,
        "messages": MESSAGES,
        "tools": [pydantic_function_tool(Paint, name="paint")],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 200,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": thinking}},
    }
    if stream:
        with sdk.chat.completions.stream(**arguments) as events:
            for _ in events:
                pass
            choice = events.get_final_completion().choices[0]
    else:
        choice = sdk.chat.completions.parse(**arguments).choices[0]
    (call,) = choice.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Paint)
    assert choice.finish_reason == "tool_calls"


def test_a_named_function_is_the_one_that_is_called(sdk: openai.OpenAI) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": name}} for name in ("open", "close", "get_time")
    ]
    for name in ("open", "get_time"):
        answer = sdk.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hello"}],
            tools=tools,
            tool_choice={"type": "function", "function": {"name": name}},
            temperature=0,
        )
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == (name, {})


def test_a_schema_that_nothing_can_fill_is_refused(stack: Stack) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/endless"}},
        "required": ["a"],
        "$defs": {"endless": {"$ref": "#/$defs/endless"}},
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    response = post(stack, chat("hello", response_format=response_format))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "response_format.json_schema.schema"
