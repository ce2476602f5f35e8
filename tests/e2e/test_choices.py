"""Several answers to one request, and how likely their tokens were, over HTTP."""

import json
import math
from typing import Any

import pytest
import requests

from e2e.calls import chat, content, post
from tools.stack import Stack

QUESTION, PICTURE = "What is in this image?", "plot-three.jpg"
# Hot enough that answers differ.
SAMPLED = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 24, "seed": 7}


def events(response: requests.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_each_answer_is_that_of_its_own_seed(stack: Stack) -> None:
    answer = post(stack, chat(QUESTION, PICTURE, n=3, **SAMPLED)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    alone = [
        post(stack, chat(QUESTION, PICTURE, **SAMPLED | {"seed": 7 + index})).json()
        for index in range(3)
    ]
    assert [choice["message"] for choice in answer["choices"]] == [
        one["choices"][0]["message"] for one in alone
    ]
    assert len({str(choice["message"]) for choice in answer["choices"]}) > 1
    used, expected = answer["usage"], [one["usage"] for one in alone]
    assert used["prompt_tokens"] == expected[0]["prompt_tokens"]
    assert used["completion_tokens"] == sum(one["completion_tokens"] for one in expected)


def test_a_stream_of_several_has_the_same_texts(stack: Stack) -> None:
    body = chat(QUESTION, PICTURE, n=3, **SAMPLED)
    whole = post(stack, body).json()
    chunks = events(post(stack, body | {"stream": True, "stream_options": {"include_usage": True}}))
    assert chunks[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        own = [
            piece
            for chunk in chunks
            for piece in chunk["choices"]
            if piece["index"] == choice["index"]
        ]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        for name in ("content", "reasoning_content"):
            text = "".join(piece["delta"].get(name) or "" for piece in own)
            assert text == choice["message"].get(name, "")
        reasons = [piece["finish_reason"] for piece in own if piece["finish_reason"]]
        assert reasons == [choice["finish_reason"]] == [own[-1]["finish_reason"]]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_greedy_answer(stack: Stack, stream: bool) -> None:
    body = chat(QUESTION, PICTURE, logprobs=True, top_logprobs=2)
    expected = content(post(stack, chat(QUESTION, PICTURE)))
    response = post(stack, body | {"stream": stream})
    if stream:
        pieces = [piece for chunk in events(response) for piece in chunk["choices"]]
        told = [piece["logprobs"]["content"] for piece in pieces if piece.get("logprobs")]
        tokens = [token for part in told for token in part]
    else:
        tokens = response.json()["choices"][0]["logprobs"]["content"]
    text = b"".join(bytes(token["bytes"]) for token in tokens).decode()
    assert text == expected  # without the thought, tags, and the token that ends the answer
    for token in tokens:
        assert token["logprob"] <= 0
        best, second = token["top_logprobs"]
        assert best == {key: token[key] for key in ("token", "bytes", "logprob")}
        assert second["logprob"] <= best["logprob"]
        assert math.exp(best["logprob"]) + math.exp(second["logprob"]) <= 1 + 1e-4


def test_a_token_is_told_even_where_it_is_none_of_the_likeliest(stack: Stack) -> None:
    forced = {"logit_bias": {"100": 100}, "max_tokens": 5}
    body = chat(QUESTION, PICTURE, logprobs=True, top_logprobs=1, **forced)
    tokens = post(stack, body).json()["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 5
    for token in tokens:
        best, own = token["top_logprobs"]
        assert token["token"] != best["token"] and token["logprob"] < best["logprob"]
        assert (own["token"], own["logprob"]) == (token["token"], token["logprob"])


def test_without_asking_there_are_none(stack: Stack) -> None:
    choice = post(stack, chat(QUESTION, PICTURE)).json()["choices"][0]
    assert choice["logprobs"] is None
