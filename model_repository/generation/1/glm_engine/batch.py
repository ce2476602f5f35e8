"""The tokens of one step as flat arrays, the input of the model. Independent of torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glm_engine.request import Request
from glm_engine.scheduler import Scheduled
from glm_engine.scoring import Scoring


@dataclass(frozen=True, slots=True)
class Scored:
    """Consecutive prompt tokens of a request whose successors are scored.

    Attributes:
        start: position of the first one in the prompt.
        row: its row in the batch.
        count: number of tokens.
    """

    request: Request
    start: int
    row: int
    count: int


@dataclass(frozen=True, slots=True)
class ScoredOption:
    """A token whose log probability counts for an option of a question.

    Attributes:
        row: in the batch, of the token before.
        depth: number of the option's tokens before.
        token_id: or ``scoring.END``.
    """

    scoring: Scoring
    row: int
    option: int
    depth: int
    token_id: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Concatenated tokens of many requests, without padding.

    Attributes:
        parts: in the order of their tokens; those with a single token first.
        num_single: number of parts with a single token.
        ids: (tokens,) int64.
        positions: (3, tokens) int64, M-RoPE.
        slot_mapping: (tokens,) int64 index of each token in the KV cache.
        block_tables: (parts, blocks of the longest) int32 block ids, padded with 0.
        num_computed: (parts,) int32 number of tokens that are in the KV cache already.
        query_start_loc: (parts + 1,) int32 cumulative numbers of tokens.
        scored: those of ``parts`` with prompt tokens whose successors' log probabilities are
            requested.
        options: what ``parts`` say about the options of questions.
        sampled: those of ``parts`` for which a next token is sampled.
        sampled_rows: (sampled,) int64 rows of their last tokens; None if these are all rows.
        has_images: whether any of the tokens are of images, i.e. not embedded by their ids.
    """

    parts: Sequence[Scheduled]
    num_single: int
    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    slot_mapping: npt.NDArray[np.int64]
    block_tables: npt.NDArray[np.int32]
    num_computed: npt.NDArray[np.int32]
    query_start_loc: npt.NDArray[np.int32]
    scored: list[Scored]
    options: list[ScoredOption]
    sampled: list[Scheduled]
    sampled_rows: npt.NDArray[np.int64] | None
    has_images: bool

    @classmethod
    def of(cls, step: Sequence[Scheduled], block_size: int) -> "Batch":
        """Create the batch of a step."""
        lengths = [part.end - part.start for part in step]
        parts = sorted(step, key=lambda part: part.end - part.start > 1)
        query_start_loc = np.zeros(len(parts) + 1, np.int32)
        np.cumsum([part.end - part.start for part in parts], out=query_start_loc[1:])
        rows = int(query_start_loc[-1])
        ids, positions = np.empty(rows, np.int64), np.empty((3, rows), np.int64)
        slot_mapping = np.empty(rows, np.int64)
        widest = -(-max(part.end for part in parts) // block_size)
        block_tables = np.zeros((len(parts), widest), np.int32)
        row, has_images = 0, False
        for index, part in enumerate(parts):
            request, start, end = part.request, part.start, part.end
            blocks = request.table.block_ids
            count = -(-end // block_size)
            block_tables[index, :count] = blocks[:count]
            in_prompt = request.prompt.num_tokens
            if end - start == 1 and start >= in_prompt:  # the common case
                ids[row] = request.token_ids[start - in_prompt]
                positions[:, row] = start + request.prompt.rope_delta
                slot_mapping[row] = blocks[start // block_size] * block_size + start % block_size
                row += 1
            else:
                after = row + end - start
                has_images = has_images or bool(request.images_between(start, end))
                ids[row:after] = request.ids_between(start, end)
                positions[:, row:after] = request.positions_between(start, end)
                tokens = np.arange(start, end)
                of_token = block_tables[index, tokens // block_size].astype(np.int64)
                slot_mapping[row:after] = of_token * block_size + tokens % block_size
                row = after
        last = [index for index, part in enumerate(parts) if part.is_last]
        every = len(last) == rows
        return cls(
            parts=parts,
            num_single=lengths.count(1),
            ids=ids,
            positions=positions,
            slot_mapping=slot_mapping,
            block_tables=block_tables,
            num_computed=np.array([part.start for part in parts], np.int32),
            query_start_loc=query_start_loc,
            scored=[
                Scored(part.request, part.start, int(row), count)
                for part, row in zip(parts, query_start_loc, strict=False)
                if part.request.scores_prompt
                and (count := min(part.end, part.request.prompt.num_tokens - 1) - part.start) > 0
            ],
            options=[
                ScoredOption(scoring, int(row) + position - part.start, option, depth, token_id)
                for part, row in zip(parts, query_start_loc, strict=False)
                if (scoring := part.request.scoring) is not None
                for position, option, depth, token_id in scoring.wanted(
                    part.request, part.start, part.end
                )
            ],
            sampled=[parts[index] for index in last],
            sampled_rows=None if every else query_start_loc[1:][last].astype(np.int64) - 1,
            has_images=has_images,
        )
