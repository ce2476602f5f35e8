"""Converts between Triton's requests and responses and those of this package."""

import contextlib
import json
import logging
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from glm_engine.errors import GenerationError, InvalidRequest, wire_text
from glm_engine.request import GenerationDefaults, SamplingParams, parse_sampling_parameters
from glm_triton.jobs import Job, Response
from glm_triton.parameters import (
    REQUEST_ID,
    read_parameters,
    select_sampling_parameters,
    wants_details,
)
from glm_triton.preprocessing import PROMPT_INPUTS

_FLAGS = (
    "return_finish_reason",
    "return_cumulative_logprob",
    "return_logprobs",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "return_token_ids",
    "return_events",
    "return_image_sizes",
    "return_limits",
)
_INPUTS = (
    *PROMPT_INPUTS,
    *_FLAGS,
    "stream",
    "sampling_parameters",
    "stop_words",
    "exclude_input_in_output",
    "cancel_key",
    "cancel",
    "tenant",
    "cache_salt",
    "trace_context",
)
# Each output, and the flag that it takes; a client that names its outputs need not set the flag.
_OUTPUTS = {
    "text_output": None,
    "finish_reason": "return_finish_reason",
    "stop_reason": "return_finish_reason",
    "index": None,
    "cumulative_logprob": "return_cumulative_logprob",
    "logprobs": "return_logprobs",
    "num_input_tokens": "return_num_input_tokens",
    "num_image_tokens": "return_num_input_tokens",
    "num_cached_tokens": "return_num_input_tokens",
    "num_output_tokens": "return_num_output_tokens",
    "num_reasoning_tokens": "return_num_output_tokens",
    "token_ids": "return_token_ids",
    "events": "return_events",
    "image_sizes": "return_image_sizes",
    "prompt_logprobs": None,
    "option_logprobs": None,
    "limits": "return_limits",
}
_COUNTS = (
    "index",
    "num_input_tokens",
    "num_image_tokens",
    "num_cached_tokens",
    "num_output_tokens",
    "num_reasoning_tokens",
)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

logger = logging.getLogger("generation")


class TritonClient:
    """The sender of a Triton request; see :class:`glm_triton.jobs.Client`."""

    def __init__(self, triton_request: Any) -> None:
        self._sender = triton_request.get_response_sender()
        self._wants_details = wants_details(triton_request.parameters())

    def send(self, response: Response, *, is_last: bool) -> None:
        """Send one response."""
        tensors = pb_utils.InferenceResponse(_to_tensors(response))
        self._sender.send(tensors, flags=_FINAL if is_last else 0)

    def fail(self, error: GenerationError) -> None:
        """Send an error as the last response."""
        try:
            code = getattr(pb_utils.TritonError, error.status)
            text = wire_text(error, details=self._wants_details)
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
            self._sender.send(response, flags=_FINAL)
        except Exception:  # for example, because shared memory is full
            logger.exception("sending the error response failed")
            with contextlib.suppress(Exception):
                self.end()

    def end(self) -> None:
        """End the request without a response."""
        self._sender.send(flags=_FINAL)

    def is_cancelled(self) -> bool:
        """Whether the client closed its stream."""
        try:
            return bool(self._sender.is_cancelled())
        except Exception:  # affects this request only; the thread polls all others
            logger.exception("polling for cancellation failed")
            return False


def cancel_key(triton_request: Any) -> bytes | None:
    """The cancel key of the request that this one cancels; None if it is a normal request.

    Raises:
        InvalidRequest: it asks for something besides.
    """
    key: bytes | None = _value(triton_request, "cancel")
    if key is not None and len(triton_request.inputs()) > 1:
        raise InvalidRequest("cancel", "cannot be combined with other inputs")
    return key


def read_job(
    triton_request: Any,
    client: TritonClient,
    defaults: GenerationDefaults,
    forwarded_headers: Collection[str] = (),
) -> Job:
    """Read the job from a Triton request.

    Args:
        forwarded_headers: see :func:`glm_triton.parameters.select_sampling_parameters`.

    Raises:
        InvalidRequest: names the invalid input.
    """
    stream = _flag(triton_request, "stream", default=False)
    prompt_inputs = {
        name: tensor.as_numpy().copy()
        for name in PROMPT_INPUTS
        if (tensor := pb_utils.get_input_tensor_by_name(triton_request, name)) is not None
    }
    parameters = read_parameters(triton_request.parameters())
    beside = select_sampling_parameters(parameters, _INPUTS, forwarded_headers)
    if (stop_words := _texts(triton_request, "stop_words")) is not None:
        beside["stop_words"] = [text for text in stop_words if text]
    params = parse_sampling_parameters(
        _text(triton_request, "sampling_parameters"), defaults, beside
    )
    if "questions" in prompt_inputs:
        _check_questions(prompt_inputs, params, defaults)
    outputs = _named_outputs(triton_request)
    flags = _flags(triton_request, outputs)
    if params.logprobs is None and flags & {"return_cumulative_logprob", "return_logprobs"}:
        params = replace(params, logprobs=0)
    if params.prompt_logprobs is None and "prompt_logprobs" in outputs:
        params = replace(params, prompt_logprobs=0)
    return Job(
        request_id=triton_request.request_id()
        or str(parameters.get(REQUEST_ID) or f"request-{id(client):x}"),
        client=client,
        prompt_inputs=prompt_inputs,
        prompt_field=next(iter(prompt_inputs), "messages"),
        params=params,
        stream=stream,
        flags=flags,
        prefix=_prefix(triton_request, stream),
        received=time.monotonic(),
        tenant=_text(triton_request, "tenant") or "",
        cache_salt=_text(triton_request, "cache_salt") or "",
        cancel_key=_value(triton_request, "cancel_key"),
        trace_context=_trace_context(triton_request),
        num_bytes=sum(
            len(file)
            for name in ("image", "video")
            if name in prompt_inputs
            for file in prompt_inputs[name].ravel()
        ),
    )


def _check_questions(
    prompt_inputs: Mapping[str, "np.ndarray[Any, Any]"],
    params: SamplingParams,
    defaults: GenerationDefaults,
) -> None:
    if "messages" not in prompt_inputs and "text_input" not in prompt_inputs:
        raise InvalidRequest("questions", "needs messages or text_input")
    if replace(params, priority=0) != parse_sampling_parameters(None, defaults):
        raise InvalidRequest(
            "sampling_parameters", "cannot be combined with questions, except for priority"
        )


def _to_tensors(response: Response) -> list[Any]:
    tensors = []
    if response.text is not None:
        tensors.append(_string_tensor("text_output", response.text))
    if response.events is not None:
        tensors.append(_string_tensor("events", json.dumps(response.events)))
    for name in _COUNTS:
        if (count := getattr(response, name)) is not None:
            tensors.append(pb_utils.Tensor(name, np.array([count], np.uint32)))
    if response.finish_reason is not None:
        tensors.append(_string_tensor("finish_reason", response.finish_reason))
    if response.stop_reason is not None:
        tensors.append(_string_tensor("stop_reason", json.dumps(response.stop_reason)))
    if response.cumulative_logprob is not None:
        value = np.array([response.cumulative_logprob], np.float32)
        tensors.append(pb_utils.Tensor("cumulative_logprob", value))
    if response.logprobs is not None:
        tensors.append(_string_tensor("logprobs", json.dumps(response.logprobs)))
    if response.image_sizes is not None:
        tensors.append(pb_utils.Tensor("image_sizes", response.image_sizes))
    if response.prompt_logprobs is not None:
        tensors.append(_string_tensor("prompt_logprobs", json.dumps(response.prompt_logprobs)))
    if response.option_logprobs is not None:
        values = np.array(response.option_logprobs, np.float32)
        tensors.append(pb_utils.Tensor("option_logprobs", values))
    if response.limits is not None:
        tensors.append(_string_tensor("limits", json.dumps(response.limits)))
    if response.token_ids is not None:
        tensors.append(pb_utils.Tensor("token_ids", np.array(response.token_ids, np.int32)))
    return tensors


def _prefix(triton_request: Any, stream: bool) -> str:
    """As in vllm_backend: without streaming the output includes the input unless excluded."""
    text = _text(triton_request, "text_input")
    exclude = _flag(triton_request, "exclude_input_in_output", default=stream or text is None)
    if exclude:
        return ""
    if stream or text is None:
        raise InvalidRequest(
            "exclude_input_in_output",
            "false requires text_input, and cannot be combined with stream",
        )
    return text


def _named_outputs(triton_request: Any) -> frozenset[str]:
    """The outputs that the client names; Triton names all where the client names none."""
    named = frozenset(triton_request.requested_output_names())
    return frozenset() if named >= _OUTPUTS.keys() else named


def _flags(triton_request: Any, outputs: frozenset[str]) -> frozenset[str]:
    """The flags that are true, or that a named output takes."""
    taken = {_OUTPUTS[name] for name in outputs}
    flags = frozenset(name for name in _FLAGS if _flag(triton_request, name, default=name in taken))
    if "return_events" in flags:
        for name in ("text_output", "logprobs"):
            if name in outputs:
                raise InvalidRequest(name, "is not an output beside events, which contain it")
    return flags | ({"index"} & outputs)


def _value(triton_request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(triton_request, name)
    if tensor is None or not tensor.as_numpy().size:
        return None
    return tensor.as_numpy().ravel()[0]


def _flag(triton_request: Any, name: str, *, default: bool) -> bool:
    value = _value(triton_request, name)
    return default if value is None else bool(value)


def _trace_context(triton_request: Any) -> str:
    """W3C traceparent; empty if there is none."""
    given = _text(triton_request, "trace_context") or ""
    if given and not _TRACEPARENT.fullmatch(given):
        raise InvalidRequest(
            "trace_context", "is not a W3C traceparent such as 00-<32 hex>-<16 hex>-01"
        )
    return given


def _text(triton_request: Any, name: str) -> str | None:
    texts = _texts(triton_request, name)
    return texts[0] if texts else None


def _texts(triton_request: Any, name: str) -> list[str] | None:
    tensor = pb_utils.get_input_tensor_by_name(triton_request, name)
    try:
        return None if tensor is None else [value.decode() for value in tensor.as_numpy().ravel()]
    except UnicodeDecodeError:
        raise InvalidRequest(name, "is not valid UTF-8") from None


def _string_tensor(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode()], object))
