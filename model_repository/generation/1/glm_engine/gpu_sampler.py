"""The sampler of a GPU: a step costs a dozen launches, and the host waits for the GPU once.

The same results as ``Sampler``, but for the draws. What depends on a request alone is uploaded in
one transfer; tokens are counted for penalties on the device.
"""

import secrets
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton

from glm_engine import sampling_kernels as kernels
from glm_engine.operations import upload
from glm_engine.request import Request, SamplingParams, ThinkingTokens
from glm_engine.sampler import Sampled, forced_token, is_edited, is_greedy, named_logprobs
from glm_engine.structured_output import token_masks

# Tokens that a program takes at a time.
_BLOCK = 2048
_PAIRS = 256
_WEYL = 0x9E3779B97F4A7C15
_Added = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


@dataclass(slots=True, weakref_slot=True)
class _State:
    """What the sampler knows of a request besides its parameters.

    Attributes:
        seed: of its draws.
        added: token ids, and what is added to their logits: biases; and, as long as ``min_tokens``
            are not reached, -inf.
        slot: its row of the counts; -1 if it has none.
        num_counted: number of tokens of the answer that are counted there.
    """

    seed: int
    added: _Added
    added_at_first: _Added
    slot: int = -1
    num_counted: int = 0


@dataclass(slots=True)
class _Inputs:
    """Of one step, for the upload.

    Attributes:
        cleared: slots whose counts are from another request.
        prompts: (tokens, 3) int32, like ``new``.
        new: (slot, token, 1 or ``PROMPT_BIT``) to count.
        added_rows, added: rows, and token ids and values that are added to their scores.
    """

    floats: list[tuple[float, ...]] = field(default_factory=list)
    ints: list[tuple[int, ...]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    cleared: list[int] = field(default_factory=list)
    prompts: list[npt.NDArray[np.int32]] = field(default_factory=list)
    new: list[tuple[int, int, int]] = field(default_factory=list)
    added_rows: list[int] = field(default_factory=list)
    added: list[_Added] = field(default_factory=list)
    is_edited: bool = False

    def to_count(self) -> npt.NDArray[np.int32]:
        """(tokens, 3) int32."""
        return np.concatenate([*self.prompts, np.array(self.new, np.int32).reshape(-1, 3)])

    def to_add(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """(scores, 2) int32 rows and token ids, and (scores,) float32 values."""
        if not self.added:
            return np.zeros((0, 2), np.int32), np.zeros(0, np.float32)
        rows = np.repeat(np.array(self.added_rows, np.int32), [len(ids) for ids, _ in self.added])
        ids = np.concatenate([ids for ids, _ in self.added])
        return np.stack([rows, ids], 1), np.concatenate([values for _, values in self.added])


class GPUSampler:
    """Samples tokens; see ``Sampler``, whose interface it has."""

    def __init__(
        self,
        num_tokens: int,
        eos_token_ids: frozenset[int],
        device: torch.device,
        thinking: ThinkingTokens | None = None,
        *,
        max_num_seqs: int,
    ) -> None:
        """For a vocabulary of ``num_tokens`` and at most ``max_num_seqs`` requests in a step."""
        self._num_tokens, self._eos_token_ids = num_tokens, eos_token_ids
        self._device, self._thinking = device, thinking
        self._counts = torch.zeros(max_num_seqs, num_tokens, dtype=torch.int32, device=device)
        # Whose counts are in a slot. A request that ended, or waits, keeps its slot until another
        # one needs it.
        self._owners: list[weakref.ref[_State] | None] = [None] * max_num_seqs

    def __call__(self, requests: Sequence[Request], logits: torch.Tensor) -> list[Sampled]:
        """Choose a token for each request; see ``Sampler``."""
        return self.launch(requests, logits).result()

    def launch(self, requests: Sequence[Request], logits: torch.Tensor) -> "Pending":
        """Start to choose a token for each request.

        Args:
            requests: one for each row; at most ``max_num_seqs``.
            logits: (requests, vocabulary or more) float32; not modified.
        """
        try:
            return self._launch(requests, logits)
        except Exception:
            self._owners = [None] * len(self._owners)  # what has been counted is unknown
            raise

    def _launch(self, requests: Sequence[Request], logits: torch.Tensor) -> "Pending":
        assert logits.stride(1) == 1
        inputs = self._inputs(requests)
        reported = [row for row, r in enumerate(requests) if r.params.logprobs is not None]
        guides = [request.guide for request in requests if request.guide is not None]
        seeds = np.array(inputs.seeds, np.uint64)
        none = np.zeros((1, 1), np.int32)
        floats, ints, seeds_, cleared, new, places, values, masks, rows = upload(
            [
                np.array(inputs.floats, np.float32), np.array(inputs.ints, np.int32),
                seeds.view(np.int64), np.array(inputs.cleared, np.int32),
                inputs.to_count(), *inputs.to_add(),
                token_masks(guides, self._num_tokens) if guides else none,
                np.array(reported, np.int32),
            ],
            self._device,
        )  # fmt: skip
        num_tokens, stride, count = self._num_tokens, logits.stride(0), len(requests)
        blocks = triton.cdiv(num_tokens, _BLOCK)
        if len(cleared):
            kernels.clear_kernel[(len(cleared), blocks)](
                self._counts, cleared, num_tokens, BLOCK=_BLOCK
            )
        if len(new):
            kernels.count_kernel[(triton.cdiv(len(new), _PAIRS),)](
                self._counts, new, len(new), num_tokens, BLOCK=_PAIRS
            )
        scores = logits
        if inputs.is_edited:
            scores = torch.empty(count, stride, dtype=torch.float32, device=self._device)
            kernels.penalize_kernel[(count, blocks)](
                logits, self._counts, floats, ints, scores, stride, num_tokens, BLOCK=_BLOCK
            )
            if len(values):
                kernels.add_kernel[(triton.cdiv(len(values), _PAIRS),)](
                    scores, places, values, len(values), stride, BLOCK=_PAIRS
                )
        results = torch.empty(count, len(kernels.RESULTS), dtype=torch.float32, device=self._device)
        kernels.sample_kernel[(count,)](
            logits, scores, masks, floats, ints, seeds_, results, stride, num_tokens,
            masks.shape[1], BLOCK=_BLOCK, num_warps=8,
        )  # fmt: skip
        best = None
        tops = [requests[row].params.logprobs or 0 for row in reported]
        if reported:
            kernels.logprob_kernel[(count,)](
                logits, ints, results, stride, num_tokens, BLOCK=_BLOCK, num_warps=8
            )
            asked = logits if len(reported) == count else logits.index_select(0, rows)
            best = asked[:, :num_tokens].topk(min(max(tops), num_tokens))
        return Pending(results, best, reported, tops)

    def _inputs(self, requests: Sequence[Request]) -> _Inputs:
        inputs, guides = _Inputs(), 0
        states = [self._state(request) for request in requests]
        in_step = {id(state) for state in states}
        for row, (request, state) in enumerate(zip(requests, states, strict=True)):
            params, count = request.params, len(request.token_ids)
            forced = forced_token(request, self._thinking)
            slot = -1
            if _is_penalised(params):
                slot = self._slot(request, state, in_step, inputs)
                inputs.new += [
                    (slot, token, 1)
                    for token in request.token_ids[state.num_counted :]
                    if token < self._num_tokens
                ]
                state.num_counted = count
            added = state.added_at_first if count < params.min_tokens else state.added
            if len(added[0]) and forced is None:
                inputs.added_rows.append(row)
                inputs.added.append(added)
            guide = -1
            if request.guide is not None:
                guide, guides = guides, guides + 1
            inputs.floats.append(
                (
                    max(params.temperature, 1e-5), params.top_p, params.min_p,
                    params.repetition_penalty, params.presence_penalty, params.frequency_penalty,
                )
            )  # fmt: skip
            inputs.ints.append(
                (
                    is_greedy(params), params.top_k, -1 if forced is None else forced, slot, guide,
                    params.logprobs is not None,
                )
            )  # fmt: skip
            inputs.seeds.append(_mixed(state.seed, count))
            inputs.is_edited |= is_edited(params)
        return inputs

    def _slot(self, request: Request, state: _State, in_step: set[int], inputs: _Inputs) -> int:
        """The row of a request's counts; if it has none, one is cleared and counted anew."""
        if state.slot >= 0:
            owner = self._owners[state.slot]
            if owner is not None and owner() is state:
                return state.slot
        slot = next(
            number
            for number, owner in enumerate(self._owners)
            if owner is None or (other := owner()) is None or id(other) not in in_step
        )
        self._owners[slot] = weakref.ref(state)
        state.slot, state.num_counted = slot, 0
        inputs.cleared.append(slot)
        # transformers' RepetitionPenaltyLogitsProcessor counts the prompt as well.
        tokens = np.unique(request.prompt.input_ids)
        tokens = tokens[tokens < self._num_tokens]
        what = np.full_like(tokens, kernels.PROMPT_BIT)
        inputs.prompts.append(np.stack([np.full_like(tokens, slot), tokens, what], 1))
        return slot

    def _state(self, request: Request) -> _State:
        if request.sampling is None:
            params = request.params
            bias = {t: b for t, b in params.logit_bias.items() if t < self._num_tokens}
            forbidden = dict.fromkeys(
                (t for t in self._eos_token_ids | params.stop_token_ids if t < self._num_tokens),
                -np.inf,
            )
            seed = secrets.randbits(64) if params.seed is None else params.seed % 2**64
            request.sampling = _State(seed, _pairs(bias), _pairs(bias | forbidden))
        state: _State = request.sampling
        return state


class Pending:
    """Results that the GPU may not have computed yet."""

    def __init__(
        self,
        results: torch.Tensor,
        best: Any,
        reported: Sequence[int],
        tops: Sequence[int],
    ) -> None:
        """Start to copy them to the host.

        Args:
            results: (rows, 4) float32; see ``sampling_kernels.RESULTS``.
            best: values and indices, both (reported rows, alternatives), if any are reported.
            reported: rows whose log probabilities are asked for.
            tops: for each of them the number of alternatives.
        """
        self._reported, self._tops = reported, tops
        self._here = [_download(tensor) for tensor in [results, *(best or ())]]
        self._done = None
        if results.is_cuda:
            self._done = torch.cuda.Event()
            self._done.record()

    def result(self) -> list[Sampled]:
        """Wait for them."""
        if self._done is not None:
            self._done.synchronize()
        results = self._here[0]
        tokens = [int(token) for token in results[:, 0].tolist()]
        logprobs = {}
        if self._reported:
            rows = results[self._reported]
            named = named_logprobs(
                rows[:, 0].long(), rows[:, 1], rows[:, 2].long(),
                self._here[1] - rows[:, 3:], self._here[2], self._tops,
            )  # fmt: skip
            logprobs = dict(zip(self._reported, named, strict=True))
        return [Sampled(token, logprobs.get(row)) for row, token in enumerate(tokens)]


def _download(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in main memory, which is complete when the device is."""
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return here.copy_(tensor, non_blocking=True)


def _pairs(added: dict[int, float]) -> _Added:
    return np.array(list(added), np.int32), np.array(list(added.values()), np.float32)


def _mixed(seed: int, position: int) -> int:
    """The seed of one draw (SplitMix64; Steele et al., 2014)."""
    value = (seed + (position + 1) * _WEYL) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def _is_penalised(params: SamplingParams) -> bool:
    return bool(
        params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
    )
