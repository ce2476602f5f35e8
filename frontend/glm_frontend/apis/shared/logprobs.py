"""Log probabilities in OpenAI's form."""

from collections.abc import Sequence
from math import isnan

from glm_client import TokenLogprobs
from glm_frontend.apis.shared.schema import (
    AlternativeToken,
    ChatCompletionTokenLogprob,
    Logprobs,
    PromptLogprob,
    PromptLogprobs,
)


def to_logprobs(tokens: Sequence[TokenLogprobs], top: int) -> Logprobs | None:
    """Those of some tokens; None for none.

    Args:
        top: how many of the likeliest tokens are told in each place.
    """
    if not tokens:
        return None
    return Logprobs(
        content=[
            ChatCompletionTokenLogprob(
                token=token.chosen.text,
                bytes=list(token.chosen.data),
                logprob=token.chosen.logprob,
                top_logprobs=[
                    AlternativeToken(token=one.text, bytes=list(one.data), logprob=one.logprob)
                    for one in token.top
                    if one.rank <= top or (top and one is token.chosen)
                ],
            )
            for token in tokens
        ]
    )


def to_prompt_logprobs(tokens: Sequence[TokenLogprobs], top: int) -> PromptLogprobs:
    """Those of a prompt's tokens, in vLLM's form; None for the first, which nothing comes before.

    Args:
        top: how many of the likeliest tokens are told in each place.
    """
    told: PromptLogprobs = []
    for token in tokens:
        shown = [token.chosen, *(one for one in token.top if one.rank <= top)]
        told.append(
            None
            if isnan(token.chosen.logprob)
            else {
                str(one.token_id): PromptLogprob(
                    logprob=one.logprob, rank=one.rank, decoded_token=one.text
                )
                for one in shown
            }
        )
    return told
