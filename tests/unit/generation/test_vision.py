"""The vision encoder against transformers' one, and the memory of encoded images."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from glm_engine import vision
from glm_engine.operations import CPUOperations
from glm_engine.request import Prompt
from glm_engine.vision import ImageCache, KnownImage, VisionEncoder
from tools.clips import clip, encode, scene
from unit.generation.reference import Reference, reference


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    # Of a model of its own: the encoder takes weights out of it.
    own = Reference()
    with torch.inference_mode():
        return VisionEncoder(
            own.model.model.visual, own.image_processor, partial(CPUOperations, torch.float32)
        )


@torch.inference_mode()
def test_images_of_many_sizes_in_one_pass_are_those_of_the_model(
    encoder: VisionEncoder, make_prompt: Callable[..., Prompt]
) -> None:
    images = make_prompt("Which?", list(range(1, 12)), False).images
    patches = [image.patches for image in images if image.patches is not None]
    encoded = encoder(patches, [image.grid for image in images])
    assert len({image.grid for image in images}) > 3
    for image, embeddings in zip(images, encoded, strict=True):
        expected = reference().model.model.visual(
            reference().pixel_values(image.patches), grid_thw=torch.tensor([image.grid])
        )
        expected = expected.pooler_output
        assert embeddings.shape == (image.num_tokens, expected.shape[1])
        assert (embeddings - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
def test_videos_beside_pictures_are_those_of_the_model(
    encoder: VisionEncoder, make_prompt: Callable[..., Prompt]
) -> None:
    wide = encode([scene(number, (168, 84)) for number in range(4)])
    images = make_prompt("Which?", [1, 2], False, [clip(8), wide]).images
    patches = [image.patches for image in images if image.patches is not None]
    lengths = [own.shape[1] for own in patches]
    assert lengths[:2] == [588, 588] and set(lengths[2:]) == {1176} and len(lengths) > 5
    encoded = encoder(patches, [image.grid for image in images])
    visual = reference().model.model.visual
    for image, embeddings in zip(images, encoded, strict=True):
        grid = torch.tensor([image.grid])
        expected = visual(reference().pixel_values(image.patches), grid_thw=grid).pooler_output
        assert embeddings.shape == (image.num_tokens, expected.shape[1])
        assert (embeddings - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
def test_the_two_frames_have_kernels_of_their_own(make_prompt: Callable[..., Prompt]) -> None:
    """The demo checkpoint's are alike: it was trained on pictures."""
    own = Reference()
    visual = own.model.model.visual
    kernel = visual.patch_embed.proj.weight
    kernel += torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0)) * kernel.std()
    (image, *_) = make_prompt("Which?", [], False, [clip(2, 2)]).images
    grid = torch.tensor([image.grid])
    expected = visual(own.pixel_values(image.patches), grid_thw=grid).pooler_output
    make_operations = partial(CPUOperations, torch.float32)
    encoder = VisionEncoder(visual, own.image_processor, make_operations)
    assert image.patches is not None
    (embeddings,) = encoder([image.patches], [image.grid])
    assert (embeddings - expected).abs().max() <= 1e-5 * expected.abs().max()


def _image(tokens: int) -> KnownImage:
    return KnownImage((1, 2, 2 * tokens), torch.zeros(tokens, 8))


def test_the_least_recently_used_image_is_dropped_when_the_bytes_are_used_up() -> None:
    cache = ImageCache(max_bytes=3 * 32)
    for name in (b"a", b"b", b"c"):
        cache.add(name, _image(1))
    assert cache.num_bytes == 96 and cache.get(b"a") is not None
    cache.add(b"d", _image(1))
    assert cache.get(b"b") is None  # a was asked for later
    assert cache.get(b"a") and cache.get(b"c") and cache.get(b"d")
    cache.add(b"e", _image(3))
    assert cache.get(b"e") and not cache.get(b"a") and cache.num_bytes == 96


def test_an_image_that_is_known_or_too_large_changes_nothing() -> None:
    cache = ImageCache(max_bytes=64)
    first = _image(1)
    cache.add(b"a", first)
    cache.add(b"a", _image(1))
    cache.add(b"b", _image(3))
    assert cache.get(b"a") is first and cache.get(b"b") is None and cache.num_bytes == 32


def test_without_memory_nothing_is_kept() -> None:
    cache = ImageCache(0)
    cache.add(b"a", _image(1))
    assert cache.get(b"a") is None and cache.num_bytes == 0


def test_embeddings_that_requests_hold_count_until_they_are_dropped() -> None:
    """Otherwise waiting requests would hold any amount, beside a cache that looks small."""
    cache = ImageCache(max_bytes=3 * 32)
    held = [_image(1) for _ in range(3)]
    for number, image in enumerate(held):
        cache.add(bytes([number]), image)
    cache.add(b"new", _image(1))
    assert cache.get(b"new") is None and cache.num_bytes == 96
    del image, held[0]
    cache.add(b"new", _image(1))
    assert cache.get(b"new") is not None and cache.num_bytes == 96


def test_position_embeddings_are_kept_within_their_bound(
    encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder.forget_positions()
    monkeypatch.setattr(encoder._grids, "_max_patches", 100)
    encoder._of_grid((1, 8, 8))
    kept = encoder._of_grid((1, 4, 4))
    assert encoder._of_grid((1, 4, 4)) is kept and encoder._grids.num_patches == 80
    encoder._of_grid((1, 6, 8))
    assert encoder._grids.get((1, 8, 8)) is None and encoder._grids.num_patches == 64
    encoder._of_grid((1, 12, 12))  # too large: computed, not kept
    assert encoder._grids.num_patches == 64
    per_patch = sum(tensor.nbytes for tensor in kept) / 16
    assert encoder.max_position_bytes == vision._REMEMBERED_PATCHES * per_patch
    encoder.forget_positions()
    assert encoder._grids.num_patches == 0


def test_the_largest_picture_follows_from_the_image_processor() -> None:
    # GLM-4.6V-Flash's; its largest square is 2184 x 2184 pixels, 156 x 156 patches.
    flash = {"size": {"longest_edge": 9633792}, "patch_size": 14, "temporal_patch_size": 2}
    assert vision.most_patches(flash) == 24576 >= 156 * 156
    assert vision.most_patches({"size": {"longest_edge": 39300}}) == 100
    assert vision.most_patches({}) == 0
    # With a bound of stage 1: 1024 pixels are at most 37 image tokens.
    assert vision.most_patches(flash, max_side=1024) == 74 * 74
    assert vision.most_patches(flash, max_side=1) == 4
    assert vision.most_patches(flash, max_side=10_000) == 24576
