"""Requests and responses as tensors."""

import json
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor

from glm_client import (
    CallDelta,
    CallStart,
    GenerationDelta,
    GenerationRequest,
    Question,
    TextDelta,
    ThoughtDelta,
    TokenLogprob,
    TokenLogprobs,
)
from glm_client.wire import INPUT_DATATYPES, OUTPUT_DATATYPES, build_call, parse_response
from unit.client.fake_triton import count, result


def inputs(call: dict[str, Any]) -> dict[str, Any]:
    """The values of the call's tensors, as numpy arrays."""
    values = {}
    for tensor in call["inputs"]:
        assert tensor.datatype() == INPUT_DATATYPES[tensor.name()]
        raw = tensor._get_content()
        is_bytes = tensor.datatype() == "BYTES"
        array = deserialize_bytes_tensor(raw) if is_bytes else np.frombuffer(raw, np.bool_)
        assert array.shape == tuple(tensor.shape())
        values[tensor.name()] = array
    return values


def test_a_conversation() -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "是?"}]}]
    request = GenerationRequest(
        messages=messages,
        images=[b"\x89PNG\x00", b""],
        videos=[b"\x00ftyp"],
        tools=[{"type": "function"}],
        chat_template_kwargs={"enable_thinking": False},
        sampling_parameters={"max_tokens": 5},
        request_id="r-1",
        tenant="alice",
        trace_context="00-1",
    )
    call = build_call(request, stream=True, cancel_key=b"key")
    values = inputs(call)
    assert json.loads(values["messages"][0]) == messages
    assert "是?".encode() in values["messages"][0]
    assert values["image"].tolist() == [b"\x89PNG\x00", b""]
    assert values["video"].tolist() == [b"\x00ftyp"]
    assert json.loads(values["tools"][0]) == [{"type": "function"}]
    assert json.loads(values["chat_template_kwargs"][0]) == {"enable_thinking": False}
    assert json.loads(values["sampling_parameters"][0]) == {"max_tokens": 5}
    assert values["stream"].tolist() == [True]
    assert values["cancel_key"].tolist() == [b"key"]
    assert values["tenant"].tolist() == [b"alice"]
    assert values["trace_context"].tolist() == [b"00-1"]
    assert (call["model_name"], call["request_id"]) == ("generation", "r-1")


def test_a_single_turn_sends_nothing_that_was_not_given() -> None:
    values = inputs(build_call(GenerationRequest(text_input="hi"), stream=False, cancel_key=b"key"))
    assert values["text_input"].tolist() == [b"hi"]
    assert values["stream"].tolist() == [False]
    absent = {"messages", "image", "video", "tools", "chat_template_kwargs", "tenant"}
    assert not (absent | {"trace_context"}) & set(values)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, set()),
        ({"return_token_ids": True}, {"token_ids"}),
        ({"return_events": True}, {"events"}),
        ({"return_image_sizes": True}, {"image_sizes"}),
        ({"return_limits": True}, {"limits"}),
        ({"sampling_parameters": {"prompt_logprobs": 0}}, {"prompt_logprobs"}),
        ({"sampling_parameters": {"logprobs": 0}}, {"logprobs"}),
        ({"sampling_parameters": {"n": 2}}, {"index"}),
        ({"questions": [Question("Is it?", ["a", "b"])]}, {"option_logprobs"}),
    ],
)
def test_optional_outputs_are_requested_on_demand(given: dict[str, Any], wanted: set[str]) -> None:
    call = build_call(GenerationRequest(text_input="hi", **given), stream=True, cancel_key=b"key")
    outputs = {output.name() for output in call["outputs"]}
    given_always = set(OUTPUT_DATATYPES) - {
        *("token_ids", "logprobs", "index", "events", "image_sizes", "limits", "prompt_logprobs"),
        "option_logprobs",
    }
    without_text = {"text_output"} if "events" in wanted else set()
    assert outputs == given_always - without_text | wanted
    for name in ("token_ids", "logprobs"):
        assert inputs(call)[f"return_{name}"].tolist() == [name in wanted]


@pytest.mark.parametrize("given", [{}, {"messages": [], "text_input": "hi"}])
def test_one_prompt_has_to_be_given(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="messages, text_input"):
        GenerationRequest(**given)


def test_a_number_that_json_lacks_is_refused() -> None:
    request = GenerationRequest(text_input="x", sampling_parameters={"temperature": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        build_call(request, stream=True, cancel_key=b"key")


def test_a_full_response() -> None:
    response = result(
        text_output="红",
        finish_reason="length",
        num_input_tokens=count(30),
        num_image_tokens=count(25),
        num_output_tokens=count(2),
        token_ids=np.array([7, 8], dtype=np.int32),
        index=count(3),
        logprobs=json.dumps(
            [
                {
                    "8": {"logprob": -2.5, "rank": 2, "decoded_token": "�", "bytes": [231]},
                    "7": {"logprob": -0.5, "rank": 1, "decoded_token": "a", "bytes": [97]},
                }
            ]
        ),
    )
    chosen = TokenLogprob(8, "�", b"\xe7", -2.5, 2)
    likeliest = TokenLogprob(7, "a", b"a", -0.5, 1)
    assert parse_response(response) == GenerationDelta(
        text="红",
        finish_reason="length",
        num_input_tokens=30,
        num_image_tokens=25,
        num_output_tokens=2,
        token_ids=(7, 8),
        index=3,
        logprobs=(TokenLogprobs(chosen, (likeliest, chosen)),),
    )


def test_a_response_of_events() -> None:
    entry = {"7": {"logprob": -0.5, "rank": 1, "decoded_token": "a", "bytes": [97]}}
    token = TokenLogprob(7, "a", b"a", -0.5, 1)
    events = [
        {"thought": "hm", "logprobs": [entry]},
        {"text": "Look:\n"},
        {"call": 0, "name": "f"},
        {"call": 0, "arguments": "{}"},
    ]
    assert parse_response(result(events=json.dumps(events))) == GenerationDelta(
        events=(
            ThoughtDelta("hm", (TokenLogprobs(token, (token,)),)),
            TextDelta("Look:\n"),
            CallStart(0, "f"),
            CallDelta(0, "{}"),
        )
    )


def test_a_response_without_outputs_is_empty() -> None:
    assert parse_response(result()) == GenerationDelta(text="")


@pytest.mark.parametrize("reason", ["###", 7])
def test_stop_reason_is_parsed(reason: str | int) -> None:
    response = result(finish_reason="stop", stop_reason=json.dumps(reason))
    assert parse_response(response).stop_reason == reason


def test_an_empty_finish_reason_is_none() -> None:
    assert parse_response(result(text_output="a", finish_reason="")).finish_reason is None
