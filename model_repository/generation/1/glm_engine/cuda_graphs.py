"""Decode steps as CUDA graphs: a whole step is launched at once, not kernel by kernel.

Without them the CPU would take several times as long to launch the kernels of a decode step as the
GPU takes to run them.
"""

from collections.abc import Callable

import numpy as np
import torch

from glm_engine.batch import Batch
from glm_engine.kv_cache import KVCache
from glm_engine.language_model import LanguageModel
from glm_engine.operations import GPUBatch, GPUOperations, splits_for, upload

_Run = Callable[[], torch.Tensor]


class DecodeGraphs:
    """A graph for each of some numbers of requests; a step takes the next larger one.

    A graph reads its inputs where they were when it was captured, so there they are put. Rows that
    stand for no request read and write the cache's scratch block.
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
            max_num_seqs: requests in a step at most.
            max_len: tokens of a request at most.
        """
        self._cache, self._device = cache, device
        self._sizes = batch_sizes(max_num_seqs)
        most = self._sizes[-1]
        # Graphs know addresses only: what they read and write is kept here.
        self._rows = rows = torch.arange(most + 1, dtype=torch.int32, device=device)
        self._no_rows = no_rows = torch.zeros_like(rows)
        self._ids = torch.zeros(most, dtype=torch.int64, device=device)
        self._positions = torch.zeros(3, most, dtype=torch.int64, device=device)
        self._slots = torch.full((most,), cache.scratch_slot, dtype=torch.int64, device=device)
        self._starts = torch.zeros(most, dtype=torch.int32, device=device)
        blocks = -(-max_len // cache.block_size)
        self._tables = torch.full(
            (most, blocks), cache.scratch_block, dtype=torch.int32, device=device
        )
        self._logits: torch.Tensor | None = None
        capture = _cuda_capture()
        self._graphs: dict[int, _Run] = {}
        for size in reversed(self._sizes):  # the largest first: the others fit into its memory
            batch = GPUBatch(
                positions=self._positions[:, :size],
                slots=self._slots[:size],
                tables=self._tables[:size],
                starts=self._starts[:size],
                first_rows=rows[: size + 1],
                single=(rows[:size], no_rows[:size]),
                several=None,
                splits=splits_for(size * language.num_kv_heads),
            )
            ids = self._ids[:size]

            def run(batch: GPUBatch = batch, ids: torch.Tensor = ids) -> torch.Tensor:
                attend = operations.attend_over(batch, language.rotary)
                logits = language.layers(language.embed(ids), attend, cache.layers, None)
                if self._logits is None:  # before the first capture, of the largest
                    self._logits = torch.empty_like(logits)
                # One place for all graphs, which else would each keep their own.
                return self._logits[: len(logits)].copy_(logits)

            run()  # compiles, and lets libraries choose, which a capture may not contain
            self._graphs[size] = capture(run)

    def takes(self, batch: Batch) -> bool:
        """Whether it is a decode step of few enough requests."""
        rows = len(batch.ids)
        return rows == batch.num_single and batch.sampled_rows is None and rows <= self._sizes[-1]

    def __call__(self, batch: Batch) -> torch.Tensor:
        """(requests, vocabulary) float32 logits, good until the next call."""
        count = len(batch.ids)
        size = next(size for size in self._sizes if size >= count)
        spare = size - count
        ids, positions, slots, starts, tables = upload(
            [
                np.pad(batch.ids, (0, spare)),
                np.pad(batch.positions, ((0, 0), (0, spare))),
                np.pad(batch.slots, (0, spare), constant_values=self._cache.scratch_slot),
                np.pad(batch.starts, (0, spare)),
                np.pad(
                    batch.tables, ((0, spare), (0, 0)), constant_values=self._cache.scratch_block
                ),
            ],
            self._device,
        )
        self._ids[:size] = ids
        self._positions[:, :size] = positions
        self._slots[:size] = slots
        self._starts[:size] = starts
        self._tables[:size, : tables.shape[1]] = tables
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
