"""Describes pictures: calls the decoupled model ``generation`` by BLS, and returns one response.

BLS passes on neither a cancellation nor parameters: what the client of this model wants has to be
said again in the inputs below.
"""

import json
import secrets
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

QUESTION = "What is in this image?"


def text(name: str, *values: bytes) -> Any:
    return pb_utils.Tensor(name, np.array(values, dtype=np.object_))


class TritonPythonModel:
    """Not decoupled: ``infer`` of HTTP and unary gRPC can call it."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._describe(request) for request in requests]

    def _describe(self, request: Any) -> Any:
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().ravel()
        asked = pb_utils.get_input_tensor_by_name(request, "question")
        question = QUESTION if asked is None else asked.as_numpy()[0].decode()
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
        cancel_key = secrets.token_bytes(16)
        call = pb_utils.InferenceRequest(
            model_name="generation",
            request_id=request.request_id(),
            # Outputs that are named need no return_* inputs.
            requested_output_names=["text_output", "finish_reason"],
            inputs=[
                text("messages", json.dumps([{"role": "user", "content": content}]).encode()),
                text("image", *images),
                text("chat_template_kwargs", b'{"enable_thinking": false}'),
                text("sampling_parameters", b'{"temperature": 0, "max_tokens": 256}'),
                text("cancel_key", cancel_key),
                pb_utils.Tensor("stream", np.array([True])),
            ],
        )
        pieces, finish_reason = [], b""
        # A stream, though it becomes one response, to notice between its pieces that the client has
        # left. The last response may have no outputs.
        for response in call.exec(decoupled=True):
            if response.has_error():
                return pb_utils.InferenceResponse(error=response.error())
            if request.is_cancelled():
                self._cancel(cancel_key)  # the stream then ends with an error
            for tensor in response.output_tensors():
                if tensor.name() == "text_output":
                    pieces.append(tensor.as_numpy()[0])
                else:
                    finish_reason = tensor.as_numpy()[0]
        answer = b"".join(pieces).rpartition(b"</think>")[2].strip()
        return pb_utils.InferenceResponse(
            [text("description", answer), text("finish_reason", finish_reason)]
        )

    def _cancel(self, cancel_key: bytes) -> None:
        call = pb_utils.InferenceRequest(
            model_name="generation",
            requested_output_names=[],
            inputs=[text("cancel", cancel_key)],
        )
        for _ in call.exec(decoupled=True):
            pass
