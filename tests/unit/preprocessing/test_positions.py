"""M-RoPE positions against transformers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig
from transformers.models.glm4v.modeling_glm4v import Glm4vModel

from glm_preprocessing.positions import mrope_positions
from unit.paths import DEMO_CHECKPOINT

IMAGE, TEXT = 99, 5

PROMPTS = [
    ([TEXT] * 7, []),
    ([TEXT, *[IMAGE] * 4, TEXT], [(1, 4, 4)]),
    ([*[IMAGE] * 6, TEXT, TEXT], [(1, 4, 6)]),
    ([TEXT, *[IMAGE] * 20, TEXT, TEXT, *[IMAGE] * 2, TEXT], [(1, 20, 4), (1, 2, 4)]),
    ([TEXT, *[IMAGE] * 100], [(1, 2, 200)]),
]


@pytest.mark.parametrize(("tokens", "grids"), PROMPTS)
def test_positions_and_delta_are_those_of_transformers(
    tokens: list[int], grids: list[tuple[int, int, int]]
) -> None:
    with torch.device("meta"):
        model: Any = Glm4vModel(AutoConfig.from_pretrained(DEMO_CHECKPOINT))
    input_ids = torch.tensor([tokens])
    expected, delta = model.get_rope_index(
        input_ids,
        mm_token_type_ids=(input_ids == IMAGE).int(),
        image_grid_thw=torch.tensor(grids) if grids else None,
    )

    positions, rope_delta = mrope_positions(np.array(tokens, np.int32), IMAGE, grids, merge_size=2)

    assert positions.tolist() == expected[:, 0].tolist()
    assert rope_delta == delta.item()
