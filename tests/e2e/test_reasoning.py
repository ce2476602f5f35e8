"""The thought: by which names it goes, how it is counted, and how it is kept short."""

import json
from typing import Any

import pytest

from e2e.calls import chat, content, post
from tools.stack import Stack

QUESTION, PICTURE, TRUTH = "What is in this image?", "plot-42.png", "The number 42."


def _message(stack: Stack, **fields: Any) -> dict[str, Any]:
    answer = post(stack, chat(QUESTION, PICTURE, **fields)).json()
    tokens = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    return {**answer["choices"][0]["message"], **answer["usage"], "tokens": tokens}


def test_a_thought_has_both_names_and_is_counted(stack: Stack) -> None:
    message = _message(stack)
    assert message["reasoning"] == message["reasoning_content"] != ""
    assert 2 < message["tokens"] < message["completion_tokens"]
    body = chat(QUESTION, PICTURE, stream=True, stream_options={"include_usage": True})
    lines = [line[6:] for line in post(stack, body).text.splitlines() if line.startswith("data: {")]
    usage = json.loads(lines[-1])["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == message["tokens"]


def test_no_effort_is_no_thought(stack: Stack) -> None:
    message = _message(stack, reasoning_effort="none")
    assert message["content"] == TRUTH
    assert "reasoning" not in message and message["tokens"] == 0


@pytest.mark.parametrize("budget", [0, 2])
def test_a_budget_ends_the_thought_and_an_answer_follows(stack: Stack, budget: int) -> None:
    message = _message(stack, thinking_token_budget=budget)
    assert message["tokens"] == budget + 2  # with <think> and </think>
    assert message["content"] == TRUTH


def test_a_prompt_seen_before_is_told_in_the_usage(stack: Stack) -> None:
    body = chat("Describe the image in one short sentence, please.", "browser-1207.jpg")
    content(post(stack, body))
    usage = post(stack, body).json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["prompt_tokens"] - 17 <= cached < usage["prompt_tokens"]
