"""From uint8 patches to the pixel values that the checkpoint's vision encoder takes."""

from typing import Any

import numpy as np
import torch


class PatchNormalizer:
    """Rescale and normalise by table: bit for bit what the checkpoint's image processor computes.

    A pixel has 256 values, so the float32 result of each channel is a table of 256 entries, made
    with the processor's own arithmetic (``rescale`` in float64, ``normalize`` in float32, as in
    ``transformers/image_transforms.py`` 5.23). Looking up costs the same on CPU and GPU.
    """

    def __init__(self, image_processor: dict[str, Any], device: torch.device) -> None:
        values = np.arange(256).astype(np.float64)[None, :].repeat(3, axis=0)
        if image_processor.get("do_rescale", True):
            values = values * image_processor.get("rescale_factor", 1 / 255)
        table = values.astype(np.float32)
        if image_processor.get("do_normalize", True):
            mean = np.array(image_processor["image_mean"], np.float32)[:, None]
            std = np.array(image_processor["image_std"], np.float32)[:, None]
            table = (table - mean) / std
        self._table = torch.from_numpy(table.ravel()).to(device)
        self._offsets = (torch.arange(3, device=device) * 256).view(1, 3, 1)
        self._frames: int = image_processor.get("temporal_patch_size", 2)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Normalise and repeat the temporal frame.

        Args:
            patches: (patches, 3 * patch pixels) uint8, channels first.

        Returns:
            (patches, 3 * frames * patch pixels) float32, the ``pixel_values`` of the image
            processor.
        """
        by_channel = patches.view(len(patches), 3, -1).int() + self._offsets
        pixels = self._table[by_channel].unsqueeze(2)
        return pixels.expand(-1, -1, self._frames, -1).reshape(len(patches), -1)
