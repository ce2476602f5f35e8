"""Choose the next token of one request from its logits."""

from collections import Counter

import torch

from glm_engine.request import Request, SamplingParams, TokenLogprobs

# Below it the division would overflow float32, and the choice is certain anyway.
_GREEDY_TEMPERATURE = 1e-5


class Sampler:
    """The random state and the sampling rules of one request.

    A seeded request draws from a generator of its own, so the same seed gives the same tokens
    whatever else is running.
    """

    def __init__(self, request: Request, eos_token_ids: frozenset[int]) -> None:
        self._request = request
        self._eos_token_ids = sorted(eos_token_ids)
        self._generator = torch.Generator()
        if request.params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(request.params.seed)

    def sample(self, logits: torch.Tensor) -> tuple[int, TokenLogprobs]:
        """Choose a token.

        Args:
            logits: (vocabulary,) float32 on the CPU; not changed.

        Returns:
            The token's id, and its log probability (before penalties, temperature and filters)
            with the alternatives that the request asked for.
        """
        params = self._request.params
        scores = self._penalised(logits)
        if params.temperature < _GREEDY_TEMPERATURE:
            token_id = int(scores.argmax())
        else:
            token_id = self._draw(_filtered(scores / params.temperature, params))
        return token_id, _logprobs(logits, token_id, params.logprobs)

    def _draw(self, scores: torch.Tensor) -> int:
        # Exponential race: argmax(p / Exp(1)) is a draw from p, without a cumulative sum over the
        # vocabulary.
        noise = torch.empty_like(scores).exponential_(generator=self._generator)
        noise.clamp_min_(
            torch.finfo(noise.dtype).tiny
        )  # a zero would make 0 / 0 of an excluded token
        return int((scores.softmax(-1) / noise).argmax())

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        request, params = self._request, self._request.params
        scores = logits.clone()
        if params.repetition_penalty != 1:
            # Counts the prompt as well, as transformers' RepetitionPenaltyLogitsProcessor does.
            seen_ids = {*request.prompt.input_ids.tolist(), *request.token_ids}
            seen = torch.tensor([token_id for token_id in seen_ids if token_id < len(scores)])
            at_seen = scores[seen]
            penalty = params.repetition_penalty
            scores[seen] = torch.where(at_seen > 0, at_seen / penalty, at_seen * penalty)
        if params.presence_penalty or params.frequency_penalty:
            for token_id, count in Counter(request.token_ids).items():
                scores[token_id] -= params.presence_penalty + params.frequency_penalty * count
        for token_id, bias in params.logit_bias.items():
            if token_id < len(scores):
                scores[token_id] += bias
        if len(request.token_ids) < params.min_tokens:
            forbidden = {*self._eos_token_ids, *params.stop_token_ids}
            scores[[token_id for token_id in forbidden if token_id < len(scores)]] = -torch.inf
        return scores


def _filtered(scores: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Scores with everything outside top_k, top_p and min_p at -inf, applied in that order."""
    if 0 < params.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(params.top_k).values[-1], -torch.inf)
    if params.top_p < 1:
        ordered, order = scores.sort(descending=True)
        probabilities = ordered.softmax(-1)
        # A token stays if those before it have not reached top_p: the most likely one always does.
        outside = probabilities.cumsum(-1) - probabilities >= params.top_p
        scores = scores.masked_fill(outside.scatter(0, order, outside), -torch.inf)
    if params.min_p > 0:
        probabilities = scores.softmax(-1)
        scores = scores.masked_fill(probabilities < params.min_p * probabilities.max(), -torch.inf)
    return scores


def _logprobs(logits: torch.Tensor, token_id: int, num_alternatives: int | None) -> TokenLogprobs:
    logprobs = logits.log_softmax(-1)
    chosen = logprobs[token_id]
    entries = {token_id: (float(chosen), int((logprobs > chosen).sum()) + 1)}
    if num_alternatives:
        values, token_ids = logprobs.topk(min(num_alternatives, len(logprobs)))
        pairs = zip(token_ids.tolist(), values.tolist(), strict=True)
        entries.update({other: (value, rank) for rank, (other, value) in enumerate(pairs, 1)})
    return TokenLogprobs(token_id, entries)
