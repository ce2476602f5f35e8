"""What the engine remembers of earlier requests, seen in the metrics of a real Triton."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from e2e.calls import chat, content, metrics, post, settled
from tools.stack import Stack
from waiting import wait_until

HISTOGRAMS = (
    "queue_seconds",
    "prefill_seconds",
    "time_to_first_token_seconds",
    "request_seconds",
    "preprocessing_seconds",
)


def new_picture() -> str:
    """A picture that no test has sent before, as a data URI."""
    pixels = np.random.default_rng().integers(0, 60, (150, 170, 3), np.uint8)
    pixels[40:110, 50:120] = (220, 30, 30)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _gained(stack: Stack, before: dict[str, float], requests: int) -> dict[str, float]:
    """Increase of the metrics once a number of requests have been answered."""
    name = 'glm_requests_total{finish_reason="stop"}'
    wait_until(lambda: metrics(stack)[name] == before[name] + requests)
    return {key: value - before[key] for key, value in metrics(stack).items()}


@pytest.mark.timing
def test_a_picture_seen_before_is_neither_encoded_nor_prefilled_again(stack: Stack) -> None:
    uri = new_picture()
    body = chat("Describe the image.", "plot-42.png")
    body["messages"][0]["content"][0]["image_url"]["url"] = uri
    before = settled(stack)
    first = content(post(stack, body))
    once = _gained(stack, before, requests=1)
    assert (once["glm_images_encoded_total"], once["glm_image_cache_hits_total"]) == (1, 0)

    before = settled(stack)
    assert [content(post(stack, body)) for _ in range(3)] == [first] * 3
    again = _gained(stack, before, requests=3)
    assert (again["glm_images_encoded_total"], again["glm_image_cache_hits_total"]) == (0, 3)
    assert again["glm_image_tokens_total"] == 3 * once["glm_image_tokens_total"]
    # Whole blocks of 16 tokens, but for the last token.
    assert again["glm_cached_prompt_tokens_total"] >= again["glm_prompt_tokens_total"] - 3 * 16


def test_two_pictures_of_one_size_are_not_taken_for_each_other(stack: Stack) -> None:
    answers = []
    for name in ("plot-42.png", "photo-star.jpg", "plot-42.png"):
        answers.append(content(post(stack, chat("Describe the image.", name))))
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.timing
def test_every_part_of_a_request_is_timed(stack: Stack) -> None:
    before = settled(stack)
    content(post(stack, chat("Describe the image.", "photo-square.jpg")))
    gained = _gained(stack, before, requests=1)
    for name in HISTOGRAMS:
        assert gained[f"glm_{name}_count"] == 1, name
    assert gained["glm_time_per_output_token_seconds_count"] == 1
    parts = [gained[f"glm_{name}_sum"] for name in HISTOGRAMS]
    queue, prefill, first, whole, preprocessing = parts
    assert 0 < queue + prefill + preprocessing <= first * 1.01 <= whole * 1.01
    blocks = metrics(stack)
    assert blocks["glm_kv_cache_blocks"] > blocks["glm_kv_cache_blocks_used"] == 0
