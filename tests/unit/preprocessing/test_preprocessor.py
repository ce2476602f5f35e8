"""The whole of stage 1, as stage 2 calls it."""

import base64
import itertools
import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.glm46v.processing_glm46v import Glm46VProcessor
from transformers.video_utils import VideoMetadata

from glm_preprocessing.chat import parse_conversation, user_turn
from glm_preprocessing.checkpoint import Checkpoint
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.preprocessor import HASH_BYTES, Preprocessor, PromptRequest
from glm_preprocessing.settings import PreprocessingSettings
from glm_preprocessing.videos import sample_frames
from tools.clips import clip, scene
from unit.paths import DEMO_CHECKPOINT
from unit.preprocessing.files import image_file

HASH = bytes(HASH_BYTES)
_large = partial(scene, size=(448, 448))


def _png(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    return image_file(Image.new("RGB", size, colour))


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    limits = {"GLM_MAX_IMAGES": "16", "GLM_MAX_VIDEOS": "1"}
    settings = PreprocessingSettings.from_env({"GLM_MODEL": str(DEMO_CHECKPOINT)} | limits)
    return Preprocessor.from_settings(settings)


def test_images_are_placed_as_in_the_messages(preprocessor: Preprocessor) -> None:
    own = base64.b64encode(_png("blue", (300, 100))).decode()
    parts = [
        {"type": "text", "text": "first"},
        {"type": "image"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{own}"}},
        {"type": "text", "text": "last"},
    ]
    messages = json.dumps([{"role": "user", "content": parts}])
    prompt = preprocessor(PromptRequest(messages=messages, image=[_png("red")]))

    assert len(prompt.image_grid_thw) == 2
    tokens = [int(h * w // 4) for _, h, w in prompt.image_grid_thw]
    image_id = preprocessor._image_token_id
    is_image = prompt.input_ids == image_id
    starts = np.flatnonzero(np.diff(is_image.astype(int)) == 1)
    ends = np.flatnonzero(np.diff(is_image.astype(int)) == -1)
    assert (ends - starts).tolist() == tokens
    assert len(prompt.patches) == 4 * sum(tokens)
    assert prompt.position_ids.shape == (3, len(prompt.input_ids))
    # red patches first, blue ones after them
    assert prompt.patches[0, 0] == 255 and prompt.patches[-1, 0] == 0


def test_text_input_is_one_user_turn_with_its_images_first(preprocessor: Preprocessor) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    messages = json.dumps([{"role": "user", "content": content}])
    by_messages = preprocessor(PromptRequest(messages=messages, image=[_png("red")]))
    by_text = preprocessor(PromptRequest(text_input="What is it?", image=[_png("red")]))
    assert by_text.input_ids.tolist() == by_messages.input_ids.tolist()


def test_prompt_without_images_has_no_patches(preprocessor: Preprocessor) -> None:
    prompt = preprocessor(PromptRequest(text_input="hello"))
    assert prompt.patches.shape == (0, 588) and prompt.image_grid_thw.shape == (0, 3)
    assert prompt.rope_delta.tolist() == [0]


@pytest.mark.parametrize(
    ("request_", "beginning"),
    [
        (PromptRequest(), "messages: is missing"),
        (PromptRequest(text_input="x", tools="[" * 900 + "]" * 900), "tools"),
        (
            PromptRequest(messages='[{"role":"user","content":"\\ud800"}]'),
            "messages: contains an unpaired",
        ),
        (
            PromptRequest(
                messages=json.dumps(
                    [
                        {"role": "user", "content": "x"},
                        {
                            "role": "assistant",
                            "content": [{"type": "image"}, {"type": "text", "text": "</think>y"}],
                        },
                        {"role": "user", "content": "z"},
                    ]
                ),
                image=[_png("red")],
            ),
            "messages: the prompt has 0 image placeholder(s), but 1 image(s)",
        ),
        (PromptRequest(messages="[]", text_input="x"), "text_input: "),
        (PromptRequest(text_input="x", image_hashes=[HASH]), "image_hash: must have one entry"),
        *(
            (
                PromptRequest(
                    text_input="x", image=[b""], image_hashes=[HASH], known_grids={HASH: grid}
                ),
                "image_grid: must be the grid of an image",
            )
            for grid in [(1, 3, 4), (1, -2, -2), (2, 2, 2), (1, 0, 2), (1, 2**30, 2**30)]
        ),
        (PromptRequest(text_input="x" * 1_000_000), "text_input: the prompt of 1000035 characters"),
        (PromptRequest(text_input="x", prompt="y"), "prompt: cannot be combined with text_input"),
        (PromptRequest(prompt="x", tools="[]"), "tools: cannot be combined with prompt"),
        (PromptRequest(prompt=""), "prompt: is empty"),
        (PromptRequest(prompt="\ud800"), "prompt: contains an unpaired"),
        (
            PromptRequest(prompt="<|image|>"),
            "prompt: the prompt has 1 image placeholder(s), but 0 image(s)",
        ),
        (PromptRequest(prompt="x" * 1_000_000), "prompt: the prompt of 1000000 characters"),
        (PromptRequest(prompt_token_ids=[]), "prompt_token_ids: is empty"),
        (
            PromptRequest(prompt_token_ids=[5, -1]),
            "prompt_token_ids[1]: token id -1 does not exist",
        ),
        (
            PromptRequest(prompt_token_ids=[5, 785]),
            "prompt_token_ids[1]: token id 785 does not exist",
        ),
        (PromptRequest(prompt_token_ids=[5] * 5000), "prompt_token_ids: the prompt has 5000"),
        (
            PromptRequest(text_input="x", image=[_png("red")], image_max_pixels=[1, 2]),
            "image_max_pixels: must have one entry",
        ),
        (
            PromptRequest(text_input="x", image=[_png("red")], image_max_pixels=[-1]),
            "image_max_pixels[0]: must be 0 or more",
        ),
        (PromptRequest(messages="{"), "messages: is not valid JSON"),
        (PromptRequest(messages="[" * 100_000), "messages: is not valid JSON"),
        (PromptRequest(text_input="x", tools="[" + " " * 600_000 + "]"), "tools: must not exceed"),
        (
            PromptRequest(messages=json.dumps([{"role": "user", "content": "x"}] * 5000)),
            "messages: too many messages: 5000 (maximum 4096)",
        ),
        (PromptRequest(text_input="x", tools="{"), "tools: is not valid JSON"),
        (PromptRequest(text_input="x", chat_template_kwargs="["), "chat_template_kwargs: "),
        (PromptRequest(messages='[{"role":"user","content":"x"}]', image=[b"x"]), "image: got 1"),
        (
            PromptRequest(messages='[{"role":"user","content":[{"type":"image"}]}]'),
            "image: got 0",
        ),
        (
            PromptRequest(text_input="x", image=[_png("red"), b"text file"]),
            "image[1]: not a readable image",
        ),
        (
            PromptRequest(text_input="x", image=[_png("red")] * 17),
            "image: too many images: 17 (maximum 16)",
        ),
        (PromptRequest(text_input="x", image=[_png("red", (1, 300))]), "image[0]: 1 x 300"),
    ],
)
def test_errors_name_the_field(
    request_: PromptRequest, beginning: str, preprocessor: Preprocessor
) -> None:
    with pytest.raises(InvalidInput) as caught:
        preprocessor(request_)
    assert str(caught.value).startswith(beginning)


def test_image_decode_timeout_covers_the_whole_request(
    preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=20)  # per picture
    monkeypatch.setattr("glm_preprocessing.preprocessor.time.monotonic", lambda: next(seconds))
    two = PromptRequest(text_input="x", image=[_png("red"), _png("blue")])
    with pytest.raises(InvalidInput, match=r"image\[1\]: decoding the images before it took"):
        preprocessor(two)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "GLM_MODEL is not set"),
        ({"GLM_MODEL": "x", "GLM_MAX_IMAGE_SIDE": "big"}, "GLM_MAX_IMAGE_SIDE='big'"),
        ({"GLM_MODEL": "x", "GLM_MAX_VIDEO_FRAMES": "0"}, "GLM_MAX_VIDEO_FRAMES='0'"),
        ({"GLM_MODEL": "x", "GLM_VIDEO_DECODE_TIMEOUT": "no"}, "GLM_VIDEO_DECODE_TIMEOUT='no'"),
        ({"GLM_MODEL": "x", "GLM_IMAGE_DECODE_TIMEOUT": "0"}, "GLM_IMAGE_DECODE_TIMEOUT='0'"),
        ({"GLM_MODEL": "x", "GLM_MAX_VIDEOS": "-1"}, "GLM_MAX_VIDEOS='-1'"),
        ({"GLM_MODEL": "x", "GLM_MAX_IMAGE_PIXELS": "0"}, "GLM_MAX_IMAGE_PIXELS='0'"),
    ],
)
def test_a_bad_setting_is_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreprocessingSettings.from_env(env)


def test_a_raw_prompt_is_tokenised_as_it_is_with_its_tags(preprocessor: Preprocessor) -> None:
    templated = preprocessor(PromptRequest(text_input="What is it?", image=[_png("red")]))
    text = (
        "[gMASK]<sop><|user|>\n<|begin_of_image|><|image|><|end_of_image|>What is it?"
        "<|assistant|>\n"
    )
    raw = preprocessor(PromptRequest(prompt=text, image=[_png("red")]))
    assert raw.input_ids.tolist() == templated.input_ids.tolist()
    assert raw.position_ids.tolist() == templated.position_ids.tolist()


def test_a_tokenised_prompt_is_taken_as_it_is(preprocessor: Preprocessor) -> None:
    templated = preprocessor(PromptRequest(text_input="What is it?"))
    ids = templated.input_ids.tolist()
    assert preprocessor(PromptRequest(prompt_token_ids=ids)).input_ids.tolist() == ids


def test_tokens_become_text_again(preprocessor: Preprocessor) -> None:
    text = "[gMASK]<sop><|user|>\n红色 naïve 🙂  x<|assistant|>\n"
    ids = preprocessor(PromptRequest(prompt=text)).input_ids.tolist()
    assert preprocessor.text(ids) == text
    pieces = preprocessor.texts(ids)
    assert len(pieces) == len(ids) and pieces[:4] == ["[gMASK]", "<sop>", "<|user|>", "\n"]


def test_a_smaller_pixel_budget_is_another_image(preprocessor: Preprocessor) -> None:
    picture = _png("red", (400, 200))
    whole, small = (
        preprocessor(PromptRequest(text_input="x", image=[picture], image_max_pixels=[budget]))
        for budget in (0, 60 * 60)
    )
    assert whole.image_hash.tolist() != small.image_hash.tolist()
    plain = preprocessor(PromptRequest(text_input="x", image=[picture]))
    assert whole.image_hash.tolist() == plain.image_hash.tolist()


def _messages(*turns: tuple[str, object]) -> str:
    return json.dumps([{"role": role, "content": content} for role, content in turns])


@pytest.mark.parametrize(
    "content",
    [
        "A red cir",
        " two\nlines \n",
        [{"type": "text", "text": "A re"}, {"type": "text", "text": "d"}],
    ],
)
def test_continue_final_message_ends_the_prompt_within_it(
    preprocessor: Preprocessor, content: object
) -> None:
    prompt = preprocessor(
        PromptRequest(
            messages=_messages(("user", "What is it?"), ("assistant", content)),
            chat_template_kwargs='{"continue_final_message": true, "enable_thinking": false}',
        )
    )
    text = content if isinstance(content, str) else "A red"
    assert preprocessor.text(prompt.input_ids.tolist()) == (
        "[gMASK]<sop><|user|>\nWhat is it?/nothink<|assistant|>\n<think></think>\n" + text.lstrip()
    )


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "<think>No im"},
        {"content": [{"type": "text", "text": "\n<think>No im"}]},
        {"content": "", "reasoning_content": "No im"},
        {"content": None, "reasoning_content": "No im"},
    ],
)
def test_continue_final_message_within_a_thought(
    preprocessor: Preprocessor, turn: dict[str, object]
) -> None:
    messages = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", **turn}]
    prompt = preprocessor(
        PromptRequest(
            messages=json.dumps(messages),
            chat_template_kwargs='{"continue_final_message": true}',
        )
    )
    assert preprocessor.text(prompt.input_ids.tolist()) == (
        "[gMASK]<sop><|user|>\nWho are you?<|assistant|>\n<think>No im"
    )


@pytest.mark.parametrize(
    ("messages", "kwargs", "beginning"),
    [
        (_messages(("user", "x")), True, "messages[0].role: must be assistant"),
        (_messages(("user", "x"), ("assistant", "")), True, "messages[1].content: must be text"),
        (_messages(("user", "x"), ("assistant", [])), True, "messages[1].content: must end in"),
        (_messages(("user", "x")), 3, "chat_template_kwargs.continue_final_message: must be"),
    ],
)
def test_message_that_cannot_be_continued_is_rejected(
    preprocessor: Preprocessor, messages: str, kwargs: object, beginning: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        preprocessor(
            PromptRequest(
                messages=messages,
                chat_template_kwargs=json.dumps({"continue_final_message": kwargs}),
            )
        )
    assert str(caught.value).startswith(beginning)


def _video_reference(grid: list[int], indices: list[int], fps: float) -> str:
    """What transformers writes in the place of ``<|video|>``."""
    processor: Any = Glm46VProcessor.__new__(Glm46VProcessor)
    processor.image_token = "<|image|>"
    processor.video_processor = SimpleNamespace(merge_size=2)
    metadata = VideoMetadata(total_num_frames=0, fps=fps, frames_indices=indices)
    given = {"video_grid_thw": [torch.tensor(grid)], "video_metadata": [metadata]}
    text: str = processor.replace_video_token(given, 0)
    return text


@pytest.mark.parametrize(("num_frames", "fps"), [(8, 4), (31, 10), (3, 2), (100, 25)])
def test_a_videos_tokens_are_those_of_transformers(
    preprocessor: Preprocessor, num_frames: int, fps: int
) -> None:
    prompt = preprocessor(PromptRequest(text_input="What is it?", video=[clip(num_frames, fps)]))
    indices = sample_frames(num_frames, float(fps))
    grids = prompt.image_grid_thw.tolist()
    assert grids == [[1, *grids[0][1:]]] * (len(indices) // 2)
    video = _video_reference([len(grids), *grids[0][1:]], indices, fps)
    text = preprocessor.text(preprocessor(PromptRequest(prompt="What is it?")).input_ids.tolist())
    expected = preprocessor._template.render(
        parse_conversation(user_turn(text, 0, 1), None, None, preprocessor._tokenizer)
    ).replace("<|video|>", video)
    tokenizer: Any = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    assert prompt.input_ids.tolist() == tokenizer(expected).input_ids
    assert prompt.image_frames.tolist() == [2] * len(grids)
    assert len(prompt.patches) == 2 * sum(h * w for _, h, w in grids)


def test_the_checkpoint_says_how_many_tokens_a_video_may_have() -> None:
    settings = PreprocessingSettings.from_env({"GLM_MODEL": str(DEMO_CHECKPOINT)})
    checkpoint = Checkpoint.load(settings.model)
    large = PromptRequest(text_input="?", video=[clip(100, 4, draw=_large)])
    grids = Preprocessor(checkpoint, settings)(large).image_grid_thw
    assert 700 < sum(h * w // 4 for _, h, w in grids) <= 1024
    # Without the file it is transformers' limit, and more than the model's context.
    unlimited = Preprocessor(replace(checkpoint, video_processor={}), settings)
    with pytest.raises(InvalidInput, match=r"^video\[0\]: the video has 12800 tokens"):
        unlimited(large)


def test_videos_and_images_are_placed_as_in_the_messages(preprocessor: Preprocessor) -> None:
    parts = [{"type": "image"}, {"type": "video"}, {"type": "image"}]
    messages = json.dumps([{"role": "user", "content": parts}])
    prompt = preprocessor(
        PromptRequest(messages=messages, image=[_png("red"), _png("blue")], video=[clip(8)])
    )
    frames = prompt.image_frames.tolist()
    assert frames[0] == frames[-1] == 1 and set(frames[1:-1]) == {2}
    assert prompt.image_size.tolist() == [[64, 64]] * 2  # of pictures only
    ids = prompt.input_ids.tolist()
    begin, end = (preprocessor._tokenizer.token_id(f"<|{s}_of_video|>") for s in ("begin", "end"))
    before, inside, after = ids[: ids.index(begin)], ids[ids.index(begin) : ids.index(end)], ids
    tokens = [h * w // 4 for _, h, w in prompt.image_grid_thw.tolist()]
    image = preprocessor._image_token_id
    assert before.count(image) == tokens[0] and inside.count(image) == sum(tokens[1:-1])
    assert after.count(image) == sum(tokens)


def test_a_video_may_come_as_a_data_uri_in_the_messages(preprocessor: Preprocessor) -> None:
    file = clip(8, container="webm")
    uri = "data:video/webm;base64," + base64.b64encode(file).decode()
    parts = [{"type": "video_url", "video_url": {"url": uri}}, {"type": "text", "text": "?"}]
    own = preprocessor(PromptRequest(messages=json.dumps([{"role": "user", "content": parts}])))
    sent = preprocessor(PromptRequest(text_input="?", video=[base64.b64encode(file)]))
    assert own.input_ids.tolist() == sent.input_ids.tolist()
    assert own.image_hash.tolist() == sent.image_hash.tolist()


def test_a_raw_prompt_takes_the_next_video_for_each_placeholder(preprocessor: Preprocessor) -> None:
    file = clip(8)
    by_text = preprocessor(PromptRequest(text_input="?", video=[file]))
    raw = preprocessor(PromptRequest(prompt="a<|video|>b", video=[file]))
    assert raw.patches.tolist() == by_text.patches.tolist()


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (PromptRequest(text_input="?", video=[b""]), "video[0]: the video is empty"),
        (
            PromptRequest(text_input="?", video=[b"data:video/mp4,x"]),
            "video[0]: a data URI must have the form data:video/",
        ),
        (PromptRequest(text_input="?", video=[_png("red")]), "video[0]: not a readable video"),
        (PromptRequest(text_input="?", video=[clip(1, 25)]), "video[0]: the video is too short"),
        (
            PromptRequest(text_input="?", video=[clip(4)] * 2),
            "video: too many videos: 2 (maximum 1)",
        ),
        (
            PromptRequest(messages='[{"role":"user","content":[{"type":"video"}]}]'),
            "video: got 0, but the messages have 1",
        ),
        (
            PromptRequest(prompt="no place", video=[clip(4)]),
            "prompt: the prompt has 0 video placeholder(s), but 1",
        ),
        (
            PromptRequest(
                messages='[{"role":"user","content":[{"type":"video_url","video_url":'
                '{"url":"http://127.0.0.1/x.mp4"}}]}]'
            ),
            "messages[0].content[0].video_url.url: must be a data URI",
        ),
    ],
)
def test_a_bad_video_names_its_place(
    preprocessor: Preprocessor, request_: PromptRequest, error: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        preprocessor(request_)
    assert str(caught.value).startswith(error)


ASKED: list[dict[str, Any]] = [
    {"content": "What color is it?", "options": ["red", "<|user|>"]},
    {"content": [{"type": "text", "text": "This one?"}, {"type": "image"}], "options": ["yes"]},
    {"content": "Where?", "options": ["left", "right", "left of it"]},
]


def test_each_question_has_the_prompt_that_its_conversation_would_have(
    preprocessor: Preprocessor,
) -> None:
    first, second = _png("red", (60, 90)), _png("blue", (90, 60))
    parts = [{"type": "image"}, {"type": "text", "text": "Look:"}]
    prompt = preprocessor(
        PromptRequest(
            messages=json.dumps([{"role": "user", "content": parts}]),
            image=[first, second],
            questions=json.dumps(ASKED),
        )
    )
    ends = np.cumsum(prompt.prompt_length)
    for number, asked in enumerate(ASKED):
        content = asked["content"]
        own = [{"type": "text", "text": content}] if isinstance(content, str) else content
        alone = preprocessor(
            PromptRequest(
                messages=json.dumps(
                    [{"role": "user", "content": [*parts, {"type": "text", "text": "\n\n"}, *own]}]
                ),
                image=[first, second] if number == 1 else [first],
            )
        )
        places = slice(ends[number] - prompt.prompt_length[number], ends[number])
        assert prompt.input_ids[places].tolist() == alone.input_ids.tolist()
        assert prompt.position_ids[:, places].tolist() == alone.position_ids.tolist()
        assert prompt.rope_delta[number] == alone.rope_delta[0]
        assert prompt.prompt_images[number] == alone.prompt_images[0]
        if number == 1:  # each picture is sent once
            assert prompt.patches.tolist() == alone.patches.tolist()
    assert [len(options) for options in prompt.options] == [2, 1, 3]
    assert prompt.options[2][2][: len(prompt.options[2][0])] == prompt.options[2][0]
    assert len(prompt.options[0][1]) > 1  # what looks like a tag is text


def test_questions_follow_the_assistants_turn_as_a_turn_of_their_own(
    preprocessor: Preprocessor,
) -> None:
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello!"}]
    asked = [{"content": "Is it?", "options": ["yes"]}]
    prompt = preprocessor(PromptRequest(messages=json.dumps(history), questions=json.dumps(asked)))
    alone = preprocessor(
        PromptRequest(messages=json.dumps([*history, {"role": "user", "content": "Is it?"}]))
    )
    assert prompt.input_ids.tolist() == alone.input_ids.tolist()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([{"content": "a", "options": ["b"]}] * 401, "questions"),
        ([{"content": "a", "options": [str(i) for i in range(256)]}], "questions[0].options"),
        ([{"content": "a", "options": [str(i) for i in range(255)]}] * 40, "questions"),
        ([{"content": "a", "options": ["\ud800"]}], "questions[0].options[0]"),
        ([{"content": "a", "options": ["b"]}, "a"], "questions[1]"),
        ([{"content": "a" * 10**6, "options": ["b"]}], "questions[0]"),
    ],
)
def test_questions_are_bounded(preprocessor: Preprocessor, given: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        preprocessor(PromptRequest(text_input="hello", questions=json.dumps(given)))
    assert refused.value.param == field


def test_the_prompts_of_all_questions_are_bounded_together(
    preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm_preprocessing.preprocessor.MAX_QUESTION_TOKENS", 100)
    asked = [{"content": "What is it?", "options": ["b"]}] * 20
    preprocessor(PromptRequest(text_input="hello", questions=json.dumps(asked[:2])))
    with pytest.raises(InvalidInput, match=r"up to questions\[\d\] have 1\d\d together") as refused:
        preprocessor(PromptRequest(text_input="hello", questions=json.dumps(asked)))
    assert refused.value.param == "questions"


def test_questions_are_about_a_conversation(preprocessor: Preprocessor) -> None:
    asked = json.dumps([{"content": "a", "options": ["b"]}])
    with pytest.raises(InvalidInput) as refused:
        preprocessor(PromptRequest(prompt="hello", questions=asked))
    assert refused.value.param == "questions"
