"""An error of either stage means the same to the client, to the frontend and to Triton."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import glm_client.errors as client
import glm_engine.errors as engine
import glm_preprocessing.errors as preprocessing
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import from_client_error

REPOSITORY = Path(__file__).parents[2] / "model_repository"

ENGINE_ERRORS: dict[type[engine.GenerationError], engine.GenerationError] = {
    type(error): error
    for error in (
        engine.InvalidRequest("image[2]", 'is not\n"an image" \0\ud800'),
        engine.EngineUnavailable("preprocessing is not available", stage="preprocessing"),
        engine.QueueFull("64 requests run or wait", 7),
        engine.RequestCancelled(),
        engine.OutOfMemory(),
        engine.EngineFailure("the engine failed"),
    )
}
PREPROCESSING_ERRORS: dict[
    type[preprocessing.PreprocessingError], preprocessing.PreprocessingError
] = {
    type(error): error
    for error in (
        preprocessing.PreprocessingError(),
        preprocessing.InvalidInput("messages[0].role", "is \0 \ud800", code="missing_field"),
    )
}
EXPECTED: dict[type[Exception], type[client.GLMError]] = {
    engine.InvalidRequest: client.InvalidRequestError,
    engine.EngineUnavailable: client.UnavailableError,
    engine.QueueFull: client.OverloadedError,
    engine.RequestCancelled: client.RequestCancelledError,
    engine.OutOfMemory: client.OutOfMemoryError,
    engine.EngineFailure: client.InternalError,
    preprocessing.InvalidInput: client.InvalidRequestError,
    preprocessing.PreprocessingError: client.InternalError,
}


def _subclasses(base: type[Any]) -> set[type[Any]]:
    children: list[type[Any]] = base.__subclasses__()
    return {base, *(one for child in children for one in _subclasses(child))}


def test_every_class_is_covered() -> None:
    assert set(ENGINE_ERRORS) == _subclasses(engine.GenerationError) - {engine.GenerationError}
    assert set(PREPROCESSING_ERRORS) == _subclasses(preprocessing.PreprocessingError)


@pytest.mark.parametrize("error", [*ENGINE_ERRORS.values(), *PREPROCESSING_ERRORS.values()])
def test_the_client_reads_what_a_stage_writes(
    error: engine.GenerationError | preprocessing.PreprocessingError,
) -> None:
    if isinstance(error, engine.GenerationError):
        text = engine.wire_text(error, details=True)
    else:
        text = preprocessing.wire_text(error, details=True)
    assert text.isascii() and "\0" not in text  # Triton takes a NUL for the end of a text
    for found in (client.error_from_text(text),
                  client.error_from_status(client.STATUS_BY_NAME[error.status], text)):  # fmt: skip
        assert type(found) is EXPECTED[type(error)]
        assert (found.code, found.message) == (error.code, error.message)
        for name in ("param", "retry_after", "stage"):
            assert getattr(found, name, None) == getattr(error, name, None)


@pytest.mark.parametrize("error", [*ENGINE_ERRORS.values(), *PREPROCESSING_ERRORS.values()])
def test_the_frontend_knows_its_code_and_triton_its_status(
    error: engine.GenerationError | preprocessing.PreprocessingError,
) -> None:
    assert ErrorCode[error.default_code.upper()].triton == error.status
    known = client.error_from_text(json.dumps(error.details()))
    assert from_client_error(known).code == error.code
    newer = client.error_from_text(json.dumps(error.details() | {"code": "of_a_newer_server"}))
    assert type(newer) is not client.GLMError
    assert from_client_error(newer).status < 600


def test_a_client_that_does_not_ask_for_details_gets_a_sentence() -> None:
    error = ENGINE_ERRORS[engine.InvalidRequest]
    expected = 'image[2]: is not\n"an image" \\0? [INVALID_ARG]'
    assert engine.wire_text(error, details=False) == expected
    full = ENGINE_ERRORS[engine.QueueFull]
    expected = "queue full: 64 requests run or wait; retry in 7 s [UNAVAILABLE]"
    assert engine.wire_text(full, details=False) == expected
    bad = PREPROCESSING_ERRORS[preprocessing.InvalidInput]
    assert preprocessing.wire_text(bad, details=False) == "messages[0].role: is \\0 ?"


def test_every_code_of_the_model_server_is_one_of_the_frontends() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in REPOSITORY.rglob("*.py"))
    written = set(re.findall(r'\bcode=f?"([a-z_0-9{}]+)"', source))
    written = {code.format(kind=kind) for code in written for kind in ("image", "video")}
    codes = written | {error.default_code for error in ENGINE_ERRORS.values()}
    codes |= {error.default_code for error in PREPROCESSING_ERRORS.values()}
    of_triton = {code for code in ErrorCode if code.triton is not None}
    assert {ErrorCode[code.upper()] for code in codes} == of_triton


def test_a_mistake_an_overload_and_a_fault_are_counted_apart() -> None:
    reasons = {kind.__name__: kind.finish_reason for kind in ENGINE_ERRORS}
    assert reasons == {
        "InvalidRequest": "invalid",
        "EngineUnavailable": "unavailable",
        "QueueFull": "rejected",
        "RequestCancelled": "cancelled",
        "OutOfMemory": "error",
        "EngineFailure": "error",
    }
    assert {"stop", "length", *reasons.values()} == {*engine.FINISH_REASONS}


def test_the_stages_ask_for_details_by_the_clients_name() -> None:
    for adapter in ("preprocessing/1/model.py", "generation/1/glm_triton/parameters.py"):
        assert f'"{client.ERROR_DETAILS}"' in (REPOSITORY / adapter).read_text(encoding="utf-8")
