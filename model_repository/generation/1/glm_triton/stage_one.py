"""Stage 1 as this Triton serves it."""

import time

import triton_python_backend_utils as pb_utils

from glm_triton.deployment import PARAMETER, has_started, is_loaded_at_start
from glm_triton.parameters import ERROR_DETAILS
from glm_triton.preprocessing import NOT_LOADED, StageOneError, Tensors, outputs_for

_NEWEST = -1
# Time for a model that is loaded together with this one.
_PATIENCE_SECONDS = 15.0
_POLL_SECONDS = 0.1
_RECHECK_SECONDS = 1.0


class StageOne:
    """The model that prepares the prompts of this one.

    Requests go to its version of the same number as this model's, where that is loaded, and
    otherwise to its newest.
    """

    def __init__(self, name: str, own_version: int) -> None:
        self._name = name
        self._own_version = own_version
        self._recheck = 0.0

    def infer(self, request_id: str, inputs: Tensors) -> Tensors:
        """Get a prompt, through BLS.

        Raises:
            StageOneError: stage 1 or Triton returned an error.
        """
        if time.monotonic() >= self._recheck:
            try:
                return self._infer(self._own_version, request_id, inputs)
            except StageOneError as error:
                if not NOT_LOADED.search(error.text):
                    raise
            self._recheck = time.monotonic() + _RECHECK_SECONDS
        return self._infer(_NEWEST, request_id, inputs)

    def wait(self, model: str) -> None:
        """Return once it is loaded, or where it will be when the server has started.

        Args:
            model: the name of this model, for the message.

        Raises:
            RuntimeError: it is not loaded.
        """
        # Asking a server that is starting would be an error, and Triton (24.10 to 26.07) frees the
        # text of such an error while this process reads it, which may abort the server.
        is_loaded = self._is_loaded() if has_started() else is_loaded_at_start(self._name)
        if is_loaded is False:
            raise RuntimeError(
                f"{model} needs the model {self._name!r}, which is not loaded: load that first, "
                f"or name another one in the parameter {PARAMETER} of config.pbtxt"
            )

    def _is_loaded(self) -> bool:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not pb_utils.is_model_ready(self._name):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _infer(self, version: int, request_id: str, inputs: Tensors) -> Tensors:
        outputs = outputs_for(inputs)
        response = pb_utils.InferenceRequest(
            model_name=self._name,
            model_version=version,
            request_id=request_id,
            requested_output_names=outputs,
            inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
            parameters={ERROR_DETAILS: True},
        ).exec()
        if response.has_error():
            raise StageOneError(response.error().message())
        return {
            name: pb_utils.get_output_tensor_by_name(response, name).as_numpy().copy()
            for name in outputs
        }
