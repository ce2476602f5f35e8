"""``POST /v1/chat/completions``."""

import time
import uuid

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_frontend.apis.chat.encode import (
    ChunkWriter,
    answer_finish_reason,
    system_fingerprint,
    to_boxes,
)
from glm_frontend.apis.chat.schema import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    FunctionCall,
    MessageToolCall,
)
from glm_frontend.apis.shared.logprobs import to_logprobs
from glm_frontend.core.request import translate_chat
from glm_frontend.core.tool_calls import joined
from glm_frontend.http.disconnect import started, until_disconnect
from glm_frontend.http.openapi import INFERENCE_ERRORS, event_stream, json_body, json_response
from glm_frontend.http.openapi_examples import CHAT_EXAMPLES
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key
from glm_frontend.http.sse import EventStream
from glm_frontend.http.validation import read_json

router = APIRouter(prefix="/v1", tags=["Inference"], dependencies=[Depends(require_key)])


@router.post(
    "/chat/completions",
    summary="Go on with a conversation about pictures and text",
    response_model=ChatCompletion,
    responses={200: event_stream(ChatCompletionChunk), **INFERENCE_ERRORS},
    openapi_extra={"requestBody": json_body(ChatCompletionRequest, CHAT_EXAMPLES)},
)
async def create_chat_completion(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """OpenAI's chat completions, with pictures anywhere in the conversation.

    The model thinks before it answers; the thought is in `reasoning_content`, and again in
    `reasoning`, apart from the answer in `content`. `reasoning_effort: "none"` or
    `chat_template_kwargs: {"enable_thinking": false}` turns it off.
    """
    body = await read_json(request, ChatCompletionRequest)
    services.check_model(body.model)
    translation = translate_chat(body)
    answer_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
    if body.stream:
        deltas = services.answerer.stream(translation, caller)
        options = body.stream_options
        writer = ChunkWriter(
            id=answer_id,
            created=created,
            model=body.model,
            include_usage=options is not None and bool(options.include_usage),
            continuous_usage=options is not None and bool(options.continuous_usage_stats),
            num_choices=body.n or 1,
            top_logprobs=body.top_logprobs or 0,
        )
        return EventStream(writer.write(await started(request, deltas)), deltas, caller)
    answer = await until_disconnect(request, services.answerer.complete(translation, caller))
    choices = []
    for index, own in enumerate(answer.choices):
        calls = [
            MessageToolCall(
                id=call.id,
                type="function",
                function=FunctionCall(name=call.name, arguments=call.arguments),
            )
            for call in joined(own.tool_calls)
        ]
        message = AssistantMessage(
            role="assistant", content=own.content or ("" if not calls else None)
        )
        if calls:
            message.tool_calls = calls
        if own.reasoning:
            message.reasoning_content = message.reasoning = own.reasoning
        if own.boxes is not None:
            message.boxes = to_boxes(own.boxes)
        choice = Choice(
            index=index,
            message=message,
            finish_reason=answer_finish_reason(own.finish_reason, bool(calls)),
        )
        if own.stop_reason is not None:
            choice.stop_reason = own.stop_reason
        if body.logprobs:
            choice.logprobs = to_logprobs(own.logprobs, body.top_logprobs or 0)
        choices.append(choice)
    return json_response(
        ChatCompletion(
            id=answer_id,
            object="chat.completion",
            created=created,
            model=body.model,
            system_fingerprint=system_fingerprint(body.model),
            choices=choices,
            usage=answer.usage,
        )
    )
