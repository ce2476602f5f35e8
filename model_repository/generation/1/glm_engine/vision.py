"""The vision encoder, from uint8 patches to embeddings, and the cache of embeddings."""

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from glm_engine.linear import Linear, linear
from glm_engine.operations import MakeOperations, Operations, to_cos_sin
from glm_engine.tenant_cache import TenantLRU

Grid = tuple[int, int, int]
# Interpolated position embeddings, and rotary embedding.
Positions = tuple[torch.Tensor, torch.Tensor]


# Position embeddings are kept for grids with this number of patches in all: for one picture of the
# largest size, or dozens of the usual ones. 160 MiB of GLM-4.6V-Flash in bfloat16.
_REMEMBERED_PATCHES = 49_152


def most_patches(image_processor: dict[str, Any], max_side: int = 0) -> int:
    """Patches of the largest picture that the checkpoint's image processor makes.

    It bounds the pixels of both temporal frames together (``smart_resize`` of
    ``transformers/models/glm46v/image_processing_glm46v.py`` 5.23); 0 if the bound is unknown.

    Args:
        max_side: bound on the longer side in pixels, before it is rounded to whole image tokens; 0
            for none.
    """
    patch = image_processor.get("patch_size", 14)
    pixels = (image_processor.get("size") or {}).get("longest_edge", 0)
    patches = int(pixels // (image_processor.get("temporal_patch_size", 2) * patch**2))
    if not max_side:
        return patches
    merge = image_processor.get("merge_size", 2)
    side: int = -(-max_side // (patch * merge)) * merge
    return min(patches, side * side)


def pixel_table(image_processor: dict[str, Any]) -> torch.Tensor:
    """Lookup table for rescaling and normalising pixels, (3 channels, 256) float32.

    Bit-identical to the checkpoint's image processor, as it uses the same arithmetic
    (``rescale`` in float64, ``normalize`` in float32, as in ``transformers/image_transforms.py``
    5.23).
    """
    values = np.arange(256).astype(np.float64)[None, :].repeat(3, axis=0)
    if image_processor.get("do_rescale", True):
        values = values * image_processor.get("rescale_factor", 1 / 255)
    table = values.astype(np.float32)
    if image_processor.get("do_normalize", True):
        mean = np.array(image_processor["image_mean"], np.float32)[:, None]
        std = np.array(image_processor["image_std"], np.float32)[:, None]
        table = (table - mean) / std
    return torch.from_numpy(table)


@dataclass(frozen=True, slots=True)
class _Block:
    """One layer, with norms in the form of the operations.

    Attributes:
        next_norm: the first norm of the next block, or the final norm.
    """

    qkv: Linear
    proj: Linear
    norm2: Any
    gate_up: Linear
    down: Linear
    next_norm: Any


class VisionEncoder:
    """Encodes all images of a step in one pass. Same arithmetic as ``Glm4vVisionModel`` (5.23).

    The two temporal frames of a picture are identical, so their kernels are summed and applied to
    one frame; strided convolutions are matrix products. Each pair of video frames is a separate
    image: in ``Glm4vModel.get_video_features`` such pairs do not attend to each other.

    Attributes:
        patch_length: values in a patch of one frame.
        merge_size: number of patches per image token in each direction.
        max_position_bytes: bound on the memory of position embeddings that are kept.
    """

    def __init__(
        self, visual: Any, image_processor: dict[str, Any], make_operations: MakeOperations
    ) -> None:
        """Take over the weights of ``Glm4vVisionModel``; those that are merged are removed from it.

        Raises:
            ValueError: the checkpoint has an unsupported feature.
        """
        config = visual.config
        if config.hidden_act != "silu":
            raise ValueError(f"vision hidden_act {config.hidden_act!r} is not supported")
        kernel = visual.patch_embed.proj.weight.detach()
        self._dtype, self._device = kernel.dtype, kernel.device
        eps = visual.post_layernorm.variance_epsilon
        operations = make_operations(eps)
        self._operations = operations
        self._pixel_table = pixel_table(image_processor).to(self._device)
        self._heads: int = config.num_heads
        self._head_dim: int = config.hidden_size // config.num_heads
        self.merge_size: int = config.spatial_merge_size
        bias = visual.patch_embed.proj.bias.detach()
        one_frame = kernel.float().sum(2).flatten(1).to(self._dtype)
        self.patch_length: int = one_frame.shape[1]
        all_frames = kernel.transpose(1, 2).flatten(1)
        # Keyed by the number of values in a patch.
        self._embed = {weight.shape[1]: linear(weight, bias) for weight in (one_frame, all_frames)}
        self._embed_norm = operations.weight(visual.post_conv_layernorm.weight)
        norms = [operations.weight(block.norm1.weight) for block in visual.blocks]
        norms.append(operations.weight(visual.post_layernorm.weight))
        self._first_norm = norms[0]
        self._blocks = [
            _take_block(block, self._heads, self._head_dim, operations, next_norm)
            for block, next_norm in zip(visual.blocks, norms[1:], strict=True)
        ]
        # Channels last, as in memory.
        downsample = visual.downsample.weight.detach().permute(0, 2, 3, 1)
        self._downsample = linear(
            downsample.reshape(len(downsample), -1), visual.downsample.bias.detach()
        )
        self._merger = _Merger(visual.merger, operations)
        positions = visual.embeddings.position_embedding.weight.detach()
        side = int(len(positions) ** 0.5)
        self._position_table = positions.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        self._frequencies = visual.rotary_pos_emb.inv_freq.float().to(self._device)
        self._grids = _GridCache(_REMEMBERED_PATCHES)
        pairs = self._head_dim // 2
        hidden_bytes = config.hidden_size * operations.hidden_dtype.itemsize
        self.max_position_bytes: int = _REMEMBERED_PATCHES * (hidden_bytes + 2 * pairs * 4)

    def __call__(
        self, patches: Sequence[np.ndarray[Any, Any]], grids: Sequence[Grid]
    ) -> list[torch.Tensor]:
        """Encode images.

        Args:
            patches: of each image, (grid_h * grid_w, 3 * patch pixels) uint8, and of two frames of
                a video (grid_h * grid_w, 2 * 3 * patch pixels).
            grids: (1, grid_h, grid_w) of each image, in patches.

        Returns:
            For each image (grid_h * grid_w / merge size ** 2, hidden size of the language model).
        """
        # Sorted by size, so that images of the same size share an attention call.
        order = sorted(range(len(grids)), key=lambda i: (patches[i].shape[1], len(patches[i])))
        places = [self._of_grid(grids[i]) for i in order]
        embedded = torch.cat([embedding for embedding, _ in places])
        cos_sin = torch.cat([cos_sin for _, cos_sin in places])
        groups: list[tuple[int, int]] = []  # images, patches each
        for i in order:
            count = len(patches[i])
            if groups and groups[-1][1] == count:
                groups[-1] = (groups[-1][0] + 1, count)
            else:
                groups.append((1, count))

        operations = self._operations
        hidden = self._embed_patches([patches[i] for i in order])
        hidden = operations.norm(hidden, self._embed_norm) + embedded
        normed = operations.norm(hidden, self._first_norm)
        for block in self._blocks:
            attended = block.proj(self._attend(block.qkv(normed), cos_sin, groups))
            hidden, normed = operations.add_norm(hidden, attended, block.norm2)
            expanded = block.down(operations.gate(block.gate_up(normed)))
            hidden, normed = operations.add_norm(hidden, expanded, block.next_norm)
        hidden = normed.view(-1, self.merge_size**2 * normed.shape[1])
        lengths = [len(patches[i]) // self.merge_size**2 for i in order]
        merged = self._merger(self._downsample(hidden)).split(lengths)
        # Copies, so that a cached image does not keep the others in memory.
        encoded = dict(zip(order, (embeddings.clone() for embeddings in merged), strict=True))
        return [encoded[i] for i in range(len(order))]

    def _embed_patches(self, patches: Sequence[np.ndarray[Any, Any]]) -> torch.Tensor:
        """Embed the patches of pictures, and then those of videos."""
        hidden = []
        for length, embed in self._embed.items():
            rows = [own for own in patches if own.shape[1] == length]
            if rows:
                frames = torch.from_numpy(np.concatenate(rows).reshape(-1, self.patch_length))
                pixels = self._operations.normalize(frames.to(self._device), self._pixel_table)
                hidden.append(embed(pixels.view(-1, length)))
        return torch.cat(hidden)

    def _attend(
        self, qkv: torch.Tensor, cos_sin: torch.Tensor, groups: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        qkv = qkv.view(len(qkv), 3 * self._heads, self._head_dim)
        self._operations.rotate(qkv, 2 * self._heads, cos_sin)
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

    def forget_positions(self) -> None:
        """Drop the position embeddings that are kept."""
        self._grids.clear()

    def _of_grid(self, grid: Grid) -> Positions:
        known = self._grids.get(grid)
        if known is None:
            known = self._positions(grid)
            self._grids.add(grid, known)
        return known

    def _positions(self, grid: Grid) -> Positions:
        """Position embeddings and rotary embedding for the patches of a grid.

        Returns:
            (patches, hidden size) interpolated position embeddings, and (patches, 2, head dim / 2)
            cosines and sines for queries and keys; in the order of the patches, in which those of
            an image token are adjacent.
        """
        _, height, width = grid
        merge, device = self.merge_size, self._device
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
        embedding = embedding[0, :, :, 0].t().to(self._operations.hidden_dtype)
        return embedding.contiguous(), to_cos_sin(angles)


class _Merger:
    """``Glm4vVisionPatchMerger``: from merged patches to embeddings of the language model."""

    def __init__(self, merger: Any, operations: Operations) -> None:
        self._gate = operations.gate
        self._norm = merger.post_projection_norm
        self._proj = linear(merger.proj.weight.detach())
        self._gate_up = linear(torch.cat([merger.gate_proj.weight, merger.up_proj.weight]).detach())
        self._down = linear(merger.down_proj.weight.detach())
        del merger.gate_proj, merger.up_proj

    def __call__(self, merged: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self._norm(self._proj(merged)))
        return self._down(self._gate(self._gate_up(hidden)))


def _take_block(
    block: Any, heads: int, head_dim: int, operations: Operations, next_norm: Any
) -> _Block:
    # The checkpoint rotates feature i with feature i + head_dim / 2. Here the two are made adjacent
    # to form a complex number; permuting queries and keys alike does not change their products.
    order = torch.arange(head_dim).view(2, -1).t().flatten()
    rows = torch.arange(3 * heads * head_dim).view(3 * heads, head_dim)
    rows[: 2 * heads] = rows[: 2 * heads, order]
    qkv, mlp = block.attn.qkv, block.mlp
    rows = rows.flatten().to(qkv.weight.device)
    weights = _Block(
        qkv=linear(qkv.weight.detach()[rows], None if qkv.bias is None else qkv.bias[rows]),
        proj=linear(block.attn.proj.weight.detach()),
        norm2=operations.weight(block.norm2.weight),
        gate_up=linear(torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()])),
        down=linear(mlp.down_proj.weight.detach()),
        next_norm=next_norm,
    )
    del block.attn.qkv, mlp.gate_proj, mlp.up_proj
    return weights


@dataclass(frozen=True, slots=True)
class KnownImage:
    """A cached image, which needs neither decoding nor encoding.

    Attributes:
        embeddings: (tokens, hidden size).
    """

    grid: Grid
    embeddings: torch.Tensor


class _GridCache:
    """The position embeddings of grids: the least recently used are dropped for new ones.

    Args:
        max_patches: of all grids together.

    Attributes:
        num_patches: of those that are kept.
    """

    def __init__(self, max_patches: int) -> None:
        self._max_patches = max_patches
        self.num_patches = 0
        self._known: OrderedDict[Grid, Positions] = OrderedDict()

    def get(self, grid: Grid) -> Positions | None:
        if grid in self._known:
            self._known.move_to_end(grid)
        return self._known.get(grid)

    def add(self, grid: Grid, positions: Positions) -> None:
        """Add those of a new grid, unless it is too large."""
        if math.prod(grid) > self._max_patches:
            return
        self._known[grid] = positions
        self.num_patches += math.prod(grid)
        while self.num_patches > self._max_patches:
            dropped, _ = self._known.popitem(last=False)
            self.num_patches -= math.prod(dropped)

    def clear(self) -> None:
        self._known.clear()
        self.num_patches = 0


class ImageCache:
    """An LRU cache of embeddings, keyed by the content hash of the image.

    Any thread may look up images; the engine's thread adds them. Embeddings in use by a request
    stay in memory until its end, even if they are evicted; the bound includes them: as long as they
    take up the memory, images that are new are not kept.
    """

    def __init__(self, max_bytes: int, tenant_floor: float = 0.0) -> None:
        """Hold at most ``max_bytes`` of embeddings; 0 for none.

        Args:
            tenant_floor: share of it that each tenant keeps; see ``TenantLRU``.
        """
        self._max_bytes = max_bytes
        self._images: dict[bytes, tuple[str, KnownImage]] = {}
        self._order: TenantLRU[bytes] = TenantLRU(max_bytes, tenant_floor)
        self._size = 0
        self._evicted: list[tuple[weakref.ref[torch.Tensor], int]] = []
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Total size of the embeddings, including evicted ones that are in use."""
        return self._size + sum(size for held, size in self._evicted if held() is not None)

    def get(self, content_hash: bytes) -> KnownImage | None:
        """The image with this content hash, if it is cached."""
        with self._lock:
            found = self._images.get(content_hash)
            if found is None:
                return None
            owner, image = found
            self._order.add(content_hash, owner, image.embeddings.nbytes)
            return image

    def add(self, content_hash: bytes, image: KnownImage, owner: str = "") -> None:
        """Add an image of a tenant."""
        size = image.embeddings.nbytes
        with self._lock:
            if size > self._max_bytes or content_hash in self._images:
                return
            self._evicted = [entry for entry in self._evicted if entry[0]() is not None]
            while self.num_bytes + size > self._max_bytes:
                # The protected ones are at most half of all, so that a picture of less than half
                # of the cache fits without them.
                dropped = self._order.pop(owner, from_all=size > self._max_bytes / 2)
                if dropped is None:
                    return  # requests or other tenants hold the rest
                self._drop(dropped)
            self._images[content_hash] = owner, image
            self._order.add(content_hash, owner, size)
            self._size += size

    def _drop(self, content_hash: bytes) -> None:
        _, image = self._images.pop(content_hash)
        freed, embeddings = image.embeddings.nbytes, weakref.ref(image.embeddings)
        self._size -= freed
        del image
        if embeddings() is not None:
            self._evicted.append((embeddings, freed))
