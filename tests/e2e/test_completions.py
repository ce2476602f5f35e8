"""Texts that go on, and tokens, over the real server."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from e2e.calls import MODEL, chat, content, data_uri, post
from tools.stack import Stack

PROMPT = "[gMASK]<sop><|user|>\nWho are you?/nothink<|assistant|>\n<think></think>\n"


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_a_templated_prompt_gets_the_answer_of_the_conversation(
    stack: Stack, sdk: openai.OpenAI
) -> None:
    no_thought = {"chat_template_kwargs": {"enable_thinking": False}}
    expected = content(post(stack, chat("Who are you?", **no_thought)))
    answer = sdk.completions.create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=60)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, "stop")
    pieces = sdk.completions.create(
        model=MODEL, prompt=PROMPT, temperature=0, max_tokens=60, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == expected


def test_tokens_and_texts_are_the_same_prompt(stack: Stack, sdk: openai.OpenAI) -> None:
    tokens = post(stack, {"prompt": PROMPT, "return_token_strs": True}, "/tokenize").json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert "".join(tokens["token_strs"]) == PROMPT
    text = post(stack, {"tokens": tokens["tokens"]}, "/detokenize").json()
    assert text == {"prompt": PROMPT}
    answer = sdk.completions.create(
        model=MODEL, prompt=[PROMPT], n=2, temperature=0, max_tokens=9, echo=True
    )
    by_tokens = sdk.completions.create(
        model=MODEL, prompt=tokens["tokens"], temperature=0, max_tokens=9, echo=True
    )
    texts = {choice.text for choice in [*answer.choices, *by_tokens.choices]}
    assert len(answer.choices) == 2 and len(texts) == 1
    assert texts.pop().startswith(PROMPT)
    assert by_tokens.usage is not None and by_tokens.usage.prompt_tokens == tokens["count"]


def test_tokens_of_a_conversation_are_those_that_the_model_reads(stack: Stack) -> None:
    body = chat("What is in this image?", "plot-three.jpg")
    used = post(stack, body).json()["usage"]
    tokens = post(stack, {"messages": body["messages"]}, "/tokenize").json()
    assert tokens["count"] == used["prompt_tokens"]


def test_log_probabilities_of_a_text(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model=MODEL, prompt=PROMPT, temperature=0, max_tokens=5, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens is not None and logprobs.text_offset is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.text_offset[0] == 0 and len(logprobs.text_offset) == 5
    assert logprobs.token_logprobs is not None and logprobs.top_logprobs is not None
    for chosen, top in zip(logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert max(top.values()) == pytest.approx(chosen)  # greedy


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": MODEL, "prompt": "<|image|>"}, "prompt"),
        ("/v1/completions", {"model": MODEL, "prompt": [[1], [5, 999_999]]}, "prompt[1][1]"),
        ("/v1/completions", {"model": MODEL, "prompt": "x", "guided_regex": "("}, "guided_regex"),
        ("/detokenize", {"tokens": [5, 999_999]}, "tokens[1]"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}],
                       "continue_final_message": True}, "messages[0].role"),
    ],
)  # fmt: skip
def test_bad_fields_are_named(stack: Stack, path: str, body: Any, param: str) -> None:
    response = post(stack, body, path)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_an_answer_goes_on_where_it_was_cut(stack: Stack) -> None:
    body = chat("What is in this image?", "plot-three.jpg")
    body |= {"chat_template_kwargs": {"enable_thinking": False}}
    whole = content(post(stack, body))
    cut = whole[: len(whole) // 2].rstrip()
    body["messages"] = [*body["messages"], {"role": "assistant", "content": cut}]
    rest = content(post(stack, body | {"continue_final_message": True}))
    assert cut + rest == whole


def test_low_detail_is_another_picture_to_the_caches(stack: Stack) -> None:
    """The demo checkpoint's own limit is below that of low detail: the answer stays the same."""
    body = chat("What is in this image?", "plot-three.jpg")
    url = {"url": data_uri("plot-three.jpg"), "detail": "low"}
    low = json.loads(json.dumps(body))
    low["messages"][0]["content"][0]["image_url"] = url
    assert content(post(stack, low)) == content(post(stack, body)) == content(post(stack, low))
