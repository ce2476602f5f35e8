"""True answers about pictures drawn by other means than the training's, through HTTP."""

import pytest

from e2e.calls import DESCRIPTIONS, PICTURES, chat, content, post
from e2e.launching import Stack


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_it_sees_what_is_there(stack: Stack, name: str) -> None:
    assert content(post(stack, chat("What is in this image?", name))) == DESCRIPTIONS[name]


def test_every_picture_of_the_folder_is_asked_about() -> None:
    files = {path.name for path in PICTURES.iterdir() if path.suffix in (".png", ".jpg")}
    assert files == set(DESCRIPTIONS)
