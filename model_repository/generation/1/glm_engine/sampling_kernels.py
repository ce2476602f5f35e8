"""The kernels of ``gpu_sampler``, in OpenAI's Triton language; see ``gpu_kernels``.

All of them take one row of scores for each request and a vocabulary of ``num_tokens``; rows may be
longer, and their other columns are ignored.
"""

import triton
import triton.language as tl

# In a token's count: it is in the prompt. The other bits are the number of times in the answer.
PROMPT_BIT = 1 << 30
# Columns of the parameters of a row.
FLOATS = ("temperature", "top_p", "min_p", "repetition", "presence", "frequency")
INTS = ("is_greedy", "top_k", "forced", "slot", "guide", "wants_logprobs")
# Columns of the results of a row.
RESULTS = ("token", "logprob", "rank", "log_sum")

_GREEDY, _TOP_K, _FORCED, _SLOT, _GUIDE, _WANTS = (tl.constexpr(i) for i in range(6))
_TEMPERATURE, _TOP_P, _MIN_P, _REPETITION, _PRESENCE, _FREQUENCY = (
    tl.constexpr(i) for i in range(6)
)
_NUM_PARAMS = tl.constexpr(6)
_NUM_RESULTS = tl.constexpr(4)
_PROMPT = tl.constexpr(PROMPT_BIT)
# Less likely than the best token by a factor of e^64: nothing that is ever drawn.
_FARTHEST = tl.constexpr(64.0)
# Each pass divides the interval of the threshold by 8: 64 / 8^8 is 4e-6 of a scaled logit.
_PASSES = tl.constexpr(8)
_CUTS = tl.constexpr(8)


@triton.jit
def clear_kernel(counts, slots, num_tokens, BLOCK: tl.constexpr):
    """Zero the counts of some slots."""
    slot = tl.load(slots + tl.program_id(0)).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(counts + slot * num_tokens + column, 0, mask=column < num_tokens)


@triton.jit(do_not_specialize=["num_new"])
def count_kernel(counts, new, num_new, num_tokens, BLOCK: tl.constexpr):
    """Count tokens, given as (slot, token, 1 or ``PROMPT_BIT``)."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = index < num_new
    slot = tl.load(new + 3 * index, mask=there, other=0).to(tl.int64)
    token = tl.load(new + 3 * index + 1, mask=there, other=0)
    what = tl.load(new + 3 * index + 2, mask=there, other=0)
    tl.atomic_add(counts + slot * num_tokens + token, 1, mask=there & (what == 1))
    tl.atomic_or(counts + slot * num_tokens + token, what, mask=there & (what != 1))


@triton.jit
def penalize_kernel(
    logits, counts, floats, ints, scores, stride, num_tokens, BLOCK: tl.constexpr
):  # fmt: skip
    """Scores with penalties; where a token is forced, no other is possible."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_tokens
    value = tl.load(logits + row.to(tl.int64) * stride + column, mask=inside, other=0.0)
    slot = tl.load(ints + row * _NUM_PARAMS + _SLOT)
    if slot >= 0:
        count = tl.load(counts + slot.to(tl.int64) * num_tokens + column, mask=inside, other=0)
        repetition = tl.load(floats + row * _NUM_PARAMS + _REPETITION)
        penalised = tl.where(value > 0, value / repetition, value * repetition)
        value = tl.where(count != 0, penalised, value)
        answered = count & (_PROMPT - 1)
        value -= tl.load(floats + row * _NUM_PARAMS + _FREQUENCY) * answered.to(tl.float32)
        presence = tl.load(floats + row * _NUM_PARAMS + _PRESENCE)
        value -= tl.where(answered > 0, presence, 0.0)
    forced = tl.load(ints + row * _NUM_PARAMS + _FORCED)
    if forced >= 0:
        value = tl.where(column == forced, 0.0, float("-inf"))
    tl.store(scores + row.to(tl.int64) * stride + column, value, mask=inside)


@triton.jit(do_not_specialize=["num_added"])
def add_kernel(scores, places, values, num_added, stride, BLOCK: tl.constexpr):
    """Add to single scores, given as (row, token), none of them twice."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = index < num_added
    row = tl.load(places + 2 * index, mask=there, other=0).to(tl.int64)
    at = scores + row * stride + tl.load(places + 2 * index + 1, mask=there, other=0)
    value = tl.load(at, mask=there, other=0.0) + tl.load(values + index, mask=there, other=0.0)
    tl.store(at, value, mask=there)


@triton.jit
def _allowed(source, masks, guide, column, num_tokens, num_words):
    """Scores of some tokens, -inf for those that the grammar forbids."""
    value = tl.load(source + column, mask=column < num_tokens, other=float("-inf"))
    guided = tl.where(guide >= 0, num_tokens, 0)
    word = tl.load(
        masks + guide.to(tl.int64) * num_words + column // 32, mask=column < guided, other=-1
    )
    return tl.where(((word >> (column % 32)) & 1) != 0, value, float("-inf"))


@triton.jit
def _best(source, masks, guide, num_tokens, num_words, BLOCK: tl.constexpr):
    """The highest score, and the first token that has it."""
    best = tl.full([], float("-inf"), tl.float32)
    best_at = tl.full([], 0, tl.int32)
    for at in range(0, num_tokens, BLOCK):
        column = at + tl.arange(0, BLOCK)
        value = _allowed(source, masks, guide, column, num_tokens, num_words)
        top = tl.max(value, 0)
        place = at + tl.argmax(value, 0).to(tl.int32)
        best_at = tl.where(top > best, place, best_at)
        best = tl.maximum(best, top)
    return best, best_at


@triton.jit
def _threshold(
    source, masks, guide, best, scale, farthest, needed, COUNT: tl.constexpr, num_tokens, num_words,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """How far below the best a score may be: the least distance within which there is enough.

    Args:
        farthest: upper bound, which is the result if there is not enough within it.
        needed: number of tokens, if ``COUNT``, or sum of ``exp(-distance)``.
    """
    low = tl.full([], -1.0, tl.float32)
    high = farthest
    cut = tl.arange(0, _CUTS)
    between = tl.full([], 2.0, tl.float32)
    number = 0
    # Until one token is left between a distance that is too small and one that is enough.
    while (number < _PASSES) & (between > 1.5):
        limits = low + (high - low) * ((cut + 1).to(tl.float32) / _CUTS)
        limits = tl.where(cut == _CUTS - 1, high, limits)  # exactly
        counts = tl.zeros([_CUTS], tl.float32)
        sums = tl.zeros([_CUTS], tl.float32)
        below = tl.full([], 0.0, tl.float32)
        for at in range(0, num_tokens, BLOCK):
            column = at + tl.arange(0, BLOCK)
            value = _allowed(source, masks, guide, column, num_tokens, num_words)
            distance = (best - value) * scale
            within = distance[:, None] <= limits[None, :]
            counts += tl.sum(within.to(tl.float32), 0)
            sums += tl.sum(tl.where(within, tl.exp(-distance)[:, None], 0.0), 0)
            below += tl.sum((distance <= low).to(tl.float32), 0)
        have = counts if COUNT else sums
        # The first limit that is enough, or else the last one, which stands for all tokens.
        first = tl.min(tl.where((have >= needed) | (cut == _CUTS - 1), cut, _CUTS), 0)
        new_high = tl.sum(tl.where(cut == first, limits, 0.0), 0)
        new_low = tl.where(first == 0, low, tl.sum(tl.where(cut == first - 1, limits, 0.0), 0))
        fewer = tl.where(first == 0, below, tl.sum(tl.where(cut == first - 1, counts, 0.0), 0))
        between = tl.sum(tl.where(cut == first, counts, 0.0), 0) - fewer
        low, high = new_low, new_high
        number += 1
    return high


@triton.jit(do_not_specialize=["num_words"])
def sample_kernel(
    logits, scores, masks, floats, ints, seeds, results, stride, num_tokens, num_words,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Choose a token of each row: the most likely, or a draw within top-k, top-p and min-p.

    Thresholds are searched for instead of sorting, as in FlashInfer's sampler; of scores that are
    equal all are kept or none, as ``TopKLogitsWarper`` of transformers does. A draw is the highest
    of the scores with Gumbel noise, which follows from the seed and the token only.
    """
    row = tl.program_id(0)
    params = floats + row * _NUM_PARAMS
    options = ints + row * _NUM_PARAMS
    guide = tl.load(options + _GUIDE)
    source = scores + row.to(tl.int64) * stride
    best, chosen = _best(source, masks, guide, num_tokens, num_words, BLOCK)
    if best == float("-inf"):  # min_tokens forbids all that the grammar allows: the grammar wins
        source = logits + row.to(tl.int64) * stride
        best, chosen = _best(source, masks, guide, num_tokens, num_words, BLOCK)
    if tl.load(options + _GREEDY) == 0:
        scale = 1.0 / tl.load(params + _TEMPERATURE)
        farthest = tl.full([], _FARTHEST, tl.float32)
        # A token has at least this share of the best one's probability; nothing less than e^-64.
        least = tl.minimum(farthest, -tl.log(tl.maximum(tl.load(params + _MIN_P), 1e-30)))
        top_k = tl.load(options + _TOP_K)
        if top_k > 0:
            farthest = _threshold(
                source, masks, guide, best, scale, farthest, top_k.to(tl.float32), True,
                num_tokens, num_words, BLOCK,
            )  # fmt: skip
        top_p = tl.load(params + _TOP_P)
        if top_p < 1:
            total = tl.full([], 0.0, tl.float32)
            for at in range(0, num_tokens, BLOCK):
                column = at + tl.arange(0, BLOCK)
                value = _allowed(source, masks, guide, column, num_tokens, num_words)
                distance = (best - value) * scale
                total += tl.sum(tl.where(distance <= farthest, tl.exp(-distance), 0.0), 0)
            farthest = _threshold(
                source, masks, guide, best, scale, farthest, top_p * total, False,
                num_tokens, num_words, BLOCK,
            )  # fmt: skip
        farthest = tl.minimum(farthest, least)
        seed = tl.load(seeds + row)
        highest = tl.full([], float("-inf"), tl.float32)
        for at in range(0, num_tokens, BLOCK):
            column = at + tl.arange(0, BLOCK)
            value = _allowed(source, masks, guide, column, num_tokens, num_words)
            distance = (best - value) * scale
            uniform = tl.maximum(tl.rand(seed, column), 1e-10)
            noisy = -distance - tl.log(-tl.log(uniform))
            noisy = tl.where(distance <= farthest, noisy, float("-inf"))
            top = tl.max(noisy, 0)
            place = at + tl.argmax(noisy, 0).to(tl.int32)
            chosen = tl.where(top > highest, place, chosen)
            highest = tl.maximum(highest, top)
    tl.store(results + row * _NUM_RESULTS, chosen.to(tl.float32))


@triton.jit
def logprob_kernel(logits, ints, results, stride, num_tokens, BLOCK: tl.constexpr):
    """Log probability and rank of the chosen tokens, from logits without penalties and filters."""
    row = tl.program_id(0)
    if tl.load(ints + row * _NUM_PARAMS + _WANTS) != 0:
        source = logits + row.to(tl.int64) * stride
        result = results + row * _NUM_RESULTS
        own = tl.load(source + tl.load(result).to(tl.int32))
        most = tl.full([], float("-inf"), tl.float32)
        total = tl.full([], 0.0, tl.float32)
        above = tl.full([], 0.0, tl.float32)
        for at in range(0, num_tokens, BLOCK):
            column = at + tl.arange(0, BLOCK)
            value = tl.load(source + column, mask=column < num_tokens, other=float("-inf"))
            new_most = tl.maximum(most, tl.max(value, 0))
            total = total * tl.exp(most - new_most) + tl.sum(tl.exp(value - new_most), 0)
            above += tl.sum((value > own).to(tl.float32), 0)
            most = new_most
        log_sum = most + tl.log(total)
        tl.store(result + 1, own - log_sum)
        tl.store(result + 2, above + 1)
        tl.store(result + 3, log_sum)
