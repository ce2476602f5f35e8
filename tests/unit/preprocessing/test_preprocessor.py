"""The whole of stage 1, as stage 2 calls it."""

import base64
import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.preprocessor import Preprocessor, PromptRequest
from glm_preprocessing.settings import PreprocessingSettings
from unit.paths import DEMO_CHECKPOINT


def _png(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    settings = PreprocessingSettings.from_env({"GLM_MODEL": str(DEMO_CHECKPOINT)})
    return Preprocessor.from_settings(settings)


def test_images_stand_where_the_messages_put_them(preprocessor: Preprocessor) -> None:
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


def test_a_prompt_without_images(preprocessor: Preprocessor) -> None:
    prompt = preprocessor(PromptRequest(text_input="hello"))
    assert prompt.patches.shape == (0, 588) and prompt.image_grid_thw.shape == (0, 3)
    assert prompt.rope_delta == 0


@pytest.mark.parametrize(
    ("request_", "beginning"),
    [
        (PromptRequest(), "messages: is missing"),
        (PromptRequest(text_input="x", tools="[" * 900 + "]" * 900), "tools"),
        (PromptRequest(messages='[{"role":"user","content":"\\ud800"}]'), "messages: hold half"),
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
            "messages: the chat template has room for 0 of their 1 image(s)",
        ),
        (PromptRequest(messages="[]", text_input="x"), "text_input: "),
        (PromptRequest(text_input="x" * 1_000_000), "text_input: the prompt of 1000035 characters"),
        (PromptRequest(messages="{"), "messages: is not valid JSON"),
        (PromptRequest(messages="[" * 100_000), "messages: is not valid JSON"),
        (PromptRequest(text_input="x", tools="{"), "tools: is not valid JSON"),
        (PromptRequest(text_input="x", chat_template_kwargs="["), "chat_template_kwargs: "),
        (PromptRequest(messages='[{"role":"user","content":"x"}]', image=[b"x"]), "image: 1 given"),
        (
            PromptRequest(messages='[{"role":"user","content":[{"type":"image"}]}]'),
            "image: 0 given",
        ),
        (
            PromptRequest(text_input="x", image=[_png("red"), b"text file"]),
            "image[1]: not an image",
        ),
        (PromptRequest(text_input="x", image=[_png("red")] * 17), "image: 17 given, at most 16"),
        (PromptRequest(text_input="x", image=[_png("red", (1, 300))]), "image[0]: 1 x 300"),
    ],
)
def test_errors_name_the_field(
    request_: PromptRequest, beginning: str, preprocessor: Preprocessor
) -> None:
    with pytest.raises(InvalidInput) as caught:
        preprocessor(request_)
    assert str(caught.value).startswith(beginning)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "GLM_MODEL is not set"),
        ({"GLM_MODEL": "x", "GLM_MAX_IMAGE_SIDE": "big"}, "GLM_MAX_IMAGE_SIDE='big'"),
        ({"GLM_MODEL": "x", "GLM_MAX_IMAGE_PIXELS": "0"}, "GLM_MAX_IMAGE_PIXELS='0'"),
    ],
)
def test_a_bad_setting_is_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreprocessingSettings.from_env(env)
