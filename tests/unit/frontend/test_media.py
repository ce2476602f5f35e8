"""What a request may say about its pictures and videos, and what happens to too many of them."""

import base64
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from glm_client import (
    Generation,
    GenerationDelta,
    GenerationRequest,
    InvalidRequestError,
    Tokenization,
)
from glm_frontend.app import create_app
from glm_frontend.media.fetch import ImageFetcher
from glm_frontend.media.memory import MediaMemory
from glm_frontend.settings import Settings
from unit.frontend.fakes import CHAT, MODEL, PIXEL, RESPONSES, FakeBackend

CLIP = "data:video/mp4;base64,AAAA"
LEFT_OUT = {
    "type": "text",
    "text": "(A picture or video was here. It has been left out, since there are too many.)",
}


def _chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": list(parts)}]} | fields


def _picture(**fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": PIXEL}} | fields


def _video(**fields: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": CLIP}} | fields


def _parts(backend: FakeBackend) -> Sequence[dict[str, Any]]:
    """Those of the one message of the last request."""
    messages = backend.requests[-1].messages
    assert messages is not None
    parts: Sequence[dict[str, Any]] = messages[-1]["content"]
    return parts


def _sent(client: TestClient, body: dict[str, Any], **options: Any) -> Any:
    response = client.post(CHAT, json=body, **options)
    assert response.status_code == 200, response.text
    return response


def _error(client: TestClient, body: dict[str, Any], **options: Any) -> Any:
    response = client.post(CHAT, json=body, **options)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_options_stand_beside_a_video_or_its_url(client: TestClient, backend: FakeBackend) -> None:
    options = {"fps": 2.5, "num_frames": 8, "video_start": 1, "video_end": 9.5, "max_pixels": 5000}
    for part in (
        _video(**options),
        {"type": "video_url", "video_url": {"url": CLIP, **options}},
        {"type": "video", "video": CLIP, **options},
    ):
        _sent(client, _chat(part))
        assert _parts(backend) == [{"type": "video", **options}]
        assert backend.requests[-1].videos == [bytes(3)]


def test_vllms_reading_is_for_videos_that_say_nothing(
    client: TestClient, backend: FakeBackend
) -> None:
    reading = {"video": {"fps": 2, "num_frames": 4}, "image": None}
    _sent(client, _chat(_video(), _video(fps=5), _picture(), media_io_kwargs=reading))
    assert _parts(backend) == [
        {"type": "video", "fps": 2, "num_frames": 4},
        {"type": "video", "fps": 5, "num_frames": 4},
        {"type": "image"},
    ]
    _sent(client, _chat(_video(), media_io_kwargs={"video": {"num_frames": -1}}))
    assert _parts(backend) == [{"type": "video"}]


def test_the_processors_arguments_go_to_the_model_server(
    client: TestClient, backend: FakeBackend
) -> None:
    kwargs = {
        "size": {"shortest_edge": 12544, "longest_edge": 50000},
        "max_pixels": 40000,
        "do_resize": True,
        "fps": 1,
    }
    _sent(client, _chat(_picture(), mm_processor_kwargs=kwargs))
    assert backend.requests[-1].mm_processor_kwargs == kwargs
    nothing: dict[str, Any] | None
    for nothing in (None, {}):
        _sent(client, _chat(_picture(), mm_processor_kwargs=nothing))
        assert backend.requests[-1].mm_processor_kwargs is None


@pytest.mark.parametrize(
    ("part", "pixels"),
    [
        (_picture(), 0),
        (_picture(detail="low"), 512 * 512),
        (_picture(detail="original"), 0),
        (_picture(max_pixels=1000), 1000),
        (_picture(max_pixels=10**6, detail="low"), 512 * 512),
        ({"type": "image_url", "image_url": {"url": PIXEL, "max_pixels": 1000}}, 1000),
        ({"type": "image", "image": PIXEL, "max_pixels": 1000}, 1000),
    ],
)
def test_a_picture_has_a_limit_of_its_own(
    client: TestClient, backend: FakeBackend, part: dict[str, Any], pixels: int
) -> None:
    _sent(client, _chat(part))
    assert backend.requests[-1].image_max_pixels == ([pixels] if pixels else ())


FRAME = base64.b64encode(b"frame").decode()


@pytest.mark.parametrize(
    ("part", "options"),
    [
        (
            {"type": "video_url", "video_url": f"data:video/jpeg;base64,{FRAME},{FRAME}"},
            {"frames": 2},
        ),
        (
            {"type": "video_url", "video_url": f"data:video/JPEG;base64,{FRAME}", "fps": 2},
            {"frames": 1, "fps": 2},
        ),
        (
            {"type": "video", "video": [f"data:image/png;base64,{FRAME}"] * 3, "fps": 2},
            {"frames": 3, "fps": 2},
        ),
        ({"type": "video", "video": [FRAME] * 2, "times": [0, 2.5]},
         {"frames": 2, "times": [0, 2.5]}),
    ],
)  # fmt: skip
def test_frames_as_a_video(
    client: TestClient, backend: FakeBackend, part: dict[str, Any], options: dict[str, Any]
) -> None:
    _sent(client, _chat(part, _video(), _picture()))
    assert _parts(backend) == [{"type": "video", **options}, {"type": "video"}, {"type": "image"}]
    assert backend.requests[-1].videos == [b"frame"] * options["frames"] + [bytes(3)]


def test_a_bad_frame_is_named(client: TestClient, backend: FakeBackend) -> None:
    frames = {"type": "video", "video": [PIXEL, PIXEL]}
    backend.script = [InvalidRequestError("the image is damaged", "video[2]")]
    error = _error(client, _chat(_video(), frames))
    assert error["param"] == "messages[0].content[1].video[1]"
    broken = {"type": "video", "video": [PIXEL, "data:image/png;base64,%%"]}
    error = _error(client, _chat(broken))
    assert (error["param"], error["code"]) == ("messages[0].content[0].video[1]", "invalid_base64")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mm_processor_kwargs": {"num_crops": 4}}, "mm_processor_kwargs"),
        ({"mm_processor_kwargs": {"size": {"height": 4}}}, "mm_processor_kwargs.size"),
        ({"mm_processor_kwargs": {"max_pixels": 0}}, "mm_processor_kwargs.max_pixels"),
        ({"mm_processor_kwargs": {"fps": 0}}, "mm_processor_kwargs.fps"),
        ({"mm_processor_kwargs": "low"}, "mm_processor_kwargs"),
        ({"media_io_kwargs": {"audio": {}}}, "media_io_kwargs"),
        ({"media_io_kwargs": {"video": {"num_frames": 641}}}, "media_io_kwargs.video.num_frames"),
        ({"media_io_kwargs": {"video": {"backend": "x"}}}, "media_io_kwargs.video"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(
    client: TestClient, fields: dict[str, Any], param: str
) -> None:
    assert _error(client, _chat(_video(), **fields))["param"] == param


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (_video(fps=-1), "messages[0].content[0].fps"),
        (_video(num_frames=0), "messages[0].content[0].num_frames"),
        (_video(video_start=-1), "messages[0].content[0].video_start"),
        (_picture(max_pixels=0), "messages[0].content[0].max_pixels"),
        ({"type": "video", "video": []}, "messages[0].content[0].video"),
        ({"type": "video", "video": [PIXEL], "times": [-1]}, "messages[0].content[0].times[0]"),
        ({"type": "image_url"}, "messages[0].content[0].image_url"),
        ({"type": "image_url", "uuid": ""}, "messages[0].content[0].uuid"),
    ],
)
def test_an_option_out_of_range_is_named(
    client: TestClient, part: dict[str, Any], param: str
) -> None:
    assert _error(client, _chat(part))["param"] == param


# A name of the client's own


def test_a_picture_may_be_sent_by_its_name_alone(client: TestClient, backend: FakeBackend) -> None:
    _sent(client, _chat(_picture(uuid="mine"), _video(uuid="mine")))
    first = backend.requests[-1]
    absent: dict[str, Any]
    for absent in ({}, {"image_url": None}, {"image_url": {}}, {"image_url": {"url": ""}}):
        again = {"type": "image_url", "uuid": "mine", **absent}
        _sent(client, _chat(again, {"type": "video_url", "uuid": "mine", "fps": 1}))
        assert backend.requests[-1].images == first.images
        assert backend.requests[-1].videos == first.videos == [bytes(3)]


def test_a_name_that_is_not_remembered_is_refused(client: TestClient) -> None:
    error = _error(client, _chat({"type": "image_url", "uuid": "other"}))
    assert error["code"] == "media_not_remembered"
    assert error["param"] == "messages[0].content[0].uuid"
    _sent(client, _chat(_picture(uuid="a picture")))
    error = _error(client, _chat({"type": "video_url", "uuid": "a picture"}))
    assert error["code"] == "media_not_remembered"


def test_a_name_is_that_of_one_tenant(backend: FakeBackend) -> None:
    with TestClient(
        create_app(Settings(api_keys=(SecretStr("one"), SecretStr("two"))), backend)
    ) as client:
        _sent(client, _chat(_picture(uuid="x")), headers={"authorization": "Bearer one"})
        again = _chat({"type": "image_url", "uuid": "x"})
        _sent(client, again, headers={"authorization": "Bearer one"})
        error = _error(client, again, headers={"authorization": "Bearer two"})
        assert error["code"] == "media_not_remembered"


def test_the_least_recently_used_are_forgotten() -> None:
    memory = MediaMemory(3 * 2024)
    for name in "abc":
        memory.put(("", "image", name), bytes(1000))
    assert memory.get(("", "image", "a"))
    memory.put(("", "image", "d"), bytes(1000))
    assert memory.get(("", "image", "b")) is None
    assert memory.get(("", "image", "a")) and memory.get(("", "image", "d"))
    memory.put(("", "image", "a"), bytes(5000))
    assert memory.get(("", "image", "c")) is None and memory.get(("", "image", "d")) is None
    memory.put(("", "image", "e"), bytes(9000))
    assert memory.get(("", "image", "e")) is None
    memory.put(("", "image", "f"), bytes(3 * 2024 - 1024))
    assert memory.get(("", "image", "f"))


# More than fit


class SmallContext(FakeBackend):
    """A model whose context holds so many pictures and videos."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def _check(self, request: GenerationRequest) -> None:
        if len(request.images) + len(request.videos) > self.most:
            self.requests.append(request)
            raise InvalidRequestError(
                "the image has 9 tokens", "image[0]", code="context_length_exceeded"
            )

    async def stream(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[GenerationDelta]:
        self._check(request)
        async for piece in super().stream(request, timeout=timeout):
            yield piece

    async def generate_choices(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> tuple[Generation, ...]:
        self._check(request)
        return await super().generate_choices(request, timeout=timeout)

    async def tokenize(
        self,
        request: GenerationRequest,
        *,
        token_texts: bool = False,
        timeout: float | None = None,
    ) -> Tokenization:
        self._check(request)
        return await super().tokenize(request, token_texts=token_texts, timeout=timeout)


def _long_chat(**fields: Any) -> dict[str, Any]:
    """Five turns with a picture each, and a video in the second."""
    messages: list[dict[str, Any]] = []
    for number in range(5):
        content = [_picture(), {"type": "text", "text": str(number)}]
        messages += [{"role": "user", "content": [*content, _video()] if number == 1 else content}]
        messages += [{"role": "assistant", "content": "ok"}]
    return {"model": MODEL, "messages": messages[:-1]} | fields


def test_an_error_says_which_message_to_leave_out() -> None:
    with TestClient(create_app(Settings(), SmallContext(3))) as client:
        error = _error(client, _long_chat())
        assert error["code"] == "context_length_exceeded"
        oldest = "the oldest picture or video is messages[0].content[0].image_url.url"
        assert oldest in error["message"]
    with TestClient(create_app(Settings(max_images=3), FakeBackend())) as client:
        error = _error(client, _long_chat())
        assert error["code"] == "too_many_images"
        assert error["param"] == "messages[6].content[0].image_url.url"
        assert "the oldest is messages[0].content[0].image_url.url" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("most", "left"), [(6, 6), (5, 5), (4, 3), (3, 3), (1, 1)])
def test_the_oldest_go_until_the_rest_fits(stream: bool, most: int, left: int) -> None:
    backend = SmallContext(most)
    settings = Settings(media_overflow="oldest")
    with TestClient(create_app(settings, backend)) as client:
        response = _sent(client, _long_chat(stream=stream))
    request = backend.requests[-1]
    assert len(request.images) + len(request.videos) == left
    assert request.messages is not None
    parts = [part for m in request.messages if m["role"] == "user" for part in m["content"]]
    media = [part for part in parts if part == LEFT_OUT or part["type"] != "text"]
    assert media[: 6 - left] == [LEFT_OUT] * (6 - left)
    assert LEFT_OUT not in media[6 - left :]
    names = response.headers.get("x-glm-left-out-media")
    places = [
        "messages[0].content[0].image_url.url", "messages[2].content[0].image_url.url",
        "messages[2].content[2].video_url.url", "messages[4].content[0].image_url.url",
        "messages[6].content[0].image_url.url",
    ]  # fmt: skip
    assert names == (", ".join(places[: 6 - left]) or None)


def test_the_last_one_stays_whatever_happens() -> None:
    backend = SmallContext(0)
    with TestClient(create_app(Settings(media_overflow="oldest"), backend)) as client:
        error = _error(client, _long_chat())
    assert error["code"] == "context_length_exceeded"
    assert len(backend.requests[-1].images) == 1
    assert len(backend.requests) < 6


def test_the_oldest_above_a_number_go_before_they_are_loaded() -> None:
    backend = FakeBackend()
    settings = Settings(media_overflow="oldest", max_images=2, max_videos=1)
    fetcher = ImageFetcher(settings, httpx2.MockTransport(lambda request: httpx2.Response(500)))
    body = _long_chat()
    body["messages"][0]["content"][0]["image_url"]["url"] = "https://93.184.215.14/gone.png"
    with TestClient(create_app(settings, backend, fetcher)) as client:
        response = _sent(client, body)
    assert (len(backend.requests[-1].images), len(backend.requests[-1].videos)) == (2, 1)
    assert response.headers["x-glm-left-out-media"].count("image_url") == 3


def test_tokens_are_counted_without_what_would_be_left_out() -> None:
    backend = SmallContext(3)
    with TestClient(create_app(Settings(media_overflow="oldest"), backend)) as client:
        response = client.post("/tokenize", json=_long_chat())
    assert response.status_code == 200, response.text
    assert "x-glm-left-out-media" in response.headers


def test_other_apis_leave_out_as_well() -> None:
    backend = SmallContext(1)
    content = [{"type": "input_image", "image_url": PIXEL}] * 2
    body = {"model": MODEL, "input": [{"role": "user", "content": content}]}
    with TestClient(create_app(Settings(media_overflow="oldest"), backend)) as client:
        response = client.post(RESPONSES, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["x-glm-left-out-media"].startswith("input[0].content[0]")


def test_seventeen_pictures_and_two_videos_are_accepted(
    client: TestClient, backend: FakeBackend
) -> None:
    _sent(client, _chat(*[_picture()] * 17, *[_video()] * 2))
    assert (len(backend.requests[-1].images), len(backend.requests[-1].videos)) == (17, 2)
