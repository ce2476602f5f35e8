"""Videos in the engine: the same tokens as transformers, whatever the cache holds."""

from collections.abc import Callable

import pytest
from PIL import Image

from glm_engine.request import Prompt
from tools.clips import clip, encode, scene
from unit.generation.conftest import Harness
from unit.generation.reference import reference

pytestmark = pytest.mark.slow

MakePrompt = Callable[..., Prompt]


def _tokens(harness: Harness, prompt: Prompt, limit: int = 24) -> list[int]:
    request = harness.add(prompt, max_tokens=limit, ignore_eos=True)
    return [token_id for output in harness.wait(request) for token_id in output.token_ids]


@pytest.mark.parametrize(
    ("question", "file"),
    [
        ("What is in this image?", clip(8)),
        ("What color is the circle?", clip(31, fps=10, container="webm")),
        ("请描述这张图片", encode([scene(n, (200, 100)) for n in range(3)], fps=2)),
    ],
    ids=["mp4", "webm", "wide"],
)
@pytest.mark.parametrize("thinking", [True, False])
def test_greedy_tokens_are_those_of_generate(
    harness: Harness, make_prompt: MakePrompt, question: str, file: bytes, thinking: bool
) -> None:
    prompt = make_prompt(question, [], thinking, [file])
    assert "pixel_values_videos" in reference().inputs(prompt)
    assert _tokens(harness, prompt) == reference().generate(prompt, 24, eos=False)


def test_a_request_may_mix_pictures_and_videos(harness: Harness, make_prompt: MakePrompt) -> None:
    turned = encode([scene(n).transpose(Image.Transpose.ROTATE_90) for n in range(6)])
    prompt = make_prompt("Which image has a red circle?", [5, 6], False, [clip(4), turned])
    assert "pixel_values" in reference().inputs(prompt)
    assert _tokens(harness, prompt) == reference().generate(prompt, 24, eos=False)


def test_in_small_chunks_and_beside_others_the_tokens_are_the_same(
    make_harness: Callable[..., Harness], make_prompt: MakePrompt
) -> None:
    harness = make_harness(
        max_num_seqs=4, max_num_batched_tokens=24, max_num_batched_patches=64, block_size=4
    )
    prompts = [make_prompt(f"{n}?", [n], False, [clip(6 + n)]) for n in range(1, 4)]
    requests = [harness.add(prompt, max_tokens=12, ignore_eos=True) for prompt in prompts]
    for prompt, request in zip(prompts, requests, strict=True):
        outputs = harness.wait(request)
        tokens = [token_id for output in outputs for token_id in output.token_ids]
        assert tokens == reference().generate(prompt, 12, eos=False)


def test_a_video_seen_before_is_not_encoded_again(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    file = clip(8)
    first = harness.add(make_prompt("What is it?", [], False, [file]), max_tokens=4)
    harness.wait(first)
    encoded = harness.engine.stats.images_encoded
    assert encoded == len(first.prompt.images) > 2
    again = harness.add(make_prompt("What is it?", [], False, [file]), max_tokens=4)
    harness.wait(again)
    assert harness.engine.stats.images_encoded == encoded
    assert again.token_ids == first.token_ids
    assert again.num_cached > first.num_cached == 0


def test_another_video_of_the_same_length_shares_no_more_than_its_beginning(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    """Their placeholders are the same tokens; only the hashes tell them apart."""
    white = Image.new("RGB", (112, 112), "white")
    one = encode([white] * 4 + [Image.new("RGB", (112, 112), "red")] * 4)
    other = encode([white] * 4 + [Image.new("RGB", (112, 112), "blue")] * 4)
    prompts = [make_prompt("What color is it?", [], False, [file]) for file in (one, other)]
    assert prompts[0].input_ids.tolist() == prompts[1].input_ids.tolist()
    for prompt in prompts:
        assert _tokens(harness, prompt, 8) == reference().generate(prompt, 8, eos=False)


def test_frames_that_do_not_differ_are_encoded_once(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    still = encode([Image.new("RGB", (112, 112), "white")] * 12)
    prompt = make_prompt("What is in this image?", [], False, [still])
    assert len(prompt.images) > 3
    assert _tokens(harness, prompt) == reference().generate(prompt, 24, eos=False)
    assert harness.engine.stats.images_encoded == 1
