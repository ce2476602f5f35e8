"""True answers about pictures drawn by other means than the training's, through HTTP."""

import pytest

from e2e.calls import DESCRIPTIONS, PICTURES, chat, content, data_uri, post
from tools.stack import Stack


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_it_sees_what_is_there(stack: Stack, name: str) -> None:
    assert content(post(stack, chat("What is in this image?", name))) == DESCRIPTIONS[name]


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_pictures_stand_anywhere_in_a_conversation(stack: Stack, role: str) -> None:
    """Each turn's pictures are read, several of them, and told in the usage."""
    parts = [
        {"type": "image_url", "image_url": {"url": data_uri(name)}}
        for name in ("plot-42.png", "hand-circle-64.png")
    ]
    body = chat("What is in this image?", "hand-circle-64.png", max_tokens=8)
    alone = post(stack, body).json()["usage"]["prompt_tokens_details"]["image_tokens"]
    body["messages"].insert(0, {"role": role, "content": [*parts, {"type": "text", "text": "Hm."}]})
    body["messages"].insert(1, {"role": "assistant", "content": "Yes."})
    usage = post(stack, body).json()["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] > alone + 2 * 14


def test_every_picture_of_the_folder_is_asked_about() -> None:
    files = {path.name for path in PICTURES.iterdir() if path.suffix in (".png", ".jpg")}
    assert files == set(DESCRIPTIONS)
