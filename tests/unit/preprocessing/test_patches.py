"""Patches against transformers' own image processor."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from glm_engine.operations import CPUOperations, Operations, TorchOperations
from glm_engine.vision import pixel_table
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.patches import PatchConfig, patchify, target_size

# Of GLM-4.6V-Flash and of the demo checkpoint: {shortest_edge, longest_edge} of frames x height x
# width.
LIMITS = {"real": (12_544, 9_633_792), "demo": (25_088, 39_300)}
SIZES = [
    (1, 1), (2, 3), (28, 28), (27, 41), (100, 100), (224, 224), (336, 200), (640, 480), (1, 200),
    (2000, 10), (1280, 720),
]  # fmt: skip


def _configs(limits: str) -> tuple[PatchConfig, Glm46VImageProcessorPil]:
    shortest, longest = LIMITS[limits]
    size = {"shortest_edge": shortest, "longest_edge": longest}
    return PatchConfig.from_image_processor({"size": size}), Glm46VImageProcessorPil(size=size)


def _noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 10_007 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    "operations",
    [CPUOperations(torch.float32, 0), TorchOperations(torch.float32, torch.device("cpu"), 0)],
    ids=["cpu", "torch"],
)
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_bit_for_bit_those_of_the_image_processor(
    size: tuple[int, int], limits: str, operations: Operations
) -> None:
    config, processor = _configs(limits)
    image = _noise(*size)
    expected = processor(images=[image], return_tensors="pt")

    patches, grid = patchify(image, target_size(*size, config, "image[0]"), config)
    table = pixel_table(processor.to_dict())

    assert [list(grid)] == expected["image_grid_thw"].tolist()
    # The image processor repeats the frame; the engine adds the two frames' kernels instead.
    frames = expected["pixel_values"].unflatten(-1, (3, 2, -1))
    normalized = operations.normalize(torch.from_numpy(patches), table).unflatten(-1, (3, 1, -1))
    assert torch.equal(normalized.expand_as(frames), frames)


@pytest.mark.parametrize(("width", "height"), [(1, 201), (5601, 28), (7, 1600)])
def test_an_aspect_ratio_above_200_names_the_image(width: int, height: int) -> None:
    config, _ = _configs("real")
    with pytest.raises(InvalidInput, match=r"^image\[3\]: .*200 times"):
        target_size(width, height, config, "image[3]")


def test_max_side_shrinks_before_the_checkpoints_limits() -> None:
    config, _ = _configs("real")
    assert target_size(4000, 2000, config, "image[0]") == (3080, 1540)
    assert target_size(4000, 2000, config, "image[0]", max_side=1000) == (1008, 504)
    assert target_size(400, 200, config, "image[0]", max_side=1000) == (392, 196)


@pytest.mark.parametrize(
    ("size", "max_pixels", "expected"),
    [
        ((1000, 1000), 0, (1008, 1008)),
        ((1000, 1000), 512 * 512, (504, 504)),
        ((400, 300), 512 * 512, (392, 308)),
        ((4000, 1000), 512 * 512, (1036, 252)),
    ],
)
def test_a_pixel_budget_scales_larger_images_down(
    size: tuple[int, int], max_pixels: int, expected: tuple[int, int]
) -> None:
    config = PatchConfig(14, 2, 2, min_pixels=112 * 112, max_pixels=28**2 * 2 * 6144, resample=3)
    assert target_size(*size, config, "image[0]", max_pixels=max_pixels) == expected
