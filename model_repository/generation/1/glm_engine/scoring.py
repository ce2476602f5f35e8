"""Questions with given options: how likely each is as the whole answer. Independent of torch.

A question is one request, which computes its prompt and the tokens that all options begin with.
From there each longer option is a branch: a request of its own that begins from the keys and values
of the first. So a token that prompts or options have in common is computed once.

The log probability of an option is the sum of those of its tokens: that the answer begins with it.
Where an option is the beginning of another, the end of the answer counts as well, for all options
of that question: otherwise "red" would count for "red and blue", too. So no answer counts for two
options, and their probabilities may be divided by their sum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from glm_engine.request import Prompt, Request, SamplingParams
from glm_engine.tenant_cache import CacheScope

END = -1
"""Stands for any token that ends an answer."""

_COMMON_SCOPE = CacheScope()


@dataclass(eq=False, slots=True)
class Scoring:
    """The options of one question, and what is known of them so far.

    Attributes:
        options: the tokens of each.
        num_prompt_tokens: of the prompt that they follow.
        with_end: whether the end of the answer counts.
        num_common: number of tokens that are computed for all of them at once.
        logprobs: by option and number of its tokens that come before: the log probability of its
            next token, or of the end. A dictionary, since a preempted request computes some again.
        open: branches that are not computed yet.
    """

    options: tuple[tuple[int, ...], ...]
    num_prompt_tokens: int
    with_end: bool
    num_common: int
    logprobs: dict[tuple[int, int], float] = field(default_factory=dict)
    open: dict[Request, None] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are computed for the options."""
        return self.num_common + sum(
            len(self.inputs(option)) - self.num_common for option in range(len(self.options))
        )

    def inputs(self, option: int) -> tuple[int, ...]:
        """The tokens of an option that are computed: nothing follows the last one but the end."""
        tokens = self.options[option]
        return tokens if self.with_end else tokens[:-1]

    def wanted(self, request: Request, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """What a part of a request says about the options.

        Yields:
            (position, option, number of its tokens before, token or END): the token at ``position``
            predicts that token.
        """
        options = range(len(self.options)) if request.option is None else (request.option,)
        for position in range(max(start, request.first_row), end):
            depth = position - self.num_prompt_tokens + 1
            for option in options:
                tokens = self.options[option]
                yield position, option, depth, tokens[depth] if depth < len(tokens) else END

    def sums(self) -> tuple[float, ...]:
        """The log probability of each option, once all is computed."""
        return tuple(
            sum(self.logprobs[option, depth] for depth in range(len(tokens) + self.with_end))
            for option, tokens in enumerate(self.options)
        )


def question(
    request_id: str,
    prompt: Prompt,
    options: Sequence[Sequence[int]],
    *,
    priority: int = 0,
    tenant: str = "",
    scope: CacheScope = _COMMON_SCOPE,
    leader: Request | None = None,
) -> Request:
    """The request for the log probabilities of ``options`` after a prompt.

    Args:
        leader: that of another question, which computes what both prompts begin with.
    """
    given = tuple(map(tuple, options))
    with_end = any(one == other[: len(one)] for one, other in pairwise(sorted(given)))
    common = _common(given if with_end else [option[:-1] for option in given])
    scoring = Scoring(given, prompt.num_tokens, with_end, len(common))
    request = Request(
        request_id,
        prompt,
        SamplingParams(priority=priority),
        leader=leader,
        token_ids=common,
        scoring=scoring,
        tenant=tenant,
        scope=scope,
    )
    if leader is not None:
        # The last token of a prompt is always computed: it predicts the first of the options.
        request.num_shared = min(_num_shared(leader.prompt, prompt), prompt.num_tokens - 1)
    return request


def branches(request: Request) -> list[Request]:
    """The requests for what the options of a question do not have in common."""
    scoring = request.scoring
    assert scoring is not None
    return [
        Request(
            request.request_id,
            request.prompt,
            request.params,
            leader=request,
            num_shared=request.num_tokens,
            token_ids=list(scoring.inputs(option)),
            scoring=scoring,
            option=option,
            tenant=request.tenant,
            scope=request.scope,
        )
        for option in range(len(scoring.options))
        if len(scoring.inputs(option)) > scoring.num_common
    ]


def _common(options: Sequence[tuple[int, ...]]) -> list[int]:
    """What all of them begin with."""
    shortest, longest = min(options), max(options)  # in the order of a dictionary
    for index, token in enumerate(shortest):
        if index >= len(longest) or token != longest[index]:
            return list(shortest[:index])
    return list(shortest)


def _num_shared(first: Prompt, second: Prompt) -> int:
    """Number of tokens that two prompts begin with, images compared by their content."""
    length = min(first.num_tokens, second.num_tokens)
    different = np.flatnonzero(first.input_ids[:length] != second.input_ids[:length])
    shared = int(different[0]) if len(different) else length
    for one, other in zip(first.images, second.images, strict=False):
        if one.start >= shared:
            break
        if (one.start, one.content_hash) != (other.start, other.content_hash):
            shared = min(one.start, other.start, shared)
            break
    return shared
