"""The memory of the paged KV cache. The block manager tracks the owners of its blocks."""

from collections.abc import Sequence

import torch


class KVCache:
    """Keys and values of all layers in blocks, plus an unowned scratch block.

    Attributes:
        layers: (layers, blocks + 1, block size, 2, KV heads, head dim); keys, then values. Those
            of a token are adjacent, so that one copy stores them, and one copy per block loads
            them.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Zero-initialised: padding is read and masked, and 0 * NaN would be NaN.
        self.layers = torch.zeros(
            (num_layers, num_blocks + 1, block_size, 2, num_kv_heads, head_dim),
            dtype=dtype,
            device=device,
        )

    def copy(self, blocks: Sequence[tuple[int, int]]) -> None:
        """Copy the content of blocks, from the first of each pair to the second, all at once."""
        if blocks:
            sources, targets = torch.tensor(blocks, device=self.layers.device).T
            for layer in self.layers:
                layer.index_copy_(0, targets, layer.index_select(0, sources))

    @property
    def num_blocks(self) -> int:
        """Number of blocks available to requests."""
        return self.layers.shape[1] - 1

    @property
    def scratch_block(self) -> int:
        """The block for padding tokens."""
        return self.num_blocks

    @property
    def scratch_slot(self) -> int:
        """A slot in the scratch block."""
        return self.scratch_block * self.block_size

    @property
    def block_size(self) -> int:
        """Tokens in a block."""
        return self.layers.shape[2]


def bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Size of one token's keys and values in all layers."""
    return num_layers * 2 * num_kv_heads * head_dim * dtype.itemsize
