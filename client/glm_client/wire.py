"""The wire format of the Triton model ``generation``: names and types of its tensors.

The counterpart is ``model_repository/generation/config.pbtxt``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult

from glm_client.errors import ERROR_DETAILS
from glm_client.types import (
    CallDelta,
    CallStart,
    Event,
    FinishReason,
    GenerationDelta,
    GenerationRequest,
    TextDelta,
    ThoughtDelta,
    Tokenization,
    TokenLogprob,
    TokenLogprobs,
)

MODEL_NAME = "generation"
TOKENIZER_NAME = "preprocessing"
STAGES = (TOKENIZER_NAME, MODEL_NAME)
"""All models needed for an answer, in processing order."""

INPUT_DATATYPES: Mapping[str, str] = MappingProxyType(
    {
        "text_input": "BYTES",
        "messages": "BYTES",
        "prompt": "BYTES",
        "prompt_token_ids": "INT32",
        "tools": "BYTES",
        "chat_template_kwargs": "BYTES",
        "image": "BYTES",
        "image_max_pixels": "INT32",
        "video": "BYTES",
        "mm_processor_kwargs": "BYTES",
        "questions": "BYTES",
        "stream": "BOOL",
        "sampling_parameters": "BYTES",
        "exclude_input_in_output": "BOOL",
        "return_finish_reason": "BOOL",
        "return_logprobs": "BOOL",
        "return_num_input_tokens": "BOOL",
        "return_num_output_tokens": "BOOL",
        "return_token_ids": "BOOL",
        "return_events": "BOOL",
        "return_image_sizes": "BOOL",
        "return_limits": "BOOL",
        "cancel_key": "BYTES",
        "cancel": "BYTES",
        "tenant": "BYTES",
        "cache_salt": "BYTES",
        "trace_context": "BYTES",
    }
)
OUTPUT_DATATYPES: Mapping[str, str] = MappingProxyType(
    {
        "text_output": "BYTES",
        "finish_reason": "BYTES",
        "stop_reason": "BYTES",
        "index": "UINT32",
        "logprobs": "BYTES",
        "num_input_tokens": "UINT32",
        "num_image_tokens": "UINT32",
        "num_cached_tokens": "UINT32",
        "num_output_tokens": "UINT32",
        "num_reasoning_tokens": "UINT32",
        "token_ids": "INT32",
        "events": "BYTES",
        "image_sizes": "INT32",
        "limits": "BYTES",
        "prompt_logprobs": "BYTES",
        "option_logprobs": "FP32",
    }
)


def build_call(request: GenerationRequest, *, stream: bool, cancel_key: bytes) -> dict[str, Any]:
    """Arguments of tritonclient's ``stream_infer`` for ``request``.

    Args:
        stream: whether to get one response per piece of text, or one with the whole text.
        cancel_key: a secret for :func:`build_cancel_call`.
    """
    return {
        "model_name": MODEL_NAME,
        "inputs": [*_inputs(request, stream), _bytes("cancel_key", cancel_key)],
        "outputs": [InferRequestedOutput(name) for name in _outputs(request)],
        "request_id": request.request_id,
        "parameters": {ERROR_DETAILS: True},
    }


def build_cancel_call(cancel_key: bytes) -> dict[str, Any]:
    """The call that cancels the request with this key. Only the cancelled request is answered."""
    return {"model_name": MODEL_NAME, "inputs": [_bytes("cancel", cancel_key)]}


def is_final(result: InferResult) -> bool:
    """Whether this is the last response to a request."""
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


def build_tokenizer_call(request: GenerationRequest, *, token_texts: bool) -> dict[str, Any]:
    """Arguments of tritonclient's ``infer`` for tokenising the prompt of ``request``."""
    names = ["input_ids", "text", "image_size", *(["token_text"] if token_texts else [])]
    return {
        "model_name": TOKENIZER_NAME,
        "inputs": _prompt_inputs(request),
        "outputs": [InferRequestedOutput(name) for name in names],
        "request_id": request.request_id,
        "parameters": {ERROR_DETAILS: True},
    }


def build_tokenizer_config_call() -> dict[str, Any]:
    """Arguments of tritonclient's ``infer`` for the tokenizer's configuration."""
    return {
        "model_name": TOKENIZER_NAME,
        "inputs": [_bytes("prompt", b"")],
        "outputs": [InferRequestedOutput("tokenizer_config")],
        "parameters": {ERROR_DETAILS: True},
    }


def parse_tokenizer_config(result: InferResult) -> dict[str, Any]:
    """Parse the response to :func:`build_tokenizer_config_call`."""
    config: dict[str, Any] = json.loads(_first(result, "tokenizer_config", b"{}"))
    return config


def parse_tokenization(result: InferResult) -> Tokenization:
    """Parse the response to :func:`build_tokenizer_call`."""
    texts = result.as_numpy("token_text")
    return Tokenization(
        token_ids=tuple(result.as_numpy("input_ids").tolist()),
        text=_first(result, "text", b"").decode(),
        image_sizes=_sizes(result.as_numpy("image_size")),
        token_texts=() if texts is None else tuple(text.decode() for text in texts),
    )


def _outputs(request: GenerationRequest) -> list[str]:
    unwanted = {
        "token_ids": not request.return_token_ids,
        "text_output": request.return_events,
        "events": not request.return_events,
        "image_sizes": not request.return_image_sizes,
        "limits": not request.return_limits,
        "prompt_logprobs": request.sampling_parameters.get("prompt_logprobs") is None,
        "option_logprobs": not request.questions,
        "logprobs": request.return_events or not _wants_logprobs(request),
        "index": request.num_choices == 1,
    }
    return [name for name in OUTPUT_DATATYPES if not unwanted.get(name)]


def _wants_logprobs(request: GenerationRequest) -> bool:
    return request.sampling_parameters.get("logprobs") is not None


def _inputs(request: GenerationRequest, stream: bool) -> list[InferInput]:
    return [
        _flag("stream", stream),
        _flag("exclude_input_in_output", True),
        _flag("return_finish_reason", True),
        _flag("return_logprobs", _wants_logprobs(request)),
        _flag("return_num_input_tokens", True),
        _flag("return_num_output_tokens", True),
        _flag("return_token_ids", request.return_token_ids),
        # Older servers do not have these inputs.
        *([_flag("return_events", True)] if request.return_events else []),
        *([_flag("return_image_sizes", True)] if request.return_image_sizes else []),
        *([_flag("return_limits", True)] if request.return_limits else []),
        _bytes("sampling_parameters", _json(request.sampling_parameters)),
        *([_bytes("tenant", request.tenant.encode())] if request.tenant else []),
        *([_bytes("cache_salt", request.cache_salt.encode())] if request.cache_salt else []),
        *(
            [_bytes("trace_context", request.trace_context.encode())]
            if request.trace_context
            else []
        ),
        *_prompt_inputs(request),
    ]


def _prompt_inputs(request: GenerationRequest) -> list[InferInput]:
    inputs = []
    for name in ("text_input", "prompt"):
        text = getattr(request, name)
        if text is not None:
            inputs.append(_bytes(name, text.encode()))
    if request.prompt_token_ids is not None:
        inputs.append(_integers("prompt_token_ids", request.prompt_token_ids))
    if request.questions:
        asked = [{"content": one.content, "options": one.options} for one in request.questions]
        inputs.append(_bytes("questions", _json(asked)))
    for name in ("messages", "tools", "chat_template_kwargs", "mm_processor_kwargs"):
        value = getattr(request, name)
        if value is not None:
            inputs.append(_bytes(name, _json(value)))
    if request.images:
        inputs.append(_bytes("image", *request.images))
    if request.image_max_pixels:
        inputs.append(_integers("image_max_pixels", request.image_max_pixels))
    if request.videos:
        inputs.append(_bytes("video", *request.videos))
    return inputs


def _flag(name: str, value: bool) -> InferInput:
    return _tensor(name, np.array([value], dtype=np.bool_))


def _bytes(name: str, *values: bytes) -> InferInput:
    return _tensor(name, np.array(values, dtype=np.object_))


def _integers(name: str, values: Sequence[int]) -> InferInput:
    return _tensor(name, np.array(values, dtype=np.int32))


def _tensor(name: str, array: "np.ndarray[Any, Any]") -> InferInput:
    tensor = InferInput(name, list(array.shape), INPUT_DATATYPES[name])
    tensor.set_data_from_numpy(array)
    return tensor


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def parse_response(result: InferResult) -> GenerationDelta:
    """Parse one response of the model. Missing outputs keep their defaults."""
    finish_reason = _first(result, "finish_reason", b"").decode()
    token_ids = result.as_numpy("token_ids")
    return GenerationDelta(
        text=_first(result, "text_output", b"").decode(),
        index=_count(result, "index") or 0,
        events=tuple(map(_event, json.loads(_first(result, "events", b"[]")))),
        logprobs=_logprobs(json.loads(_first(result, "logprobs", b"[]"))),
        token_ids=() if token_ids is None else tuple(token_ids.ravel().tolist()),
        finish_reason=cast(FinishReason, finish_reason) if finish_reason else None,
        stop_reason=json.loads(_first(result, "stop_reason", b"null")),
        num_input_tokens=_count(result, "num_input_tokens"),
        num_image_tokens=_count(result, "num_image_tokens"),
        num_cached_tokens=_count(result, "num_cached_tokens"),
        num_output_tokens=_count(result, "num_output_tokens") or 0,
        num_reasoning_tokens=_count(result, "num_reasoning_tokens") or 0,
        image_sizes=_sizes(result.as_numpy("image_sizes")),
        prompt_logprobs=_logprobs(json.loads(_first(result, "prompt_logprobs", b"[]"))),
        limits=json.loads(_first(result, "limits", b"null")),
        option_logprobs=_floats(result.as_numpy("option_logprobs")),
    )


def _sizes(given: "np.ndarray[Any, Any] | None") -> tuple[tuple[int, int], ...]:
    return () if given is None else tuple((width, height) for width, height in given.tolist())


def _floats(given: "np.ndarray[Any, Any] | None") -> tuple[float, ...]:
    return () if given is None else tuple(given.ravel().tolist())


def _event(given: Mapping[str, Any]) -> Event:
    match given:
        case {"call": index, "name": name}:
            return CallStart(index, name)
        case {"call": index, "arguments": arguments}:
            return CallDelta(index, arguments)
        case {"thought": text}:
            return ThoughtDelta(text, _logprobs(given.get("logprobs", ())))
    return TextDelta(given["text"], _logprobs(given.get("logprobs", ())))


def _logprobs(given: Sequence[Mapping[str, Any]]) -> tuple[TokenLogprobs, ...]:
    """The chosen token comes first; ``top`` lists all tokens by rank."""
    found = []
    for entries in given:
        tokens = [
            TokenLogprob(
                int(token_id),
                entry["decoded_token"],
                bytes(entry["bytes"]),
                math.nan if entry["logprob"] is None else entry["logprob"],
                entry["rank"],
            )
            for token_id, entry in entries.items()
        ]
        found.append(TokenLogprobs(tokens[0], tuple(sorted(tokens, key=lambda t: t.rank))))
    return tuple(found)


def _count(result: InferResult, name: str) -> int | None:
    value = _first(result, name, None)
    return None if value is None else int(value)


def _first(result: InferResult, name: str, default: Any) -> Any:
    array = result.as_numpy(name)
    return default if array is None or not array.size else array.ravel()[0]
