"""The vision encoder: from uint8 patches to embeddings, and the embeddings kept for next time."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from glm_engine.linear import Linear

Grid = tuple[int, int, int]

_REMEMBERED_GRIDS = 64


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
        self._offsets = (torch.arange(3, device=device, dtype=torch.int32) * 256).view(1, 3, 1)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Normalise.

        Args:
            patches: (patches, 3 * patch pixels) uint8, channels first.

        Returns:
            The same in float32: one temporal frame of the image processor's ``pixel_values``.
        """
        by_channel = patches.view(len(patches), 3, -1) + self._offsets
        return F.embedding(by_channel, self._table[:, None]).view(len(patches), -1)


@dataclass(frozen=True, slots=True)
class _Block:
    norm1: torch.Tensor
    qkv: Linear
    proj: Linear
    norm2: torch.Tensor
    gate_up: Linear
    down: Linear


class VisionEncoder:
    """All images of a step in one pass. Same arithmetic as ``Glm4vVisionModel`` (5.23).

    An image's two temporal frames are the same, so the kernels of the two are added up and one
    frame is multiplied; the strided convolutions are matrix products.

    Attributes:
        patch_length: numbers in a patch of one frame.
    """

    def __init__(self, visual: Any, image_processor: dict[str, Any]) -> None:
        """Take over the weights of ``Glm4vVisionModel``; those that are joined are taken from it.

        Raises:
            ValueError: the checkpoint has something that this pass does not know.
        """
        config = visual.config
        if config.hidden_act != "silu":
            raise ValueError(f"vision hidden_act {config.hidden_act!r} is not supported")
        kernel = visual.patch_embed.proj.weight.detach()
        self._dtype, device = kernel.dtype, kernel.device
        self._normalize = PatchNormalizer(image_processor, device)
        self._eps = visual.post_layernorm.variance_epsilon
        self._size = (config.hidden_size,)
        self._heads: int = config.num_heads
        self._head_dim: int = config.hidden_size // config.num_heads
        self._merge: int = config.spatial_merge_size
        weight = kernel.float().sum(2).flatten(1).to(self._dtype)
        self.patch_length: int = weight.shape[1]
        self._embed = Linear(weight, visual.patch_embed.proj.bias.detach())
        self._first_norm = visual.post_conv_layernorm.weight.detach()
        self._blocks = [_take_block(block, self._heads, self._head_dim) for block in visual.blocks]
        self._last_norm = visual.post_layernorm.weight.detach()
        # Features last, as they lie in memory.
        downsample = visual.downsample.weight.detach().permute(0, 2, 3, 1)
        self._downsample = Linear(
            downsample.reshape(len(downsample), -1), visual.downsample.bias.detach()
        )
        self._merger = visual.merger
        positions = visual.embeddings.position_embedding.weight.detach()
        side = int(len(positions) ** 0.5)
        self._position_table = positions.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        self._frequencies = visual.rotary_pos_emb.inv_freq.float()
        self._of_grid = lru_cache(_REMEMBERED_GRIDS)(self._positions)

    def __call__(
        self, patches: Sequence[np.ndarray[Any, Any]], grids: Sequence[Grid]
    ) -> list[torch.Tensor]:
        """Encode images.

        Args:
            patches: of each image, (grid_h * grid_w, 3 * patch pixels) uint8.
            grids: (1, grid_h, grid_w) of each image, in patches.

        Returns:
            For each image (grid_h * grid_w / merge size ** 2, hidden size of the language model).
        """
        # Those of one size side by side: attention takes them together.
        order = sorted(range(len(grids)), key=lambda i: len(patches[i]))
        pixels = torch.from_numpy(np.concatenate([patches[i] for i in order]))
        pixels = pixels.to(self._frequencies.device)
        places = [self._of_grid(grids[i]) for i in order]
        embedded = torch.cat([embedding for embedding, _ in places])
        rotation = torch.cat([angles for _, angles in places])[:, None]
        groups: list[tuple[int, int]] = []  # images, patches each
        for i in order:
            count = len(patches[i])
            if groups and groups[-1][1] == count:
                groups[-1] = (groups[-1][0] + 1, count)
            else:
                groups.append((1, count))

        size, eps = self._size, self._eps
        hidden = self._embed(self._normalize(pixels).to(self._dtype))
        hidden = F.rms_norm(hidden, size, self._first_norm, eps) + embedded
        for block in self._blocks:
            normed = F.rms_norm(hidden, size, block.norm1, eps)
            attended = self._attend(block.qkv(normed), rotation, groups)
            hidden = hidden + block.proj(attended)
            normed = F.rms_norm(hidden, size, block.norm2, eps)
            gate, up = block.gate_up(normed).chunk(2, -1)
            hidden = hidden + block.down(F.silu(gate).mul_(up))
        hidden = F.rms_norm(hidden, size, self._last_norm, eps)
        hidden = hidden.view(-1, self._merge**2 * size[0])
        lengths = [len(patches[i]) // self._merge**2 for i in order]
        merged = self._merger(self._downsample(hidden)).split(lengths)
        # Copies, so that one that is kept keeps no others in memory.
        encoded = dict(zip(order, (embeddings.clone() for embeddings in merged), strict=True))
        return [encoded[i] for i in range(len(order))]

    def _attend(
        self, qkv: torch.Tensor, rotation: torch.Tensor, groups: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        qkv = qkv.view(len(qkv), 3 * self._heads, self._head_dim)
        turned = qkv[:, : 2 * self._heads]
        numbers = torch.view_as_complex(turned.float().unflatten(-1, (-1, 2)))
        if qkv.dtype == torch.float32:
            numbers.mul_(rotation)  # a view of qkv
        else:
            turned.copy_(torch.view_as_real(numbers * rotation).flatten(-2))
        out = qkv.new_empty(len(qkv), self._heads, self._head_dim)
        start = 0
        for images, patches in groups:
            rows = slice(start, start + images * patches)
            start = rows.stop
            query, key, value = (
                qkv[rows].unflatten(0, (images, patches)).transpose(1, 2).chunk(3, dim=1)
            )
            attended = F.scaled_dot_product_attention(query, key, value)
            out[rows] = attended.transpose(1, 2).flatten(0, 1)
        return out.view(len(qkv), -1)

    def _positions(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        """What the patches of a grid are added to and turned by.

        Returns:
            (patches, hidden size) interpolated position embeddings, and (patches, head dim / 2)
            complex rotations, in the order of the patches: those of an image token in a row.
        """
        _, height, width = grid
        merge, device = self._merge, self._frequencies.device
        blocks = (height // merge, merge, width // merge, merge)
        rows = torch.arange(height, device=device)[:, None].expand(height, width)
        columns = torch.arange(width, device=device)[None, :].expand(height, width)
        row, column = (
            index.reshape(blocks).transpose(1, 2).flatten().float() for index in (rows, columns)
        )
        spot = torch.stack([(column + 0.5) / width, (row + 0.5) / height], -1) * 2 - 1
        embedding = F.grid_sample(
            self._position_table,
            spot[None, :, None],
            mode="bicubic",
            align_corners=False,
            padding_mode="border",
        )
        angles = torch.cat([place[:, None] * self._frequencies for place in (row, column)], -1)
        rotation = torch.polar(torch.ones_like(angles), angles)
        return embedding[0, :, :, 0].t().to(self._dtype).contiguous(), rotation


def _take_block(block: Any, heads: int, head_dim: int) -> _Block:
    # The checkpoint turns feature i with feature i + head_dim / 2. Here the two are neighbours, so
    # that they are one complex number; that queries and keys are shuffled alike changes no product.
    order = torch.arange(head_dim).view(2, -1).t().flatten()
    rows = torch.arange(3 * heads * head_dim).view(3 * heads, head_dim)
    rows[: 2 * heads] = rows[: 2 * heads, order]
    qkv, mlp = block.attn.qkv, block.mlp
    rows = rows.flatten().to(qkv.weight.device)
    weights = _Block(
        norm1=block.norm1.weight.detach(),
        qkv=Linear(qkv.weight.detach()[rows], None if qkv.bias is None else qkv.bias[rows]),
        proj=Linear(block.attn.proj.weight.detach()),
        norm2=block.norm2.weight.detach(),
        gate_up=Linear(torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()])),
        down=Linear(mlp.down_proj.weight.detach()),
    )
    del block.attn.qkv, mlp.gate_proj, mlp.up_proj
    return weights


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image that needs neither decoding nor encoding.

    Attributes:
        embeddings: (tokens, hidden size).
    """

    grid: Grid
    embeddings: torch.Tensor


class ImageCache:
    """Embeddings by the content of the image, the least recently used ones dropped first.

    Any thread may ask; the engine's thread adds. What a request took out stays in memory until the
    request is done, whatever is dropped here.

    Attributes:
        num_bytes: of all embeddings in it.
    """

    def __init__(self, max_bytes: int) -> None:
        """Hold at most ``max_bytes`` of embeddings; 0 for none."""
        self._max_bytes = max_bytes
        self._images: OrderedDict[bytes, KnownImage] = OrderedDict()
        self._lock = threading.Lock()
        self.num_bytes = 0

    def get(self, content_hash: bytes) -> KnownImage | None:
        """The image with this content, if it is known."""
        with self._lock:
            image = self._images.get(content_hash)
            if image is not None:
                self._images.move_to_end(content_hash)
            return image

    def add(self, content_hash: bytes, image: KnownImage) -> None:
        """Remember an image."""
        size = image.embeddings.nbytes
        with self._lock:
            if size > self._max_bytes or content_hash in self._images:
                return
            self._images[content_hash] = image
            self.num_bytes += size
            while self.num_bytes > self._max_bytes:
                _, dropped = self._images.popitem(last=False)
                self.num_bytes -= dropped.embeddings.nbytes
