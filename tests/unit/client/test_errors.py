"""Every status of gRPC becomes one of our errors."""

import json
from typing import Any

import grpc
import pytest

from glm_client import (
    DeadlineExceededError,
    GLMError,
    InternalError,
    InvalidRequestError,
    OutOfMemoryError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
)
from glm_client.errors import ERROR_BY_CODE, ERROR_BY_STATUS, error_from_status, error_from_text

Status = grpc.StatusCode


def test_every_status_is_mapped() -> None:
    assert set(ERROR_BY_STATUS) == set(Status)


def test_every_error_is_used() -> None:
    used = {*ERROR_BY_STATUS.values(), *ERROR_BY_CODE.values()}
    assert used == set(GLMError.__subclasses__())
    assert all(kind.default_code for kind in used)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (Status.INVALID_ARGUMENT, "image[0]: damaged", InvalidRequestError),
        (Status.UNAVAILABLE, "queue full: 64 requests", UnavailableError),
        (Status.UNAVAILABLE, "failed to connect to all addresses", UnavailableError),
        (Status.INTERNAL, "Stub process 'generation_0_0' is not healthy", UnavailableError),
        (Status.INTERNAL, "out of memory", InternalError),
        (Status.INVALID_ARGUMENT, "unable to find shared memory region: 'a'", InvalidRequestError),
        (Status.CANCELLED, "cancelled", RequestCancelledError),
        (Status.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceededError),
        (Status.NOT_FOUND, "unknown model: 'generation'", UnavailableError),
    ],
)
def test_kinds_of_triton_and_grpc(
    status: grpc.StatusCode, message: str, kind: type[GLMError]
) -> None:
    error = error_from_status(status, message)
    assert type(error) is kind
    assert error.message in message
    assert error.code == kind.default_code


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        # Of a server that knows no error_details.
        ("image[0]: damaged [INVALID_ARG]", InvalidRequestError, "image[0]: damaged"),
        ("the engine is stopping [UNAVAILABLE]", UnavailableError, "the engine is stopping"),
        ("the request was cancelled [CANCELLED]", RequestCancelledError, "the request was"),
        ("a fault [INTERNAL]", InternalError, "a fault"),
        # Triton's own.
        ("Request for unknown model: 'generation'", UnavailableError, "Request for unknown"),
        ("Stub process 'generation_0_0' is not healthy.", UnavailableError, "Stub process"),
        ("Failed to increase the shared memory pool size for", OutOfMemoryError, "out of shared"),
        ("messages: [A] is not [B]", InternalError, "messages: [A] is not [B]"),
        # JSON that is not ours.
        ("[1, 2]", InternalError, "[1, 2]"),
        ('{"code": 3}', InternalError, '{"code": 3}'),
    ],
)
def test_errors_in_a_stream(text: str, kind: type[GLMError], message: str) -> None:
    error = error_from_text(text)
    assert type(error) is kind and error.message.startswith(message)


def details(**values: Any) -> str:
    return json.dumps({"status": "INVALID_ARG", "code": "c", "message": "a sentence"} | values)


def test_an_invalid_request_names_its_field() -> None:
    error = error_from_text(details(param="image[12]", code="empty_image"))
    assert isinstance(error, InvalidRequestError)
    assert (error.param, error.code, error.message) == ("image[12]", "empty_image", "a sentence")
    assert str(error) == "image[12]: a sentence"
    assert str(error_from_text(details(param=None))) == "a sentence"


def test_a_full_queue_says_when_to_try_again() -> None:
    error = error_from_text(details(status="UNAVAILABLE", code="overloaded", retry_after=12))
    assert isinstance(error, OverloadedError) and error.retry_after == 12


@pytest.mark.parametrize(
    "text",
    [
        details(status="UNAVAILABLE", code="unavailable", stage="preprocessing"),
        "Stub process 'preprocessing_0_1' is not healthy.",
        "Request for unknown model: 'preprocessing' is not found",
    ],
)
def test_a_missing_stage_is_named(text: str) -> None:
    error = error_from_text(text)
    assert isinstance(error, UnavailableError) and error.stage == "preprocessing"


def test_a_code_of_a_newer_server_has_the_class_of_its_status() -> None:
    error = error_from_text(details(code="of_tomorrow", param="tools"))
    assert isinstance(error, InvalidRequestError) and error.code == "of_tomorrow"
    assert type(error_from_text(details(status="OF_TOMORROW"))) is InternalError
