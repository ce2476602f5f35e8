"""Decode steps as CUDA graphs: a whole step is launched at once instead of kernel by kernel.

Otherwise launching the kernels of a decode step would take several times as long as running them.
"""

from collections.abc import Callable

import numpy as np
import torch

from glm_engine.attention_work import DECODE_PART, decode_work, most_decode_items
from glm_engine.batch import Batch
from glm_engine.kv_cache import KVCache
from glm_engine.language_model import LanguageModel
from glm_engine.operations import DeviceWork, GPUBatch, GPUOperations, upload, work_header

_Run = Callable[[], torch.Tensor]


class DecodeGraphs:
    """Graphs for several batch sizes; a step uses the next larger one.

    A graph reads its inputs from fixed addresses, to which they are copied. Padding rows write to
    the scratch block of the cache, and attend to themselves. A fixed number of programs does the
    attention of any mixture of lengths (``attention_work``).
    """

    def __init__(
        self,
        language: LanguageModel,
        operations: GPUOperations,
        cache: KVCache,
        *,
        max_num_seqs: int,
        max_len: int,
        device: torch.device,
    ) -> None:
        """Capture all of them.

        Args:
            max_num_seqs: maximum number of requests in a step.
            max_len: maximum number of tokens of a request.
        """
        self._cache, self._device = cache, device
        self._sizes = batch_sizes(max_num_seqs)
        most = self._sizes[-1]
        # Graphs refer to addresses only: keep references to all inputs and outputs.
        self._rows = rows = torch.arange(most + 1, dtype=torch.int32, device=device)
        self._ids = torch.zeros(most, dtype=torch.int64, device=device)
        self._positions = torch.zeros(3, most, dtype=torch.int64, device=device)
        self._slot_mapping = torch.full(
            (most,), cache.scratch_slot, dtype=torch.int64, device=device
        )
        self._num_computed = torch.zeros(most, dtype=torch.int32, device=device)
        blocks = -(-max_len // cache.block_size)
        self._block_tables = torch.full(
            (most, blocks), cache.scratch_block, dtype=torch.int32, device=device
        )
        items = most_decode_items(most)
        self._items = torch.zeros(items, 4, dtype=torch.int32, device=device)
        self._items[:most, 0], self._items[:, 3] = rows[:most], -1
        self._merges = torch.zeros(most, 4, dtype=torch.int32, device=device)
        self._header = torch.zeros(2, dtype=torch.int32, device=device)
        self._logits: torch.Tensor | None = None
        capture = _cuda_capture()
        self._graphs: dict[int, _Run] = {}
        for size in reversed(self._sizes):  # the largest first: the others reuse its memory
            batch = GPUBatch(
                positions=self._positions[:, :size],
                slot_mapping=self._slot_mapping[:size],
                block_tables=self._block_tables[:size],
                num_computed=self._num_computed[:size],
                query_start_loc=rows[: size + 1],
                work=[
                    DeviceWork(
                        self._items,
                        self._merges[:size],
                        self._header,
                        num_slots=items,
                        per_tile=1,
                        programs=operations.programs(language.num_kv_heads),
                    )
                ],
            )
            ids = self._ids[:size]

            def run(batch: GPUBatch = batch, ids: torch.Tensor = ids) -> torch.Tensor:
                attend = operations.attend_over(batch, language.rotary)
                logits = language.layers(language.embed(ids), attend, cache.layers, None)
                if self._logits is None:  # before the first capture, which is the largest
                    stride = logits.stride(0)
                    self._logits = torch.empty(len(logits), stride, device=device)
                # One output buffer shared by all graphs.
                return self._logits[: len(logits), : logits.shape[1]].copy_(logits)

            # Until the first step each row attends to itself.
            self._header[0], self._header[1] = size, DECODE_PART
            run()  # compiles and autotunes, which is not allowed during capture
            self._graphs[size] = capture(run)

    def takes(self, batch: Batch) -> bool:
        """Whether it is a decode step that fits the largest graph.

        A prompt whose last token is an image's, with all others in the prefix cache, has one token
        as well, but not one that a graph can embed.
        """
        rows = len(batch.ids)
        only_decodes = rows == batch.num_single and batch.sampled_rows is None
        needs_more = batch.has_images or batch.scored or batch.options
        return only_decodes and not needs_more and rows <= self._sizes[-1]

    def __call__(self, batch: Batch) -> torch.Tensor:
        """(requests, vocabulary) float32 logits, valid until the next call."""
        count = len(batch.ids)
        size = next(size for size in self._sizes if size >= count)
        spare = size - count
        num_computed = np.pad(batch.num_computed, (0, spare))
        work = decode_work(num_computed + 1)
        ids, positions, slot_mapping, computed, block_tables, items, merges, header = upload(
            [
                np.pad(batch.ids, (0, spare)),
                np.pad(batch.positions, ((0, 0), (0, spare))),
                np.pad(batch.slot_mapping, (0, spare), constant_values=self._cache.scratch_slot),
                num_computed,
                np.pad(
                    batch.block_tables,
                    ((0, spare), (0, 0)),
                    constant_values=self._cache.scratch_block,
                ),
                work.items,
                np.pad(work.merges, ((0, size - len(work.merges)), (0, 0))),  # of no slots
                work_header(work),
            ],
            self._device,
        )
        self._ids[:size] = ids
        self._positions[:, :size] = positions
        self._slot_mapping[:size] = slot_mapping
        self._num_computed[:size] = computed
        self._block_tables[:size, : block_tables.shape[1]] = block_tables
        self._items[: len(items)] = items
        self._merges[:size] = merges
        self._header.copy_(header)
        return self._graphs[size]()[:count]


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4 and then every eighth, up to ``most``."""
    return sorted({min(size, most) for size in (1, 2, 4, *range(8, most + 8, 8))})


def _cuda_capture() -> Callable[[_Run], _Run]:
    """What captures a pass that has been run before, and gives what runs it again."""
    pool = torch.cuda.graph_pool_handle()

    def capture(run: _Run) -> _Run:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            result = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    return capture
