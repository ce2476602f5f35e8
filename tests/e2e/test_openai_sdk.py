"""The official OpenAI client against the real stack."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from e2e.calls import MODEL, chat
from tools.stack import Stack


def _arguments(*args: Any, **fields: Any) -> dict[str, Any]:
    body = chat(*args, **fields)
    extra = body.pop("chat_template_kwargs", None)
    return body | ({"extra_body": {"chat_template_kwargs": extra}} if extra else {})


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_completion(client: openai.OpenAI) -> None:
    with client:
        answer = client.chat.completions.create(
            **_arguments("What is in this image?", "photo-square.jpg")
        )
        assert answer.choices[0].message.content == "A red square."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None and answer.usage.total_tokens > 0


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    arguments = _arguments("What is in this image?", "plot-three.jpg")
    with client:
        client.chat.completions.create(**arguments)  # from here on the prompt is in the cache
        whole = client.chat.completions.create(**arguments)
        chunks = list(
            client.chat.completions.create(
                **arguments, stream=True, stream_options={"include_usage": True}
            )
        )
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    # A fast model's answer may be in one piece, but not in one with the thought before it.
    texts = [
        delta.content or (delta.model_extra or {}).get("reasoning_content") for delta in deltas
    ]
    assert sum(bool(text) for text in texts) > 1
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


async def test_many_at_once(stack: Stack) -> None:
    import asyncio

    questions = {
        "photo-square.jpg": "A red square.",
        "plot-42.png": "The number 42.",
        "browser-star.png": "A pink star.",
        "hand-triangle.jpg": "A blue triangle.",
    }
    async with openai.AsyncOpenAI(
        base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0
    ) as client:
        names = [*questions] * 6
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(**_arguments("What is in this image?", name))
                for name in names
            )
        )
    assert [answer.choices[0].message.content for answer in answers] == [
        questions[name] for name in names
    ]


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with client:
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(**_arguments("hi", max_tokens=0))
        assert bad.value.param == "max_tokens"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**_arguments("hi", model="gpt-4o"))


def test_models(client: openai.OpenAI) -> None:
    with client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
