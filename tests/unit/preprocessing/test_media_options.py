"""What a request may say about how its media are looked at, against transformers' processor."""

import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from glm_preprocessing.checkpoint import Checkpoint
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.preprocessor import Preprocessor, Prompt, PromptRequest
from glm_preprocessing.settings import PreprocessingSettings
from tools.clips import clip, scene
from unit.paths import DEMO_CHECKPOINT
from unit.preprocessing.files import image_file

MODEL = {"GLM_MODEL": str(DEMO_CHECKPOINT)}


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    return Preprocessor.from_settings(PreprocessingSettings.from_env(MODEL))


def _request(*parts: dict[str, Any], **fields: Any) -> PromptRequest:
    content = [*parts, {"type": "text", "text": "What is it?"}]
    return PromptRequest(messages=json.dumps([{"role": "user", "content": content}]), **fields)


def _times(preprocessor: Preprocessor, prompt: Prompt) -> list[float]:
    text = preprocessor.text(prompt.input_ids.tolist())
    return [float(time) for time in re.findall(r"([\d.]+) seconds", text)]


# 40 frames in 10 s.
CLIP = clip(40, 4)


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"num_frames": 4}, [0.0, 6.5]),
        ({"num_frames": 1}, [0.0]),
        ({"num_frames": 2, "fps": 4}, [0.0]),
        ({"fps": 0.4}, [0.0, 6.5]),
        ({"fps": 0.01}, [0.0]),
        ({"video_start": 8}, [8.0, 8.5, 9.0, 9.5]),
        ({"video_start": 8.1, "video_end": 9}, [8.0, 8.5]),
        ({"video_end": 1}, [0.0, 0.5]),
        ({"video_start": 2, "video_end": 6, "num_frames": 4}, [2.0, 4.5]),
        ({"video_start": 9.99, "num_frames": 8}, [9.8]),
    ],
    ids=str,
)
def test_the_frames_that_a_video_asks_for(
    preprocessor: Preprocessor, options: dict[str, Any], times: list[float]
) -> None:
    prompt = preprocessor(_request({"type": "video", **options}, video=[CLIP]))
    assert _times(preprocessor, prompt) == times
    assert len(prompt.image_grid_thw) == len(times)


def test_the_frames_are_those_of_the_times(preprocessor: Preprocessor) -> None:
    whole = preprocessor(_request({"type": "video"}, video=[CLIP]))
    part = preprocessor(_request({"type": "video", "video_start": 8}, video=[CLIP]))
    # The whole is looked at in every frame: the last four pairs are the same ones.
    assert np.array_equal(part.image_hash, whole.image_hash[-4:])


def test_a_videos_frames_have_a_limit(preprocessor: Preprocessor) -> None:
    part = {"type": "video", "max_pixels": 3000}
    prompt = preprocessor(_request(part, video=[clip(8, 4, draw=lambda n: scene(n, (448, 336)))]))
    assert {tuple(grid) for grid in prompt.image_grid_thw.tolist()} == {(1, 4, 4)}


FRAMES = [image_file(scene(number)) for number in range(5)]


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, [0.0, 2.0, 4.0]),
        ({"fps": 2}, [0.0, 1.0, 2.0]),
        ({"times": [0, 0.5, 7.25, 8, 60]}, [0.0, 7.2, 60.0]),
    ],
    ids=str,
)
def test_frames_are_a_video(
    preprocessor: Preprocessor, options: dict[str, Any], times: list[float]
) -> None:
    part = {"type": "video", "frames": 5, **options}
    prompt = preprocessor(_request(part, {"type": "video"}, video=[*FRAMES, CLIP]))
    assert _times(preprocessor, prompt)[:3] == times
    assert prompt.image_frames.tolist()[:3] == [2, 2, 2]
    # Each as the picture that it is, which need not be resized.
    for number in (0, 1):
        picture = preprocessor(PromptRequest(text_input="?", image=[FRAMES[number]]))
        assert np.array_equal(prompt.patches[:128].reshape(64, 2, -1)[:, number], picture.patches)


def test_a_bad_frame_is_named(preprocessor: Preprocessor) -> None:
    request = _request({"type": "video", "frames": 3}, video=[*FRAMES[:2], b"no picture"])
    with pytest.raises(InvalidInput, match=r"^video\[2\]: not a readable image"):
        preprocessor(request)
    with pytest.raises(InvalidInput, match=r"^video: got 2, but the messages have 3"):
        preprocessor(_request({"type": "video", "frames": 3}, video=FRAMES[:2]))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fps": 0}, "fps: must be a number, more than 0"),
        ({"fps": True}, "fps: must be a number"),
        ({"fps": "2"}, "fps: must be a number"),
        ({"fps": 1e9}, "fps: must be a number, more than 0, at most 240"),
        ({"num_frames": 641}, "num_frames: must be a whole number from 1 to 640"),
        ({"num_frames": 2.0}, "num_frames: must be a whole number"),
        ({"video_start": -1}, "video_start: must be a number, 0 or more"),
        ({"video_start": 5, "video_end": 5}, "video_end: must be after video_start"),
        ({"max_pixels": 0}, "max_pixels: must be a whole number"),
        ({"frames": 2, "times": [0]}, "times: must be a list with one time for each frame"),
        ({"frames": 2, "times": [1, 0]}, "times: must be ascending"),
        ({"times": [0]}, "times: must be a list"),
    ],
    ids=str,
)
def test_a_bad_option_is_named(
    preprocessor: Preprocessor, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        preprocessor(_request({"type": "video", **options}, video=[CLIP, CLIP]))
    assert str(caught.value).startswith(f"messages[0].content[0].{error}")


def test_a_start_after_the_end_is_named(preprocessor: Preprocessor) -> None:
    with pytest.raises(InvalidInput, match=r"^video\[0\]: video_start is after .* which has 10 s"):
        preprocessor(_request({"type": "video", "video_start": 10}, video=[CLIP]))


def _noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"size": {"shortest_edge": 12_544, "longest_edge": 60_000}},
        {"size": {"longest_edge": 1_000_000}},
        {"size": {"shortest_edge": 200_000, "longest_edge": 300_000}},
        {"min_pixels": 200_000, "max_pixels": 300_000},
        {"do_resize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(56, 56), (640, 480), (100, 300)])
def test_the_processors_arguments_do_what_they_do_there(
    preprocessor: Preprocessor, kwargs: dict[str, Any], size: tuple[int, int]
) -> None:
    edges = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
    own = Checkpoint.load(str(DEMO_CHECKPOINT)).image_processor["size"]
    wanted = own | kwargs.get("size", {})
    wanted |= {edge: kwargs[name] for edge, name in edges.items() if name in kwargs}
    image = _noise(*size)
    theirs = Glm46VImageProcessorPil(size=wanted)(
        images=[image], return_tensors="np", do_normalize=False, do_rescale=False
    )
    request = PromptRequest(
        text_input="?", image=[image_file(image)], mm_processor_kwargs=json.dumps(kwargs)
    )
    prompt = preprocessor(request)
    assert prompt.image_grid_thw.tolist() == theirs["image_grid_thw"].tolist()
    pixels = theirs["pixel_values"].reshape(-1, 3, 2, 196)[:, :, 0].reshape(-1, 588)
    assert np.array_equal(prompt.patches, pixels)


def test_media_may_stay_as_they_are(preprocessor: Preprocessor) -> None:
    kwargs = json.dumps({"do_resize": False})
    image = _noise(140, 84)
    request = PromptRequest(text_input="?", image=[image_file(image)], mm_processor_kwargs=kwargs)
    assert preprocessor(request).image_grid_thw.tolist() == [[1, 6, 10]]
    odd = PromptRequest(
        text_input="?", image=[image_file(_noise(100, 84))], mm_processor_kwargs=kwargs
    )
    with pytest.raises(InvalidInput, match=r"^image\[0\]: 100 x 84 pixels: without do_resize"):
        preprocessor(odd)


def test_a_picture_read_otherwise_is_another_picture(preprocessor: Preprocessor) -> None:
    hashes = {
        preprocessor(
            PromptRequest(text_input="?", image=[FRAMES[0]], mm_processor_kwargs=kwargs)
        ).image_hash.tobytes()
        for kwargs in (None, '{"max_pixels": 20000}', '{"max_pixels": 30000}')
    }
    assert len(hashes) == 3


def test_the_processors_fps_is_for_videos_without_their_own(preprocessor: Preprocessor) -> None:
    request = _request(
        {"type": "video"},
        {"type": "video", "num_frames": 2, "fps": 100},
        video=[CLIP, CLIP],
        mm_processor_kwargs='{"fps": 0.4}',
    )
    assert _times(preprocessor, preprocessor(request)) == [0.0, 6.5, 0.0]


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ("[]", "mm_processor_kwargs: must be a JSON object"),
        ("{", "mm_processor_kwargs: is not valid JSON"),
        ('{"num_crops": 1}', "mm_processor_kwargs.num_crops: is not supported (supported: size"),
        ('{"size": 3}', "mm_processor_kwargs.size: must be a JSON object"),
        ('{"size": {"height": 3}}', "mm_processor_kwargs.size.height: is not supported"),
        ('{"max_pixels": -1}', "mm_processor_kwargs.max_pixels: must be a whole number"),
        ('{"do_resize": "no"}', "mm_processor_kwargs.do_resize: must be true or false"),
        ('{"fps": null, "min_pixels": 9000000}', "mm_processor_kwargs: min_pixels 9000000 exceeds"),
    ],
)
def test_bad_arguments_of_the_processor_are_named(
    preprocessor: Preprocessor, kwargs: str, error: str
) -> None:
    request = PromptRequest(text_input="?", image=[FRAMES[0]], mm_processor_kwargs=kwargs)
    with pytest.raises(InvalidInput) as caught:
        preprocessor(request)
    assert str(caught.value).startswith(error)


def test_pictures_are_decoded_as_long_as_they_fit_the_context(
    preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessor, "_context", 100)
    pictures = [image_file(Image.new("RGB", (224, 224), (n, 0, 0))) for n in range(9)]
    request = PromptRequest(text_input="?", image=[*pictures[:4], b"not read any more"])
    with pytest.raises(InvalidInput) as caught:
        preprocessor(request)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param in {f"image[{n}]" for n in range(1, 4)}
    assert "of those before it, which leaves none for an answer" in caught.value.message


def test_the_pictures_of_each_question_are_counted_by_themselves(
    preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has 25 tokens; that of all and one more fit a context of 70, three do not."""
    monkeypatch.setattr(preprocessor, "_context", 70)
    pictures = [image_file(Image.new("RGB", (224, 224), (n, 0, 0))) for n in range(5)]

    def ask(*counts: int) -> Prompt:
        asked = [
            {"content": [{"type": "image"}] * count or "?", "options": ["yes"]} for count in counts
        ]
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
        return preprocessor(
            PromptRequest(
                messages=json.dumps(messages),
                image=pictures[: 1 + sum(counts)],
                questions=json.dumps(asked),
            )
        )

    assert ask(1, 0, 1, 1).prompt_images.tolist() == [2, 1, 2, 2]
    with pytest.raises(InvalidInput) as caught:
        ask(1, 2)
    assert (caught.value.param, caught.value.code) == ("image[3]", "context_length_exceeded")
    assert "after 50 of those before it" in caught.value.message
