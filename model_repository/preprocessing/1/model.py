"""Triton adapter of stage 1: converts tensors, and maps errors to Triton's codes."""

import sys

# Before our own modules are imported: nothing is written into the model repository.
sys.dont_write_bytecode = True

import json
import traceback
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from glm_preprocessing.errors import InvalidInput, PreprocessingError, wire_text
from glm_preprocessing.heartbeat import Heartbeat
from glm_preprocessing.preprocessor import Preprocessor, Prompt, PromptRequest
from glm_preprocessing.settings import PreprocessingSettings

_CONFIG_OUTPUTS = frozenset({"tokenizer_config"})
# Who asks for these alone wants tokens as text, and need not send the images that they stand for.
_TEXT_OUTPUTS = frozenset({"input_ids", "text", "token_text", "image_size"})
_ERROR_DETAILS = "error_details"
# Ours, and those of Triton that concern the form of a response only.
_PARAMETERS = frozenset(
    {_ERROR_DETAILS, "id", "binary_data_output", "triton_enable_empty_final_response"}
)


class TritonPythonModel:
    """Non-decoupled: one response for each request."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load tokenizer, chat template and image sizes; a bad setting stops the load."""
        settings = PreprocessingSettings.from_env()
        self._preprocessor = Preprocessor.from_settings(settings)
        self._forwarded_headers = settings.forwarded_headers
        self._heartbeat = Heartbeat(args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        responses = [self._respond(request) for request in requests]
        self._heartbeat.rest()
        return responses

    def finalize(self) -> None:
        """Remove the heartbeat file, so that the exit is not reported as a fault."""
        self._heartbeat.end()

    def _respond(self, request: Any) -> Any:
        self._heartbeat.beat()
        try:
            _check_parameters(request, self._forwarded_headers)
            wanted = frozenset(request.requested_output_names())
            if wanted == _CONFIG_OUTPUTS:
                config = json.dumps(self._preprocessor.tokenizer_config)
                return pb_utils.InferenceResponse([_text_tensor("tokenizer_config", [config])])
            given = _from_tensors(request)
            if given.prompt_token_ids is not None and wanted <= _TEXT_OUTPUTS:
                token_ids = self._preprocessor.known(given.prompt_token_ids)
                tensors = _token_tensors(token_ids)
            else:
                prompt = self._preprocessor(given)
                tensors, token_ids = _to_tensors(prompt), prompt.input_ids.tolist()
            if "text" in wanted:
                tensors.append(_text_tensor("text", [self._preprocessor.text(token_ids)]))
            if "token_text" in wanted:
                tensors.append(_text_tensor("token_text", self._preprocessor.texts(token_ids)))
            return pb_utils.InferenceResponse(tensors)
        except InvalidInput as error:
            return _error(error, request)
        except Exception as error:
            # The message is not logged: it may contain parts of the prompt.
            place = traceback.extract_tb(error.__traceback__)[-1]
            pb_utils.Logger.log_error(
                f"preprocessing failed request_id={request.request_id()} "
                f"error={type(error).__name__} at={place.filename}:{place.lineno}"
            )
            return _error(PreprocessingError(), request)


def _error(error: PreprocessingError, request: Any) -> Any:
    try:
        details = bool(_parameters(request).get(_ERROR_DETAILS))
    except ValueError:
        details = False
    code = getattr(pb_utils.TritonError, error.status)
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(wire_text(error, details=details), code)
    )


def _parameters(request: Any) -> dict[str, Any]:
    """Raises ValueError where a value cannot be written as JSON, such as infinity."""
    found: dict[str, Any] = json.loads(request.parameters() or "{}")
    return found


def _check_parameters(request: Any, forwarded_headers: Iterable[str]) -> None:
    """Refuse what is neither a tensor nor a known parameter; Triton passes on any parameter."""
    try:
        parameters = _parameters(request)
    except ValueError:
        raise InvalidInput("parameters", "must be texts, booleans and finite numbers") from None
    for name in parameters:
        is_header = any(fnmatchcase(name.lower(), pattern) for pattern in forwarded_headers)
        if name not in _PARAMETERS and not is_header:
            raise InvalidInput("parameters", f"have {name[:64]!a}, which is not known")


def _from_tensors(request: Any) -> PromptRequest:
    token_ids = pb_utils.get_input_tensor_by_name(request, "prompt_token_ids")
    hashes = [row.tobytes() for row in _rows(request, "image_hash")]
    grids = [tuple(row.tolist()) for row in _rows(request, "image_grid")]
    if len(grids) != len(hashes):
        raise InvalidInput("image_grid", "must have one entry for each entry of image_hash")
    return PromptRequest(
        messages=_text(request, "messages"),
        text_input=_text(request, "text_input"),
        prompt=_text(request, "prompt"),
        prompt_token_ids=None if token_ids is None else token_ids.as_numpy().tolist(),
        tools=_text(request, "tools"),
        chat_template_kwargs=_text(request, "chat_template_kwargs"),
        image=_bytes(request, "image"),
        image_max_pixels=[int(pixels) for pixels in _rows(request, "image_max_pixels")],
        image_hashes=hashes,
        known_grids={name: grid for name, grid in zip(hashes, grids, strict=True) if any(grid)},
        video=_bytes(request, "video"),
        mm_processor_kwargs=_text(request, "mm_processor_kwargs"),
        questions=_text(request, "questions"),
    )


def _rows(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy()


def _bytes(request: Any, name: str) -> list[bytes]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else list(tensor.as_numpy().ravel())


def _text(request: Any, name: str) -> str | None:
    values = _bytes(request, name)
    if not values:
        return None
    try:
        return values[0].decode()
    except UnicodeDecodeError:
        raise InvalidInput(name, "is not valid UTF-8") from None


def _text_tensor(name: str, texts: list[str]) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode() for text in texts], object))


def _token_tensors(token_ids: list[int]) -> list[Any]:
    return [
        pb_utils.Tensor("input_ids", np.array(token_ids, np.int32)),
        pb_utils.Tensor("image_size", np.empty((0, 2), np.int32)),
    ]


def _to_tensors(prompt: Prompt) -> list[Any]:
    return [
        pb_utils.Tensor("input_ids", prompt.input_ids),
        pb_utils.Tensor("position_ids", prompt.position_ids),
        pb_utils.Tensor("rope_delta", prompt.rope_delta),
        pb_utils.Tensor("prompt_length", prompt.prompt_length),
        pb_utils.Tensor("prompt_images", prompt.prompt_images),
        pb_utils.Tensor("patches", prompt.patches),
        pb_utils.Tensor("image_grid_thw", prompt.image_grid_thw),
        pb_utils.Tensor("image_hash", prompt.image_hash),
        pb_utils.Tensor("image_frames", prompt.image_frames),
        pb_utils.Tensor("image_size", prompt.image_size),
        *_option_tensors(prompt.options),
    ]


def _option_tensors(questions: Sequence[Sequence[Sequence[int]]]) -> list[Any]:
    options = [option for question in questions for option in question]
    counts = {
        "option_count": [len(question) for question in questions],
        "option_length": [len(option) for option in options],
        "option_ids": [token_id for option in options for token_id in option],
    }
    return [pb_utils.Tensor(name, np.array(values, np.int32)) for name, values in counts.items()]
