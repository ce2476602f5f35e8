"""Operations between the matrix products of a forward pass, for each kind of device.

``TorchOperations`` runs on any device; the others use compiled kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from glm_engine.attention import PagedAttention
from glm_engine.attention_work import Work, decode_work, prefill_work
from glm_engine.batch import Batch

# Programs of attention on each multiprocessor of a GPU: as many as its registers and shared memory
# hold at a time.
_PROGRAMS_PER_PROCESSOR = 2

# A layer's (tokens, heads + 2 * KV heads, head dim), and its part of the KV cache
# -> (tokens, heads * head dim)
Attend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Rotary:
    """The rotary embedding (M-RoPE) of queries and keys.

    Attributes:
        frequencies: (pairs,) float32.
        axes: (pairs,) int64, which of the three positions rotates a pair of features.
        scaling: factor for the rotated features.
        num_positions: upper bound of all positions.
    """

    frequencies: torch.Tensor
    axes: torch.Tensor
    scaling: float
    num_positions: int

    @cached_property
    def cos_sin_table(self) -> npt.NDArray[np.float32]:
        """(positions, 2, pairs) cosines and sines of all positions."""
        angles = torch.arange(self.num_positions)[:, None] * self.frequencies
        return as_array(to_cos_sin(angles, self.scaling))


class Operations(Protocol):
    """See ``TorchOperations``."""

    hidden_dtype: torch.dtype

    def weight(self, tensor: torch.Tensor) -> Any: ...
    def norm(self, x: torch.Tensor, weight: Any) -> torch.Tensor: ...
    def normalize(self, patches: torch.Tensor, table: torch.Tensor) -> torch.Tensor: ...
    def add_norm(
        self, hidden: torch.Tensor, x: torch.Tensor, weight: Any
    ) -> tuple[torch.Tensor, torch.Tensor]: ...
    def norm_add_norm(
        self, hidden: torch.Tensor, x: torch.Tensor, x_weight: Any, weight: Any
    ) -> tuple[torch.Tensor, torch.Tensor]: ...
    def gate(self, gate_up: torch.Tensor) -> torch.Tensor: ...
    def rotate(self, x: torch.Tensor, heads: int, cos_sin: torch.Tensor) -> None: ...
    def attention(
        self, batch: Batch, rotary: Rotary, cache: torch.Tensor, heads: int
    ) -> Attend: ...


class TorchOperations:
    """PyTorch's own operations, in the dtype of the weights.

    Attributes:
        hidden_dtype: of the residual stream.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, eps: float) -> None:
        """Create them for weights of this dtype; ``eps`` is that of all norms."""
        self.hidden_dtype = dtype
        self._dtype, self._device, self._eps = dtype, device, eps

    def weight(self, tensor: torch.Tensor) -> torch.Tensor:
        """A norm's weight in the form required by the norms."""
        return tensor.detach()

    def normalize(self, patches: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Look up (patches, channels * patch pixels) uint8 in (channels, 256) float32."""
        channels = torch.arange(len(table), device=table.device, dtype=torch.int32)
        by_channel = patches.view(len(patches), len(table), -1) + 256 * channels[:, None]
        return F.embedding(by_channel, table.view(-1, 1)).view(len(patches), -1).to(self._dtype)

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm of (rows, size)."""
        return F.rms_norm(x, weight.shape, weight, self._eps)

    def add_norm(
        self, hidden: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``hidden + x`` and the norm of that; the first may be ``hidden``, modified."""
        hidden = hidden + x
        return hidden, self.norm(hidden, weight)

    def norm_add_norm(
        self, hidden: torch.Tensor, x: torch.Tensor, x_weight: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``hidden + norm(x)`` and the norm of that; the first may be ``hidden``, modified."""
        return self.add_norm(hidden, self.norm(x, x_weight), weight)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) * up`` of (rows, 2 * size)."""
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    def rotate(self, x: torch.Tensor, heads: int, cos_sin: torch.Tensor) -> None:
        """Rotate the first ``heads`` of (tokens, all heads, head dim) in place."""
        pairs = cos_sin.shape[-1]
        rotation = torch.complex(cos_sin[:, 0], cos_sin[:, 1])[:, None]
        rotated = x[:, :heads, : 2 * pairs]
        # Adjacent features form a complex number.
        numbers = torch.view_as_complex(rotated.float().unflatten(-1, (pairs, 2)))
        if rotated.dtype == torch.float32:
            numbers.mul_(rotation)  # a view of x
        else:
            rotated.copy_(torch.view_as_real(numbers * rotation).flatten(-2))

    def attention(self, batch: Batch, rotary: Rotary, cache: torch.Tensor, heads: int) -> Attend:
        """The function that rotates, stores and attends in every layer of a step.

        Args:
            cache: (layers, blocks, block size, 2, KV heads, head dim).
            heads: number of query heads.
        """
        positions = torch.from_numpy(batch.positions).to(self._device, non_blocking=True)
        cos_sin = to_cos_sin(positions.t()[:, rotary.axes] * rotary.frequencies, rotary.scaling)
        paged = PagedAttention(batch, cache.shape[2], self._dtype, self._device)

        def attend(qkv: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
            self.rotate(qkv, qkv.shape[1] - cache.shape[3], cos_sin)
            return paged(qkv, cache)

        return attend


class CPUOperations:
    """``cpu_kernels``: float32 arithmetic and residual stream for any dtype of weights.

    Attributes:
        hidden_dtype: of the residual stream.
    """

    def __init__(self, dtype: torch.dtype, eps: float) -> None:
        """Create them for weights of this dtype; ``eps`` is that of all norms."""
        from glm_engine import cpu_kernels  # numba is needed on a CPU only

        self.kernels = cpu_kernels
        self.hidden_dtype = torch.float32
        self.eps = np.float32(eps)
        self._dtype = dtype

    def weight(self, tensor: torch.Tensor) -> npt.NDArray[Any]:
        """A norm's weight in the form required by the norms."""
        return as_array(tensor.detach())

    def normalize(self, patches: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Look up (patches, channels * patch pixels) uint8 in (channels, 256) float32."""
        out = torch.empty(patches.shape, dtype=self._dtype)
        self.kernels.normalize(patches.numpy(), table.numpy(), as_array(out))
        return out

    def norm(self, x: torch.Tensor, weight: npt.NDArray[Any]) -> torch.Tensor:
        """RMSNorm of (rows, size)."""
        out = torch.empty_like(x, dtype=self._dtype)
        self.kernels.norm(as_array(x), weight, self.eps, as_array(out))
        return out

    def add_norm(
        self, hidden: torch.Tensor, x: torch.Tensor, weight: npt.NDArray[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``hidden += x``, and the norm of that."""
        out = torch.empty_like(x)
        self.kernels.add_norm(hidden.numpy(), as_array(x), None, weight, self.eps, as_array(out))
        return hidden, out

    def norm_add_norm(
        self,
        hidden: torch.Tensor,
        x: torch.Tensor,
        x_weight: npt.NDArray[Any],
        weight: npt.NDArray[Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``hidden += norm(x)``, and the norm of that."""
        out = torch.empty_like(x)
        self.kernels.add_norm(
            hidden.numpy(), as_array(x), x_weight, weight, self.eps, as_array(out)
        )
        return hidden, out

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) * up`` of (rows, 2 * size)."""
        out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        self.kernels.gate(as_array(gate_up), as_array(out))
        return out

    def rotate(self, x: torch.Tensor, heads: int, cos_sin: torch.Tensor) -> None:
        """Rotate the first ``heads`` of (tokens, all heads, head dim) in place."""
        self.kernels.rotate(as_array(x), heads, as_array(cos_sin))

    def cos_sin(self, batch: Batch, rotary: Rotary) -> npt.NDArray[np.float32]:
        """(tokens, 2, pairs) cosines and sines for the tokens of a step."""
        out = np.empty((len(batch.ids), 2, len(rotary.axes)), np.float32)
        self.kernels.gather_cos_sin(batch.positions, rotary.axes.numpy(), rotary.cos_sin_table, out)
        return out

    def attention(self, batch: Batch, rotary: Rotary, cache: torch.Tensor, heads: int) -> Attend:
        """The function that rotates, stores and attends in every layer of a step."""
        cos_sin = self.cos_sin(batch, rotary)
        _, _, block_size, _, kv_heads, head_dim = cache.shape
        longest, shared = batch.block_tables.shape[1] * block_size, heads // kv_heads

        def attend(qkv: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
            out = qkv.new_empty(len(qkv), heads * head_dim)
            self.kernels.attend(
                as_array(qkv), cos_sin, as_array(cache), batch.slot_mapping, batch.block_tables,
                batch.num_computed, batch.query_start_loc, np.empty((shared, longest), np.float32),
                np.empty((shared, head_dim), np.float32), as_array(out),
            )  # fmt: skip
            return out

        return attend


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """``attention_work.Work`` on the device.

    Attributes:
        items, merges: int32; there may be more rows than are used.
        header: (2,) int32, number of items and keys per item.
        num_slots: number of partial results, or an upper bound; nothing is merged if it is 0.
        per_tile: tokens of a tile.
        programs: for each KV head, which take one item after the other.
    """

    items: torch.Tensor
    merges: torch.Tensor
    header: torch.Tensor
    num_slots: int
    per_tile: int
    programs: int


@dataclass(frozen=True, slots=True)
class GPUBatch:
    """The attention metadata of a batch on the device; see ``Batch`` and ``gpu_kernels``.

    Attributes:
        work: of the requests with one token, and of the others, where there are any.
    """

    positions: torch.Tensor
    slot_mapping: torch.Tensor
    block_tables: torch.Tensor
    num_computed: torch.Tensor
    query_start_loc: torch.Tensor
    work: Sequence[DeviceWork]


class GPUOperations(TorchOperations):
    """``gpu_kernels``, and PyTorch for the rest."""

    def __init__(self, dtype: torch.dtype, device: torch.device, eps: float) -> None:
        """Create them for weights of this dtype; ``eps`` is that of all norms."""
        super().__init__(dtype, device, eps)
        from glm_engine import gpu_kernels  # the compiler comes with PyTorch's CUDA build only

        self._kernels = gpu_kernels
        self._processors = 1
        if device.type == "cuda":
            self._processors = torch.cuda.get_device_properties(device).multi_processor_count

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm of (rows, size)."""
        return self._kernels.norm(x, weight, self._eps)

    def add_norm(
        self, hidden: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``hidden += x``, and the norm of that."""
        return hidden, self._kernels.add_norm(hidden, x, None, weight, self._eps)

    def norm_add_norm(
        self, hidden: torch.Tensor, x: torch.Tensor, x_weight: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``hidden += norm(x)``, and the norm of that."""
        return hidden, self._kernels.add_norm(hidden, x, x_weight, weight, self._eps)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) * up`` of (rows, 2 * size)."""
        return self._kernels.gate(gate_up)

    def rotate(self, x: torch.Tensor, heads: int, cos_sin: torch.Tensor) -> None:
        """Rotate the first ``heads`` of (tokens, all heads, head dim) in place."""
        self._kernels.rotate(x, heads, cos_sin)

    def attention(self, batch: Batch, rotary: Rotary, cache: torch.Tensor, heads: int) -> Attend:
        """The function that rotates, stores and attends in every layer of a step."""
        return self.attend_over(self._to_device(batch, heads, cache.shape[4]), rotary)

    def attend_over(self, batch: GPUBatch, rotary: Rotary) -> Attend:
        """Like ``attention``, for inputs on the device; can be captured in a CUDA graph."""
        kernels = self._kernels
        angles = batch.positions.t()[:, rotary.axes] * rotary.frequencies
        cos_sin = to_cos_sin(angles, rotary.scaling)
        workspace: torch.Tensor | None = None

        def attend(qkv: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
            nonlocal workspace
            kernels.rotate_and_store(qkv, cos_sin, cache, batch.slot_mapping)
            kv_heads, head_dim = cache.shape[3:]
            heads = qkv.shape[1] - 2 * kv_heads
            out = qkv.new_empty(len(qkv), heads * head_dim)
            if workspace is None:  # the layers share it
                sizes = [kernels.workspace_size(w, heads, kv_heads, head_dim) for w in batch.work]
                workspace = torch.empty(max(sizes), dtype=torch.float32, device=out.device)
            for work in batch.work:
                kernels.attend(
                    qkv, cache, batch.block_tables, batch.num_computed, batch.query_start_loc,
                    work, workspace, out,
                )  # fmt: skip
            return out

        return attend

    def on_compilation(self, note: Callable[[str], None]) -> None:
        """Call ``note`` with the name of each kernel that is compiled from now on."""
        self._kernels.on_compilation(note)

    def programs(self, kv_heads: int) -> int:
        """Number of programs of attention that run at a time for each KV head."""
        return max(1, _PROGRAMS_PER_PROCESSOR * self._processors // kv_heads)

    def _to_device(self, batch: Batch, heads: int, kv_heads: int) -> GPUBatch:
        single, programs = batch.num_single, self.programs(kv_heads)
        works: list[tuple[Work, int]] = []
        if single:
            works.append((decode_work(batch.num_computed[:single] + 1), 1))
        if single < len(batch.parts):
            tokens = self._kernels.tokens_per_tile(heads, kv_heads, self._dtype)
            starts = batch.query_start_loc
            work = prefill_work(batch.num_computed, starts, single, tokens, programs)
            works.append((work, tokens))
        arrays = [a for work, _ in works for a in (work.items, work.merges, work_header(work))]
        positions, slot_mapping, block_tables, num_computed, query_start_loc, *there = upload(
            [
                batch.positions, batch.slot_mapping, batch.block_tables, batch.num_computed,
                batch.query_start_loc, *arrays,
            ],
            self._device,
        )  # fmt: skip
        return GPUBatch(
            positions=positions,
            slot_mapping=slot_mapping,
            block_tables=block_tables,
            num_computed=num_computed,
            query_start_loc=query_start_loc,
            work=[
                DeviceWork(
                    items,
                    merges,
                    header,
                    num_slots=work.num_slots,
                    per_tile=tokens,
                    # One item each, unless there are many small ones.
                    programs=min(len(work.items), programs) if tokens == 1 else len(work.items),
                )
                for (work, tokens), items, merges, header in zip(
                    works, there[::3], there[1::3], there[2::3], strict=True
                )
            ],
        )


def work_header(work: Work) -> npt.NDArray[np.int32]:
    """``header`` of a ``DeviceWork``."""
    return np.array([len(work.items), work.part_size], np.int32)


def upload(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> list[torch.Tensor]:
    """Copy arrays to the device in one asynchronous transfer."""
    offsets = np.cumsum([0, *(-(-array.nbytes // 16) * 16 for array in arrays)])
    packed = torch.empty(int(offsets[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    memory = packed.numpy()
    for offset, array in zip(offsets, arrays, strict=False):
        memory[offset : offset + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
    there = packed.to(device, non_blocking=True)
    return [
        there[offset : offset + array.nbytes]
        .view(torch.from_numpy(array[:0]).dtype)
        .view(array.shape)
        for offset, array in zip(offsets.tolist(), arrays, strict=False)
    ]


def to_cos_sin(angles: torch.Tensor, scaling: float = 1.0) -> torch.Tensor:
    """(tokens, 2, pairs) cosines and sines of (tokens, pairs) angles, for ``rotate``."""
    return torch.stack([angles.cos(), angles.sin()], 1) * scaling


# Takes the epsilon of a model's norms.
MakeOperations = Callable[[float], Operations]


def operations_for(
    dtype: torch.dtype, device: torch.device, *, gpu_kernels: bool = True
) -> MakeOperations:
    """The factory for the operations of a device.

    Args:
        gpu_kernels: whether to use ``gpu_kernels`` on a GPU instead of PyTorch only.
    """
    if device.type == "cpu":
        return partial(CPUOperations, dtype)
    return partial(GPUOperations if gpu_kernels else TorchOperations, dtype, device)


def as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A CPU tensor's memory as an array; bfloat16 as uint16 bit patterns, as NumPy lacks it."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    array: npt.NDArray[Any] = tensor.numpy()
    return array
