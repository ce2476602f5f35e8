"""Samples the next tokens of a batch of requests from their logits.

The result for a request depends only on its own logits and parameters, never on the rest of the
batch: a seeded request draws a fixed number of values per token from its own generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from glm_engine.request import Request, SamplingParams, ThinkingTokens, TokenLogprobs
from glm_engine.structured_output import allowed_tokens

# Below this the division would overflow float32, and sampling is deterministic anyway.
_GREEDY_TEMPERATURE = 1e-5
# Up to this number of candidates, use top-k instead of sorting the vocabulary.
_FEW = 64


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token; its log probabilities where the request asked for them."""

    token_id: int
    logprobs: TokenLogprobs | None


@dataclass(slots=True)
class SamplingState:
    """The state on which a request's next token depends, besides its logits.

    Attributes:
        generator: of a seeded request.
        seen: (vocabulary,) bool, tokens of prompt and answer; for the repetition penalty.
        counts: (vocabulary,) float32, of the answer; for presence and frequency penalty.
        biased: token ids and the values added to their logits.
        forbidden: token ids that may not come before ``min_tokens``.
        num_counted: number of tokens of the answer included in ``seen`` and ``counts``.
    """

    generator: torch.Generator | None = None
    seen: torch.Tensor | None = None
    counts: torch.Tensor | None = None
    biased: tuple[torch.Tensor, torch.Tensor] | None = None
    forbidden: torch.Tensor | None = None
    num_counted: int = 0


class Sampler:
    """Samples tokens; the state of each request is stored in the request."""

    def __init__(
        self,
        num_tokens: int,
        eos_token_ids: frozenset[int],
        device: torch.device,
        thinking: ThinkingTokens | None = None,
    ) -> None:
        """For a vocabulary of ``num_tokens``; ``thinking`` is needed for thinking budgets."""
        self._thinking = thinking
        self._num_tokens = num_tokens
        self._eos_token_ids = eos_token_ids
        self._device = device
        self._shared = torch.Generator(device)
        self._shared.seed()

    def __call__(self, requests: Sequence[Request], logits: torch.Tensor) -> list[Sampled]:
        """Choose a token for each request.

        Args:
            requests: one for each row.
            logits: (requests, vocabulary) float32; not modified.

        Returns:
            For each row the token and, if asked for, its log probability (before penalties,
            temperature and filters) with the alternatives that the request asked for.
        """
        scores = self._edited(requests, logits)
        groups: dict[Callable[..., torch.Tensor], list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault(_method(request.params, self._num_tokens), []).append(row)
        if list(groups) == [_greedy]:
            chosen = scores.argmax(-1)
        else:
            chosen = torch.empty(len(requests), dtype=torch.int64, device=self._device)
            for choose, rows in groups.items():
                at = torch.tensor(rows, device=self._device)
                chosen[at] = choose(scores[at], [requests[row] for row in rows], self)
        reported = [row for row, r in enumerate(requests) if r.params.logprobs is not None]
        logprobs: dict[int, TokenLogprobs] = {}
        if reported:
            at = torch.tensor(reported, device=self._device)
            tops = [requests[row].params.logprobs or 0 for row in reported]
            logprobs = dict(
                zip(reported, token_logprobs(logits[at], chosen[at], tops), strict=True)
            )
        return [
            Sampled(token_id, logprobs.get(row)) for row, token_id in enumerate(chosen.tolist())
        ]

    # ---- logits ----

    def _edited(self, requests: Sequence[Request], logits: torch.Tensor) -> torch.Tensor:
        """Logits with penalties, biases and masks applied; a copy if there are any."""
        rows = [row for row, request in enumerate(requests) if is_edited(request.params)]
        guided = [row for row, request in enumerate(requests) if request.guide is not None]
        if not rows and not guided:
            return logits
        scores = logits.clone()
        for row in rows:
            request = requests[row]
            self._edit(request.params, self.state(request), request, scores[row])
        if guided:
            at = torch.tensor(guided, device=self._device)
            guides = [requests[row].guide for row in guided]
            banned = ~allowed_tokens(guides, logits.shape[-1], self._device)
            masked = scores[at].masked_fill_(banned, -torch.inf)
            # If min_tokens forbids all tokens that the grammar allows, the grammar wins.
            nothing_left = masked.isneginf().all(-1, keepdim=True)
            plain = logits[at].masked_fill_(banned, -torch.inf)
            scores[at] = torch.where(nothing_left, plain, masked)
        return scores

    def _edit(
        self, params: SamplingParams, state: SamplingState, request: Request, scores: torch.Tensor
    ) -> None:
        new = [t for t in request.token_ids[state.num_counted :] if t < self._num_tokens]
        state.num_counted = len(request.token_ids)
        if state.seen is not None:
            state.seen[new] = True
            penalty = params.repetition_penalty
            penalised = torch.where(scores > 0, scores / penalty, scores * penalty)
            scores.copy_(torch.where(state.seen, penalised, scores))
        if state.counts is not None:
            for token_id in new:
                state.counts[token_id] += 1
            scores -= params.frequency_penalty * state.counts
            scores -= params.presence_penalty * (state.counts > 0)
        if state.biased is not None:
            scores.index_add_(0, *state.biased)
        if state.forbidden is not None and len(request.token_ids) < params.min_tokens:
            scores.index_fill_(0, state.forbidden, -torch.inf)
        forced = forced_token(request, self._thinking)
        if forced is not None:
            scores.fill_(-torch.inf)
            scores[forced] = 0

    def state(self, request: Request) -> SamplingState:
        """The state of a request, created on first use."""
        if request.sampling is None:
            request.sampling = self._new_state(request)
        state: SamplingState = request.sampling
        return state

    def _new_state(self, request: Request) -> SamplingState:
        params, device = request.params, self._device
        state = SamplingState()
        if params.seed is not None:
            state.generator = torch.Generator(device).manual_seed(params.seed)
        if params.repetition_penalty != 1:
            # Counts the prompt as well, as transformers' RepetitionPenaltyLogitsProcessor does.
            state.seen = torch.zeros(self._num_tokens, dtype=torch.bool, device=device)
            prompt = torch.from_numpy(request.prompt.input_ids).long()
            state.seen[prompt[prompt < self._num_tokens].to(device)] = True
        if params.presence_penalty or params.frequency_penalty:
            state.counts = torch.zeros(self._num_tokens, device=device)
        bias = {t: b for t, b in params.logit_bias.items() if t < self._num_tokens}
        if bias:
            ids = torch.tensor(list(bias), device=device)
            state.biased = ids, torch.tensor(list(bias.values()), device=device)
        if params.min_tokens:
            ids_ = sorted(self._eos_token_ids | params.stop_token_ids)
            state.forbidden = torch.tensor(
                [t for t in ids_ if t < self._num_tokens], dtype=torch.int64, device=device
            )
        return state

    def noise(self, requests: Sequence[Request], widths: Sequence[int]) -> torch.Tensor:
        """(requests, widest) draws from Exp(1), for each request from its own generator."""
        noise = torch.empty(len(requests), max(widths), device=self._device)
        if any(request.params.seed is None for request in requests):
            noise.exponential_(generator=self._shared)
        for row, (request, width) in enumerate(zip(requests, widths, strict=True)):
            if request.params.seed is not None:
                noise[row, :width].exponential_(generator=self.state(request).generator)
        # Avoids 0 / 0 for excluded tokens.
        return noise.clamp_min_(torch.finfo(noise.dtype).tiny)


# ---- sampling methods: (rows, vocabulary) scores -> (rows,) token ids ----


def _method(params: SamplingParams, num_tokens: int) -> Callable[..., torch.Tensor]:
    if is_greedy(params):
        return _greedy
    return _among_few if 0 < params.top_k <= min(_FEW, num_tokens) else _among_all


def _greedy(scores: torch.Tensor, requests: Sequence[Request], sampler: Sampler) -> torch.Tensor:
    return scores.argmax(-1)


def _among_few(scores: torch.Tensor, requests: Sequence[Request], sampler: Sampler) -> torch.Tensor:
    """Sample among the few tokens that ``top_k`` leaves."""
    widths = [request.params.top_k for request in requests]
    best, token_ids = scores.topk(max(widths))  # best first
    best = best / _column(requests, lambda params: params.temperature, scores)
    ranks = torch.arange(max(widths), device=scores.device)
    best.masked_fill_(ranks >= _column(requests, lambda params: params.top_k, scores), -torch.inf)
    probabilities = best.softmax(-1)
    probabilities.masked_fill_(_outside(probabilities, requests), 0)
    rank = (probabilities / sampler.noise(requests, widths)).argmax(-1, keepdim=True)
    return token_ids.gather(-1, rank)[:, 0]


def _among_all(scores: torch.Tensor, requests: Sequence[Request], sampler: Sampler) -> torch.Tensor:
    scores = scores / _column(requests, lambda params: params.temperature, scores)
    if any(_is_filtered(request.params) for request in requests):
        ordered, order = scores.sort(descending=True)
        limits = [request.params.top_k or scores.shape[-1] for request in requests]
        limit = torch.tensor(limits, device=scores.device)[:, None]
        ranks = torch.arange(scores.shape[-1], device=scores.device)
        ordered.masked_fill_(ranks >= limit, -torch.inf)
        ordered = ordered.softmax(-1)
        ordered.masked_fill_(_outside(ordered, requests), 0)
        probabilities = torch.zeros_like(scores).scatter_(-1, order, ordered)
    else:
        probabilities = scores.softmax(-1)
    # Exponential race: argmax(p / Exp(1)) is a draw from p, without a cumulative sum.
    return (probabilities / sampler.noise(requests, [scores.shape[-1]] * len(requests))).argmax(-1)


def _outside(probabilities: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """What ``top_p`` and then ``min_p`` exclude; (rows, ranks) probabilities, best first."""
    top_p = _column(requests, lambda params: params.top_p, probabilities)
    min_p = _column(requests, lambda params: params.min_p, probabilities)
    # A token stays if those before it have not reached top_p: the most likely one always does. At
    # top_p 1 all stay, though rounding may bring the sum there early.
    before = probabilities.cumsum(-1) - probabilities
    return ((before >= top_p) & (top_p < 1)) | (probabilities < min_p * probabilities[:, :1])


def _column(
    requests: Sequence[Request], value: Callable[[SamplingParams], float], like: torch.Tensor
) -> torch.Tensor:
    values = [float(value(request.params)) for request in requests]
    return torch.tensor(values, device=like.device)[:, None]


def _is_filtered(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def is_greedy(params: SamplingParams) -> bool:
    """Whether a request takes the most likely token."""
    return params.temperature < _GREEDY_TEMPERATURE or params.top_k == 1


def forced_token(request: Request, thinking: ThinkingTokens | None) -> int | None:
    """The only possible next token: the end of a thought whose budget is used up."""
    budget = request.params.thinking_token_budget
    if budget is None or thinking is None or not request.is_thinking:
        return None
    # Excludes the token that begins the thought.
    return thinking.end if len(request.token_ids) > budget else None


def is_edited(params: SamplingParams) -> bool:
    """Whether a request's logits are changed by its parameters, besides temperature and filters."""
    return bool(
        params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or params.min_tokens
        or params.thinking_token_budget is not None
    )


def token_logprobs(
    logits: torch.Tensor, chosen: torch.Tensor, tops: Sequence[int]
) -> list[TokenLogprobs]:
    """The log probability of one token for each row, with the best alternatives.

    Args:
        logits: (rows, vocabulary) float32.
        chosen: (rows,) int64 token ids; one outside the vocabulary, as an image's, counts as 0.
        tops: for each row the number of alternatives.
    """
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(-1, chosen.clamp(max=logprobs.shape[-1] - 1)[:, None])
    ranks = (logprobs > own).sum(-1) + 1
    best, best_ids = logprobs.topk(min(max(tops), logprobs.shape[-1]))
    return named_logprobs(chosen, own[:, 0], ranks, best, best_ids, tops)


def named_logprobs(
    chosen: torch.Tensor,
    own: torch.Tensor,
    ranks: torch.Tensor,
    best: torch.Tensor,
    best_ids: torch.Tensor,
    tops: Sequence[int],
) -> list[TokenLogprobs]:
    """The log probabilities of each row as ``TokenLogprobs``.

    Args:
        chosen, own, ranks: (rows,) token ids, their log probabilities and ranks from 1.
        best, best_ids: (rows, alternatives) log probabilities and token ids, best first.
        tops: for each row the number of alternatives.
    """
    rows = zip(
        chosen.tolist(), own.tolist(), ranks.tolist(), best.tolist(), best_ids.tolist(),
        tops, strict=True,
    )  # fmt: skip
    found = []
    for token_id, value, rank, values, ids, top in rows:
        entries = {token_id: (value, rank)}
        for place, (other, other_value) in enumerate(zip(ids, values, strict=True), 1):
            if place > top:
                break
            entries[other] = (other_value, place)
        found.append(TokenLogprobs(token_id, entries))
    return found
