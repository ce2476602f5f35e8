"""An answer as a completion: whole texts, or the pieces of a stream."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from math import isnan
from typing import Any

from glm_client import FinishReason, TextDelta, TokenLogprobs
from glm_frontend.apis.completions.schema import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from glm_frontend.apis.shared.encoder import Encoder, system_fingerprint
from glm_frontend.apis.shared.logprobs import to_prompt_logprobs
from glm_frontend.apis.shared.schema import Usage
from glm_frontend.core.events import AnswerEvent, Finish, TokenUsage, fold


class CompletionEncoder(Encoder):
    """Makes one completion, of all its prompts."""

    def __init__(self, body: CompletionRequest) -> None:
        options = body.stream_options
        self._body = body
        self._head: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": system_fingerprint(body.model),
        }
        self._include_usage = options is not None and bool(options.include_usage)
        self._continuous_usage = options is not None and bool(options.continuous_usage_stats)
        self._lengths: Counter[int] = Counter()  # of the texts so far, in characters
        self._usage = TokenUsage()

    def whole(self, events: Sequence[AnswerEvent]) -> Completion:
        choices, top = list[CompletionChoice](), self._body.prompt_logprobs
        for index, answer in enumerate(fold(events)):
            choice = CompletionChoice(
                index=index,
                text=answer.text,
                logprobs=self._logprobs(answer.logprobs, 0),
                finish_reason=answer.finish.reason,
            )
            if top is not None:
                choice.prompt_logprobs = to_prompt_logprobs(answer.prompt_logprobs, top)
            choices.append(choice)
        return Completion(**self._head, choices=choices, usage=Usage.of(events[-1].usage))

    def add(self, event: AnswerEvent) -> Iterator[Completion]:
        self._usage = event.usage
        match event.event:
            case TextDelta(text, tokens):
                yield self._chunk(event.choice, text, tokens)
            case Finish(reason):
                yield self._chunk(event.choice, "", (), reason)

    def end(self) -> Iterator[Completion]:
        if self._include_usage:
            yield Completion(**self._head, choices=[], usage=Usage.of(self._usage))

    def _chunk(
        self,
        index: int,
        text: str,
        tokens: Sequence[TokenLogprobs],
        finish_reason: FinishReason | None = None,
    ) -> Completion:
        choice = CompletionChoice(
            index=index,
            text=text,
            logprobs=self._logprobs(tokens, self._lengths[index]) if tokens else None,
            finish_reason=finish_reason,
        )
        self._lengths[index] += len(text)
        chunk = Completion(**self._head, choices=[choice])
        if self._continuous_usage:
            chunk.usage = Usage.of(self._usage)
        return chunk

    def _logprobs(self, tokens: Sequence[TokenLogprobs], offset: int) -> CompletionLogprobs | None:
        top = self._body.logprobs
        if top is None:
            return None
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.chosen.text)
        return CompletionLogprobs(
            tokens=[token.chosen.text for token in tokens],
            token_logprobs=[_or_none(token.chosen.logprob) for token in tokens],
            top_logprobs=[None if isnan(t.chosen.logprob) else _likeliest(t, top) for t in tokens],
            text_offset=offsets,
        )


def _or_none(logprob: float) -> float | None:
    return None if isnan(logprob) else logprob


def _likeliest(token: TokenLogprobs, top: int) -> dict[str, float]:
    return {one.text: one.logprob for one in token.top if one.rank <= top or one is token.chosen}
