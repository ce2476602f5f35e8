"""The three sides of the wire hold together: config.pbtxt, the models' adapters, the client.

The sides import nothing from each other, so only this file would notice when one of them changes.
"""

import ast
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from glm_client import GenerationRequest, wire
from glm_triton.deployment import PARAMETER
from glm_triton.preprocessing import (
    KNOWN_IMAGE_INPUTS,
    PROMPT_INPUTS,
    PROMPT_OUTPUTS,
    QUESTION_OUTPUTS,
)
from launcher import upgrade

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
MODELS = ("preprocessing", "generation")

# Triton's name of a type in config.pbtxt, and on the wire.
DATATYPES = {
    "TYPE_STRING": "BYTES",
    "TYPE_BOOL": "BOOL",
    "TYPE_FP32": "FP32",
    "TYPE_INT32": "INT32",
    "TYPE_UINT32": "UINT32",
    "TYPE_UINT8": "UINT8",
}


def _config(model: str) -> Any:
    text = (REPOSITORY / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _datatypes(tensors: Any) -> dict[str, str]:
    names = model_config_pb2.DataType.Name
    return {tensor.name: DATATYPES[names(tensor.data_type)] for tensor in tensors}


# Where each model's code meets Triton: nothing else imports it.
ADAPTERS = {
    "preprocessing": ("model.py",),
    "generation": (
        "model.py",
        "glm_triton/tensors.py",
        "glm_triton/metrics.py",
        "glm_triton/stage_one.py",
    ),
}
# The names that the adapters take from elsewhere.
NAMED_ELSEWHERE = {"generation": {*PROMPT_INPUTS}, "preprocessing": set[str]()}


def _strings(model: str) -> set[str]:
    """Every string literal of an adapter."""
    return {
        node.value
        for file in ADAPTERS[model]
        for node in ast.walk(
            ast.parse((REPOSITORY / model / "1" / file).read_text(encoding="utf-8"))
        )
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("model", MODELS)
def test_the_adapter_names_every_tensor_of_its_config(model: str) -> None:
    config = _config(model)
    declared = {tensor.name for tensor in (*config.input, *config.output)}
    assert declared <= _strings(model) | NAMED_ELSEWHERE[model]


@pytest.mark.parametrize("model", MODELS)
def test_the_folder_is_the_models_name_and_the_backend_is_python(model: str) -> None:
    config = _config(model)
    assert (config.name, config.backend, config.max_batch_size) == (model, "python", 0)


def test_generation_names_its_stage_one() -> None:
    parameters = _config("generation").parameters
    assert {name: value.string_value for name, value in parameters.items()} == {
        PARAMETER: "preprocessing"
    }
    assert upgrade.STAGE_TWO == PARAMETER


def test_only_generation_is_decoupled() -> None:
    assert _config("generation").model_transaction_policy.decoupled
    assert not _config("preprocessing").model_transaction_policy.decoupled


@pytest.mark.parametrize("model", MODELS)
def test_every_input_is_optional(model: str) -> None:
    assert all(tensor.optional for tensor in _config(model).input)


def test_the_client_speaks_of_generations_tensors_by_their_types() -> None:
    config = _config("generation")
    inputs, outputs = _datatypes(config.input), _datatypes(config.output)
    assert wire.INPUT_DATATYPES.items() <= inputs.items()
    assert wire.OUTPUT_DATATYPES.items() <= outputs.items()
    assert wire.MODEL_NAME == "generation"
    assert tuple(wire.STAGES) == MODELS


def test_the_client_tokenises_by_preprocessings_tensors() -> None:
    config = _config(wire.TOKENIZER_NAME)
    inputs, outputs = _datatypes(config.input), _datatypes(config.output)
    requests = [
        GenerationRequest(text_input="a", images=[b"b"], image_max_pixels=[1], videos=[b"c"]),
        GenerationRequest(messages=[], tools=[], chat_template_kwargs={}),
        GenerationRequest(prompt="a"),
        GenerationRequest(prompt_token_ids=[1]),
    ]
    for request in requests:
        call = wire.build_tokenizer_call(request, token_texts=True)
        assert {tensor.name(): tensor.datatype() for tensor in call["inputs"]}.items() <= (
            inputs.items()
        )
        assert {output.name() for output in call["outputs"]} <= outputs.keys()


def test_the_client_asks_for_the_tokenizers_configuration_by_preprocessings_tensors() -> None:
    config, call = _config(wire.TOKENIZER_NAME), wire.build_tokenizer_config_call()
    assert [output.name() for output in call["outputs"]] == ["tokenizer_config"]
    assert {tensor.name(): tensor.datatype() for tensor in call["inputs"]}.items() <= (
        _datatypes(config.input).items()
    )
    assert "tokenizer_config" in _datatypes(config.output)


def test_generation_hands_preprocessing_what_it_takes_and_asks_for_what_it_gives() -> None:
    preprocessing, generation = _config("preprocessing"), _config("generation")
    assert {*PROMPT_INPUTS, *KNOWN_IMAGE_INPUTS} == {tensor.name for tensor in preprocessing.input}
    for mine in generation.input:
        for theirs in preprocessing.input:
            if mine.name == theirs.name:
                assert (mine.data_type, list(mine.dims)) == (theirs.data_type, list(theirs.dims))
    for_tokenizers = {"text", "token_text", "tokenizer_config"}
    outputs = {*PROMPT_OUTPUTS, *QUESTION_OUTPUTS, *for_tokenizers}
    assert outputs == {tensor.name for tensor in preprocessing.output}


VLLM_BACKEND_INPUTS = {
    "text_input": "BYTES",
    "image": "BYTES",
    "stream": "BOOL",
    "sampling_parameters": "BYTES",
    "exclude_input_in_output": "BOOL",
    "return_finish_reason": "BOOL",
    "return_cumulative_logprob": "BOOL",
    "return_logprobs": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
}
VLLM_BACKEND_OUTPUTS = {
    "text_output": "BYTES",
    "finish_reason": "BYTES",
    "cumulative_logprob": "FP32",
    "logprobs": "BYTES",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
}


def test_generation_is_a_superset_of_vllm_backend() -> None:
    config = _config("generation")
    assert VLLM_BACKEND_INPUTS.items() <= _datatypes(config.input).items()
    assert VLLM_BACKEND_OUTPUTS.items() <= _datatypes(config.output).items()


@pytest.mark.parametrize("model", MODELS)
def test_only_the_adapters_know_triton_and_nothing_imports_client_or_frontend(model: str) -> None:
    """A model folder is copied alone to other Tritons."""
    for file in (REPOSITORY / model / "1").rglob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: a relative import loads a module twice"
                imported.add((node.module or "").split(".")[0])
        assert not imported & {"glm_client", "glm_frontend", "launcher", "demo_model", "tests"}
        of_triton = file.relative_to(REPOSITORY / model / "1").as_posix() in ADAPTERS[model]
        assert of_triton or "triton_python_backend_utils" not in imported
        other = "glm_engine" if model == "preprocessing" else "glm_preprocessing"
        assert other not in imported


def test_the_repository_holds_models_only() -> None:
    """Triton takes every folder here for a model and does not start if one is none."""
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
    assert folders == set(MODELS)


# Each model folder has to work alone, so each part that needs one of these files has it.
_ENGINE, _PREPROCESSING = (
    REPOSITORY / f"{model}/1/glm_{package}"
    for model, package in (("generation", "engine"), ("preprocessing", "preprocessing"))
)
_FRONTEND = REPOSITORY.parent / "frontend" / "glm_frontend"


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("heartbeat.py", _ENGINE, _PREPROCESSING),
        ("json_log.py", _ENGINE, _FRONTEND / "observability"),
        ("otel.py", _ENGINE, _FRONTEND),
        ("variables.py", _ENGINE, _FRONTEND),
    ],
)
def test_copies_are_alike(name: str, first: Path, second: Path) -> None:
    assert (first / name).read_text() == (second / name).read_text()
