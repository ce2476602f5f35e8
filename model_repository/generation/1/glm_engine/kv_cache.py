"""The paged KV cache's memory. Which block is whose is the block manager's business."""

import torch


class KVCache:
    """Keys and values of all layers, in blocks, and a scratch block that is nobody's.

    Attributes:
        layers: (layers, blocks and one, block size, 2, KV heads, head dim); keys, then values.
            Those of a token lie side by side, so that one copy stores them and one copy a block
            fetches them.
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
        # Zeros, not garbage: padding is read, and masked, and 0 * NaN would be NaN.
        self.layers = torch.zeros(
            (num_layers, num_blocks + 1, block_size, 2, num_kv_heads, head_dim),
            dtype=dtype,
            device=device,
        )

    @property
    def num_blocks(self) -> int:
        """Blocks that a request may use."""
        return self.layers.shape[1] - 1

    @property
    def scratch_block(self) -> int:
        """For tokens that stand for no request."""
        return self.num_blocks

    @property
    def scratch_slot(self) -> int:
        """A token's place in it."""
        return self.scratch_block * self.block_size

    @property
    def block_size(self) -> int:
        """Tokens in a block."""
        return self.layers.shape[2]


def bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Memory of one token's keys and values in all layers."""
    return num_layers * 2 * num_kv_heads * head_dim * dtype.itemsize
