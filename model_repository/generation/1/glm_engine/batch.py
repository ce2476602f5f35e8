"""One step's tokens as flat arrays: what the passes of the model are given. Free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glm_engine.scheduler import Scheduled


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens of many requests, one after the other, without padding.

    Attributes:
        parts: in the order of their tokens; those with a single token first.
        num_single: how many have a single token.
        ids: (tokens,) int64.
        positions: (3, tokens) int64, M-RoPE.
        slots: (tokens,) int64 where in the KV cache each goes, counted in tokens.
        tables: (parts, blocks of the longest) int32 block ids, filled up with 0.
        starts: (parts,) int32, tokens of each that are in the KV cache already.
        first_rows: (parts + 1,) int32, where the tokens of each begin, and where all end.
        sampled: of ``parts``, those for which a next token is chosen.
        sampled_rows: (sampled,) int64 rows of their last tokens; None where these are all rows.
    """

    parts: Sequence[Scheduled]
    num_single: int
    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    tables: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    first_rows: npt.NDArray[np.int32]
    sampled: list[Scheduled]
    sampled_rows: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, step: Sequence[Scheduled], block_size: int) -> "Batch":
        """Lay a step out."""
        lengths = [part.end - part.start for part in step]
        parts = sorted(step, key=lambda part: part.end - part.start > 1)
        first_rows = np.zeros(len(parts) + 1, np.int32)
        np.cumsum([part.end - part.start for part in parts], out=first_rows[1:])
        rows = int(first_rows[-1])
        ids, positions = np.empty(rows, np.int64), np.empty((3, rows), np.int64)
        slots = np.empty(rows, np.int64)
        widest = -(-max(part.end for part in parts) // block_size)
        tables = np.zeros((len(parts), widest), np.int32)
        row = 0
        for index, part in enumerate(parts):
            request, start, end = part.request, part.start, part.end
            blocks = request.table.block_ids
            count = -(-end // block_size)
            tables[index, :count] = blocks[:count]
            in_prompt = request.prompt.num_tokens
            if end - start == 1 and start >= in_prompt:  # nearly always
                ids[row] = request.token_ids[start - in_prompt]
                positions[:, row] = start + request.prompt.rope_delta
                slots[row] = blocks[start // block_size] * block_size + start % block_size
                row += 1
            else:
                after = row + end - start
                ids[row:after] = request.ids_between(start, end)
                positions[:, row:after] = request.positions_between(start, end)
                tokens = np.arange(start, end)
                of_token = tables[index, tokens // block_size].astype(np.int64)
                slots[row:after] = of_token * block_size + tokens % block_size
                row = after
        last = [index for index, part in enumerate(parts) if part.is_last]
        every = len(last) == rows
        return cls(
            parts=parts,
            num_single=lengths.count(1),
            ids=ids,
            positions=positions,
            slots=slots,
            tables=tables,
            starts=np.array([part.start for part in parts], np.int32),
            first_rows=first_rows,
            sampled=[parts[index] for index in last],
            sampled_rows=None if every else first_rows[1:][last].astype(np.int64) - 1,
        )
