"""Videos through the whole server. The demo model was never shown one: what is right here is how
many tokens there are, that the answer is the same again, and what is refused."""

import base64
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from PIL import Image

from e2e.calls import MODEL, content, data_uri, post, settled
from glm_client import Client, GenerationRequest
from tools.clips import ENCODERS, clip, encode, scene
from tools.stack import Stack

PATH = "messages[0].content[0].video_url.url"


def _video(file: bytes, kind: str = "video/mp4") -> dict[str, Any]:
    uri = f"data:{kind};base64," + base64.b64encode(file).decode()
    return {"type": "video_url", "video_url": {"url": uri}}


def _chat(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    text = {"type": "text", "text": "What is in this image?"}
    messages = [{"role": "user", "content": [*parts, text]}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 60} | fields


def _image_tokens(stack: Stack, *parts: dict[str, Any]) -> int:
    response = post(stack, _chat(*parts, max_tokens=1))
    assert response.status_code == 200, response.text
    tokens: int = response.json()["usage"]["prompt_tokens_details"]["image_tokens"]
    return tokens


@pytest.mark.parametrize("container", ENCODERS)
def test_each_format_is_answered_and_the_same_way_again(stack: Stack, container: str) -> None:
    body = _chat(_video(clip(8, 4, container)))
    answer = post(stack, body)
    assert content(answer)
    assert content(post(stack, body)) == content(answer)
    # Two seconds are 12 frames at most, and there are 8: 4 pairs of 112 x 112 pixels.
    assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] == 4 * 16


@pytest.mark.parametrize(("seconds", "pairs"), [(1, 3), (3, 9), (5, 15)])
def test_a_longer_video_has_more_tokens(stack: Stack, seconds: int, pairs: int) -> None:
    file = encode([scene(n % 30) for n in range(24 * seconds)], fps=24)
    assert _image_tokens(stack, _video(file)) == 16 * pairs


def test_a_stream_has_the_same_answer(stack: Stack) -> None:
    body = _chat(_video(clip(8)))
    sdk = openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0)
    chunks = sdk.chat.completions.create(**body, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == content(post(stack, body))


def test_a_video_stands_beside_pictures(stack: Stack) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_uri("photo-star.jpg")}}
    alone = _image_tokens(stack, picture)
    video = _image_tokens(stack, _video(clip(8)))
    assert _image_tokens(stack, picture, _video(clip(8))) == alone + video


def test_videos_of_one_colour_are_told_apart(stack: Stack) -> None:
    """As far as a model can that has seen pictures only: it has to name one of two colours."""
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 60, 220))):
        film = encode([Image.new("RGB", (112, 112), colour)] * 2, fps=4)
        body = _chat(_video(film)) | {
            "guided_choice": ["Nothing but a red background.", "Nothing but a blue background."],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        assert name in content(post(stack, body))


def _encoded(stack: Stack) -> float:
    return settled(stack)["glm_images_encoded_total"]


@pytest.mark.timing
def test_a_video_seen_before_is_not_encoded_again(stack: Stack) -> None:
    body = _chat(_video(clip(10)))
    content(post(stack, body))
    before = _encoded(stack)
    content(post(stack, body))
    assert _encoded(stack) == before > 0


def test_the_client_library_sends_videos_straight_to_triton(stack: Stack) -> None:
    file = clip(8)
    parts: Sequence[dict[str, str]] = [{"type": "video"}, {"type": "text", "text": "What is it?"}]
    sampling = {"temperature": 0, "max_tokens": 30}
    with Client(stack.grpc_url) as client:
        one = client.generate(
            GenerationRequest(
                messages=[{"role": "user", "content": parts}],
                videos=[file],
                sampling_parameters=sampling,
            )
        )
        other = client.generate(
            GenerationRequest(text_input="What is it?", videos=[file], sampling_parameters=sampling)
        )
    assert one.text == other.text and one.num_image_tokens == 64


@pytest.mark.parametrize(
    ("part", "code"),
    [
        (_video(b"no video"), "invalid_value"),
        (_video(clip(8)[:-200]), "invalid_value"),
        (_video(clip(1, 25)), "invalid_value"),
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,%%"}}, "invalid_base64"),
        ({"type": "video_url", "video_url": {"url": "http://127.0.0.1:1/x.mp4"}},
         "video_host_not_allowed"),
    ],
    ids=["text", "truncated", "short", "base64", "local"],
)  # fmt: skip
def test_a_bad_video_is_named(stack: Stack, part: dict[str, Any], code: str) -> None:
    response = post(stack, _chat(part))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == PATH
    assert error["code"] == code
    assert content(post(stack, _chat(_video(clip(4)))))


def test_a_conversation_about_two_videos(stack: Stack) -> None:
    one, other = _video(clip(4)), _video(clip(8, draw=lambda number: scene(20 - number)))
    together = _image_tokens(stack, one, other)
    assert together == _image_tokens(stack, one) + _image_tokens(stack, other)


@pytest.mark.parametrize("container", ["avi", "mpegts", "flv", "3gp", "asf"])
def test_other_containers_are_answered(stack: Stack, container: str) -> None:
    encoder = {"avi": "mjpeg", "flv": "flv", "asf": "wmv2", "3gp": "mpeg4"}.get(
        container, "libx264"
    )
    frames = [scene(number) for number in range(8)]
    assert content(post(stack, _chat(_video(encode(frames, 4, container, encoder)))))


def test_the_frames_that_a_request_asks_for(stack: Stack) -> None:
    video = _video(clip(20))
    assert _image_tokens(stack, video | {"num_frames": 4}) == 2 * 16
    assert _image_tokens(stack, video | {"video_start": 4, "fps": 4}) == 2 * 16
    body = _chat(video, media_io_kwargs={"video": {"num_frames": 2}}, max_tokens=1)
    usage = post(stack, body).json()["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] == 16
    frames = {"type": "video", "video": [data_uri("photo-star.jpg")] * 4, "times": [0, 1, 5, 6]}
    assert content(post(stack, _chat(frames)))
    error = post(stack, _chat(video | {"video_start": 60})).json()["error"]
    assert (error["param"], error["code"]) == (PATH, "invalid_value")


def test_a_video_by_its_name(stack: Stack) -> None:
    answer = content(post(stack, _chat(_video(clip(6)) | {"uuid": "a clip"})))
    assert content(post(stack, _chat({"type": "video_url", "uuid": "a clip"}))) == answer
    error = post(stack, _chat({"type": "video_url", "uuid": "another"})).json()["error"]
    assert error["code"] == "media_not_remembered"
