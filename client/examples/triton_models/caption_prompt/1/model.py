"""Makes the inputs of ``generation`` from a style: the first step of the ensemble ``caption``."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

MAX_TOKENS = {"short": 64, "long": 512}
QUESTION = "What is in this image?"


class TritonPythonModel:
    """Not decoupled: one response for each request."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        style = pb_utils.get_input_tensor_by_name(request, "style").as_numpy()[0].decode()
        if style not in MAX_TOKENS:
            error = pb_utils.TritonError(
                f"style: must be one of {', '.join(MAX_TOKENS)}", pb_utils.TritonError.INVALID_ARG
            )
            return pb_utils.InferenceResponse(error=error)
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        values = {
            "messages": [{"role": "user", "content": content}],
            "chat_template_kwargs": {"enable_thinking": False},
            "sampling_parameters": {"temperature": 0, "max_tokens": MAX_TOKENS[style]},
        }
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.array([json.dumps(value).encode()], dtype=np.object_))
                for name, value in values.items()
            ]
        )
