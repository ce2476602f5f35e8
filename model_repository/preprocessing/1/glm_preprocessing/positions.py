"""M-RoPE positions of a prompt with images.

Source: ``Glm4vModel.get_rope_index`` in transformers 5.23. That method keeps the rope delta as
module state; here it belongs to the request.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def mrope_positions(
    input_ids: npt.NDArray[np.int32],
    image_token_id: int,
    grids: Sequence[tuple[int, int, int]],
    merge_size: int,
) -> tuple[npt.NDArray[np.int32], int]:
    """Positions of every token on the temporal, height and width axis.

    Text advances all three axes by one per token. Within an image the temporal axis is constant
    and the other two follow its grid; the text after it continues after its longer side.

    Args:
        input_ids: (tokens,) prompt with its image placeholders already repeated, one per merged
            patch.
        grids: (temporal, height, width) of each image in patches, in order of appearance.

    Returns:
        (3, tokens) int32 positions, and the rope delta: token n after the prompt is at n + delta.
    """
    positions = np.empty((3, len(input_ids)), np.int32)
    is_image = input_ids == image_token_id
    start, position = 0, 0
    for _, grid_h, grid_w in grids:
        rows, columns = grid_h // merge_size, grid_w // merge_size
        image_start = start + int(np.argmax(is_image[start:]))
        text_length = image_start - start
        positions[:, start:image_start] = position + np.arange(text_length)
        position += text_length
        start = image_start + rows * columns
        positions[0, image_start:start] = position
        positions[1, image_start:start] = position + np.repeat(np.arange(rows), columns)
        positions[2, image_start:start] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
    positions[:, start:] = position + np.arange(len(input_ids) - start)
    position += len(input_ids) - start
    return positions, position - len(input_ids)
