"""``POST /v1/chat/completions``: what is sent to the model, what comes back, and in which order."""

import base64
import re
from typing import Any

import httpx2
import openai
import pytest
from starlette.testclient import TestClient

from glm_client import InvalidRequestError
from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import (
    ANSWER,
    CHAT,
    MODEL,
    PIXEL,
    FakeBackend,
    chat,
    delta,
    events,
    picture,
    prompt_notes,
)

TEXT = {"type": "text", "text": "What is this?"}
PIXEL_BYTES = base64.b64decode(PIXEL.partition(",")[2])
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 4,
    "total_tokens": 34,
    "prompt_tokens_details": {"image_tokens": 25, "cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def post(client: TestClient, body: dict[str, Any]) -> Any:
    response = client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_response_has_the_manuals_shape(client: TestClient) -> None:
    answer = post(client, chat([TEXT, picture()]))
    assert re.fullmatch(r"chatcmpl-\w+", answer.pop("id"))
    assert isinstance(answer.pop("created"), int)
    assert re.fullmatch(r"fp_[0-9a-f]{10}", answer.pop("system_fingerprint"))
    assert answer == {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "A red circle.",
                    "reasoning_content": "a thought",
                    "reasoning": "a thought",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_without_a_thought_there_is_no_field_for_it(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = [delta("<|begin_of_box|>Red<|end_of_box|>", finish_reason="length")]
    choice = post(client, chat())["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Red", "refusal": None}
    assert choice["finish_reason"] == "length"


def test_pictures_anywhere_in_order(client: TestClient, backend: FakeBackend) -> None:
    other = "data:image/jpeg;base64,/9j/"
    body = chat() | {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [TEXT, picture(), TEXT, picture(other)]},
            {"role": "assistant", "content": "A dot.", "reasoning_content": "hm"},
            {"role": "user", "content": picture(other)},
            {"role": "assistant", "content": None},
            {"role": "user", "content": TEXT},
        ]
    }
    post(client, body)
    (request,) = backend.requests
    image = {"type": "image"}
    assert request.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [TEXT, image, TEXT, image]},
        {"role": "assistant", "content": "A dot.", "reasoning_content": "hm"},
        {"role": "user", "content": [image]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [TEXT]},
    ]
    assert request.images == [PIXEL_BYTES, b"\xff\xd8\xff", b"\xff\xd8\xff"]


def test_videos_and_pictures_each_in_order(backend: FakeBackend) -> None:
    clip = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    other = {"type": "video_url", "video_url": {"url": "data:image/gif;base64,R0lG"}}
    with TestClient(create_app(Settings(max_videos=2), backend)) as client:
        post(client, chat([clip, picture(), TEXT, other]))
    (request,) = backend.requests
    video, image = {"type": "video"}, {"type": "image"}
    assert request.messages == [{"role": "user", "content": [video, image, TEXT, video]}]
    assert (request.images, request.videos) == ([PIXEL_BYTES], [bytes(3), b"GIF"])


def test_a_video_that_the_model_server_refuses_is_named(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = [InvalidRequestError("the video is damaged", "video[0]")]
    clip = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    response = client.post(CHAT, json=chat([picture(), TEXT, clip]))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[0].content[2].video_url.url"


def test_detail_and_user_are_taken(client: TestClient) -> None:
    part = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}}
    post(client, chat([part], user="me"))


@pytest.mark.parametrize("value", [True, False])
def test_thinking_can_be_chosen(client: TestClient, backend: FakeBackend, value: bool) -> None:
    post(client, chat(chat_template_kwargs={"enable_thinking": value}))
    assert backend.requests[0].chat_template_kwargs == {"enable_thinking": value}


def test_max_completion_tokens_is_max_tokens(client: TestClient, backend: FakeBackend) -> None:
    post(client, chat(max_completion_tokens=9))
    post(client, chat(max_completion_tokens=9, max_tokens=9))
    assert [request.sampling_parameters for request in backend.requests] == [{"max_tokens": 9}] * 2


def test_the_time_limit_is_the_settings(client: TestClient, backend: FakeBackend) -> None:
    post(client, chat())
    assert backend.timeouts == [Settings().request_timeout]


def test_an_answer_of_this_server_can_be_sent_back(
    client: TestClient, backend: FakeBackend
) -> None:
    message = post(client, chat())["choices"][0]["message"]
    body = chat()
    body["messages"] += [message, {"role": "user", "content": "Why?"}]
    post(client, body)
    assert backend.requests[1].messages is not None
    del message["reasoning"]  # one name is enough
    del message["refusal"]  # says nothing
    assert backend.requests[1].messages[1] == message


@pytest.mark.parametrize("include_usage", [None, False, True])
def test_the_order_of_a_stream(client: TestClient, include_usage: bool | None) -> None:
    body = chat(stream=True)
    if include_usage is not None:
        body["stream_options"] = {"include_usage": include_usage}
    response = client.post(CHAT, json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    chunks = events(response.text)
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {
        ("chat.completion.chunk", MODEL)
    }
    if include_usage:
        last = chunks.pop()
        assert (last["choices"], last["usage"]) == ([], USAGE)
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert all("usage" not in chunk for chunk in chunks)
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": piece, "finish_reason": reason}]
        for piece, reason in [
            ({"role": "assistant", "content": ""}, None),
            ({"reasoning_content": "a ", "reasoning": "a "}, None),
            ({"reasoning_content": "thought", "reasoning": "thought"}, None),
            ({"content": "A red"}, None),
            ({"content": " circle."}, None),
            ({}, "stop"),
        ]
    ]


def test_text_that_was_held_back_comes_before_the_finish_reason(
    client: TestClient, backend: FakeBackend
) -> None:
    backend.script = [delta("1 <"), delta("", finish_reason="length")]
    chunks = events(client.post(CHAT, json=chat(stream=True)).text)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [
        "",
        "1 ",
        "<",
        None,
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


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
        messages: Any = [{"role": "user", "content": [TEXT, picture()]}]
        answer = await sdk.chat.completions.create(model=MODEL, messages=messages)
        assert answer.choices[0].message.content == "A red circle."
        assert answer.usage is not None
        assert answer.usage.total_tokens == 34

        messages += [answer.choices[0].message, {"role": "user", "content": "Why?"}]
        stream = await sdk.chat.completions.create(model=MODEL, messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == "A red circle."

        with pytest.raises(openai.BadRequestError) as bad:
            await sdk.chat.completions.create(model=MODEL, messages=messages, temperature=3)
        assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.create(model="other", messages=messages)

        backend.script = [ANSWER[0], RuntimeError()]
        stream = await sdk.chat.completions.create(model=MODEL, messages=messages, stream=True)
        with pytest.raises(openai.APIError, match="The server failed"):
            [chunk async for chunk in stream]
        backend.script = ANSWER
        assert [model.id async for model in sdk.models.list()] == [MODEL]


@pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("low", True), ("high", True)])
def test_no_effort_is_no_thought(
    client: TestClient, backend: FakeBackend, effort: str, thinks: bool
) -> None:
    post(client, chat(reasoning_effort=effort))
    assert backend.requests[0].chat_template_kwargs == {"enable_thinking": thinks}


def test_the_template_counts_more_than_the_effort(client: TestClient, backend: FakeBackend) -> None:
    post(client, chat(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True}))
    assert backend.requests[0].chat_template_kwargs == {"enable_thinking": True}


def test_a_thought_has_two_names(client: TestClient, backend: FakeBackend) -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "A dot.", "reasoning": "hm"},
        {"role": "user", "content": "And now?"},
    ]
    post(client, chat() | {"messages": turns})
    sent = backend.requests[0].messages
    assert sent is not None and sent[1]["reasoning_content"] == "hm" and "reasoning" not in sent[1]
    turns[1]["reasoning_content"] = "oh"
    post(client, chat() | {"messages": turns})
    sent = backend.requests[1].messages
    assert sent is not None and sent[1]["reasoning_content"] == "oh"


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers(client: TestClient, backend: FakeBackend, stream: bool) -> None:
    body = chat(n=3, stream=stream)
    if stream:
        pieces = [c["choices"][0] for c in events(client.post(CHAT, json=body).text)]
        texts = [
            "".join(p["delta"].get("content", "") for p in pieces if p["index"] == index)
            for index in range(3)
        ]
        assert [p["index"] for p in pieces[:3]] == [0, 1, 2]
        assert [p["index"] for p in pieces if p["finish_reason"]] == [0, 1, 2]
    else:
        answer = post(client, body)
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert answer["usage"]["completion_tokens"] == 12
        assert answer["usage"]["prompt_tokens"] == 30
    assert texts == ["A red circle."] * 3
    assert backend.requests[0].sampling_parameters["n"] == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("hi", "Jo: hi"),
        ([{"type": "text", "text": "hi"}], [{"type": "text", "text": "Jo: hi"}]),
        ([picture()], [{"type": "text", "text": "Jo: "}, {"type": "image"}]),
    ],
)
def test_the_model_reads_who_speaks(
    client: TestClient, backend: FakeBackend, content: Any, told: Any
) -> None:
    body = chat()
    body["messages"] = [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": content, "name": "Jo"},
    ]
    assert client.post(CHAT, json=body).status_code == 200
    assert backend.requests[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": told},
    ]


@pytest.mark.parametrize(
    ("details", "budgets"),
    [
        (["low", "high"], [512 * 512, 0]),
        ([None, "low"], [0, 512 * 512]),
        (["auto", None], ()),
    ],
)
def test_detail_is_a_pixel_budget(
    client: TestClient, backend: FakeBackend, details: list[str | None], budgets: Any
) -> None:
    parts = [{"type": "image_url", "image_url": {"url": PIXEL, "detail": d}} for d in details]
    body = chat() | {"messages": [{"role": "user", "content": parts}]}
    assert client.post(CHAT, json=body).status_code == 200
    assert backend.requests[0].image_max_pixels == budgets


@pytest.mark.parametrize("extra", [{}, {"add_generation_prompt": False}])
def test_an_answer_may_go_on_with_the_last_message(
    client: TestClient, backend: FakeBackend, extra: dict[str, Any]
) -> None:
    backend.script = [delta("\n", num_input_tokens=3), delta("and", finish_reason="stop")]
    body = chat(continue_final_message=True, **extra)
    body["messages"].append({"role": "assistant", "content": "A red"})
    message = client.post(CHAT, json=body).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "\nand", "refusal": None}
    assert backend.requests[0].chat_template_kwargs == {"continue_final_message": True}


@pytest.mark.parametrize(
    "fields",
    [
        {"continue_final_message": True, "add_generation_prompt": True},
        {"add_generation_prompt": False},
    ],
)
def test_the_two_switches_have_to_agree(client: TestClient, fields: dict[str, Any]) -> None:
    error = client.post(CHAT, json=chat(**fields)).json()["error"]
    assert error["param"] == "add_generation_prompt"


def test_every_chunk_may_have_the_usage_so_far(client: TestClient) -> None:
    options = {"continuous_usage_stats": True}
    chunks = events(client.post(CHAT, json=chat(stream=True, stream_options=options)).text)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks[1:]]
    assert counts == sorted(counts) and counts[0] >= 1 and counts[-1] == 4
    assert all(chunk["choices"] for chunk in chunks)


@pytest.mark.parametrize("reason", ["END", 7])
def test_what_ended_the_answer_is_told(
    client: TestClient, backend: FakeBackend, reason: str | int
) -> None:
    backend.script = [delta("a", num_input_tokens=1, finish_reason="stop", stop_reason=reason)]
    assert post(client, chat())["choices"][0]["stop_reason"] == reason
    chunks = events(client.post(CHAT, json=chat(stream=True)).text)
    assert chunks[-1]["choices"][0]["stop_reason"] == reason
    assert all("stop_reason" not in chunk["choices"][0] for chunk in chunks[:-1])


def test_log_probabilities_of_the_prompt(client: TestClient, backend: FakeBackend) -> None:
    notes, told = prompt_notes()
    backend.script = [delta("A", prompt_logprobs=notes), delta("", finish_reason="stop")]
    answer = client.post(CHAT, json=chat(prompt_logprobs=1, n=2)).json()
    assert backend.requests[0].sampling_parameters["prompt_logprobs"] == 1
    assert answer["prompt_logprobs"] == told
    assert "prompt_logprobs" not in client.post(CHAT, json=chat()).json()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt_logprobs": 1, "stream": True}, "is not available in streams"),
        ({"prompt_logprobs": -1}, "must be greater than or equal to 0"),
        ({"prompt_logprobs": 21}, "must be less than or equal to 20"),
    ],
)
def test_log_probabilities_of_the_prompt_that_cannot_be_had(
    client: TestClient, fields: dict[str, Any], reason: str
) -> None:
    response = client.post(CHAT, json=chat(**fields))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "prompt_logprobs" and reason in error["message"]


def test_a_stream_has_none_of_its_prompt(client: TestClient, backend: FakeBackend) -> None:
    """As vLLM has it: 0 is no error there."""
    response = client.post(CHAT, json=chat(prompt_logprobs=0, stream=True))
    assert response.status_code == 200
    assert "prompt_logprobs" not in backend.requests[0].sampling_parameters
