"""``POST /v1/completions``."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_client import TokenLogprobs
from glm_frontend.apis.chat.encode import system_fingerprint
from glm_frontend.apis.completions.schema import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from glm_frontend.apis.shared.schema import Usage
from glm_frontend.core.caller import Caller
from glm_frontend.core.generation import Answer, Answerer
from glm_frontend.core.request import Translation, translate_completions
from glm_frontend.http.disconnect import started, until_disconnect
from glm_frontend.http.openapi import INFERENCE_ERRORS, event_stream, json_body, json_response
from glm_frontend.http.openapi_examples import COMPLETION_EXAMPLES
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key
from glm_frontend.http.sse import EventStream
from glm_frontend.http.validation import read_json

router = APIRouter(prefix="/v1", tags=["Inference"], dependencies=[Depends(require_key)])


@router.post(
    "/completions",
    summary="Go on with a text",
    response_model=Completion,
    responses={200: event_stream(Completion), **INFERENCE_ERRORS},
    openapi_extra={"requestBody": json_body(CompletionRequest, COMPLETION_EXAMPLES)},
)
async def create_completion(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """OpenAI's older endpoint: no chat template, no pictures, and the text as the model writes it.

    For a model of conversations, `/v1/chat/completions` is the better one.
    """
    body = await read_json(request, CompletionRequest)
    services.check_model(body.model)
    writer = _Writer(body, services.answerer, caller)
    if body.stream:
        pieces = writer.stream()
        return EventStream(await started(request, pieces), pieces, caller)
    return json_response(await until_disconnect(request, writer.complete()))


class _Writer:
    """Answers one request."""

    def __init__(self, body: CompletionRequest, answerer: Answerer, caller: Caller) -> None:
        self._body = body
        self._answerer = answerer
        self._caller = caller
        self._translations = translate_completions(body)
        self._head: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": system_fingerprint(body.model),
        }

    async def complete(self) -> Completion:
        """All texts, made at the same time."""
        try:
            async with asyncio.TaskGroup() as group:
                answers = [group.create_task(self._answer(t)) for t in self._translations]
                echoes = [group.create_task(self._echo(t)) for t in self._translations]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        choices: list[CompletionChoice] = []
        for answer, echo in zip(answers, echoes, strict=True):
            for choice in answer.result().choices:
                choices.append(
                    CompletionChoice(
                        index=len(choices),
                        text=echo.result() + choice.content,
                        logprobs=self._logprobs(choice.logprobs, 0),
                        finish_reason=choice.finish_reason,
                    )
                )
        usage = _sum([answer.result().usage for answer in answers])
        return Completion(**self._head, choices=choices, usage=usage)

    async def stream(self) -> AsyncGenerator[Completion]:
        """All texts in pieces, one prompt after the other."""
        options = self._body.stream_options
        each = options is not None and bool(options.continuous_usage_stats)
        per_prompt = self._body.n or 1
        past: list[Usage] = []
        for i, translation in enumerate(self._translations):
            begins = {k: await self._echo(translation) for k in range(per_prompt)}
            offsets = {k: 0 for k in range(per_prompt)}
            latest: Usage | None = None
            async with aclosing(self._answerer.stream(translation, self._caller)) as deltas:
                async for delta in deltas:
                    latest = delta.usage or latest
                    text = begins.pop(delta.index, "") + delta.content
                    choice = CompletionChoice(
                        index=i * per_prompt + delta.index,
                        text=text,
                        logprobs=self._logprobs(delta.logprobs, offsets[delta.index]),
                        finish_reason=delta.finish_reason,
                    )
                    offsets[delta.index] += len(text)
                    chunk = Completion(**self._head, choices=[choice])
                    if each and latest is not None:
                        chunk.usage = _sum([*past, latest])
                    yield chunk
            if latest is not None:
                past.append(latest)
        if options is not None and options.include_usage:
            yield Completion(**self._head, choices=[], usage=_sum(past))

    async def _answer(self, translation: Translation) -> Answer:
        return await self._answerer.complete(translation, self._caller)

    async def _echo(self, translation: Translation) -> str:
        """What the text begins with."""
        if not self._body.echo:
            return ""
        text = translation.prompt.get("prompt")
        if isinstance(text, str):
            return text
        return (await self._answerer.tokenize(translation, self._caller)).text

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
            token_logprobs=[token.chosen.logprob for token in tokens],
            top_logprobs=[
                {one.text: one.logprob for one in token.top if one.rank <= top} for token in tokens
            ],
            text_offset=offsets,
        )


def _sum(usages: Sequence[Usage]) -> Usage:
    total = usages[0].model_copy(deep=True)
    for usage in usages[1:]:
        total.prompt_tokens += usage.prompt_tokens
        total.completion_tokens += usage.completion_tokens
        total.total_tokens += usage.total_tokens
        total.prompt_tokens_details.cached_tokens += usage.prompt_tokens_details.cached_tokens
    return total
