"""Every status of gRPC becomes one of our errors."""

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
from glm_client.errors import ERROR_BY_STATUS, error_from_status, error_from_text

Status = grpc.StatusCode


def test_every_status_is_mapped() -> None:
    assert set(ERROR_BY_STATUS) == set(Status)


def test_every_error_is_used() -> None:
    told_by_text = {OutOfMemoryError}
    assert set(ERROR_BY_STATUS.values()) == set(GLMError.__subclasses__()) - told_by_text


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (Status.INVALID_ARGUMENT, "image[0]: damaged", InvalidRequestError),
        (Status.UNAVAILABLE, "queue full: 64 requests", OverloadedError),
        (Status.UNAVAILABLE, "the engine is stopping", UnavailableError),
        (Status.UNAVAILABLE, "failed to connect to all addresses", UnavailableError),
        (Status.INTERNAL, "Stub process 'generation_0_0' is not healthy", UnavailableError),
        (Status.UNAVAILABLE, "out of memory: use smaller images", OutOfMemoryError),
        (Status.INTERNAL, "out of memory", InternalError),
        (Status.CANCELLED, "cancelled", RequestCancelledError),
        (Status.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceededError),
        (Status.NOT_FOUND, "unknown model: 'generation'", UnavailableError),
    ],
)
def test_kinds(status: grpc.StatusCode, message: str, kind: type[GLMError]) -> None:
    error = error_from_status(status, message)
    assert type(error) is kind
    assert error.message in message


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("image[0]: damaged [INVALID_ARG]", InvalidRequestError, "damaged"),
        ("queue full: 64 [UNAVAILABLE]", OverloadedError, "queue full: 64"),
        ("the engine is stopping [UNAVAILABLE]", UnavailableError, "the engine is stopping"),
        ("the request was cancelled [CANCELLED]", RequestCancelledError, "the request was"),
        ("out of memory [INTERNAL]", InternalError, "out of memory"),
        ("Request for unknown model: 'generation'", UnavailableError, "Request for unknown"),
        ("Stub process 'generation_0_0' is not healthy.", UnavailableError, "Stub process"),
        ("Failed to increase the shared memory pool size for", OutOfMemoryError, "out of shared"),
        ("messages: [A] is not [B]", InternalError, "messages: [A] is not [B]"),
    ],
)
def test_errors_in_a_stream(text: str, kind: type[GLMError], message: str) -> None:
    error = error_from_text(text)
    assert type(error) is kind and error.message.startswith(message)


@pytest.mark.parametrize(
    ("message", "param", "reason"),
    [
        ("messages[1].content[0].text: has to be text", "messages[1].content[0].text", "has to be"),
        ("sampling_parameters.temperature: too high: 3", "sampling_parameters.temperature", "too"),
        ("sampling_parameters: is not JSON", "sampling_parameters", "is not JSON"),
        ("image[12]: not\nan image", "image[12]", "not\nan"),
        ("messages: the prompt has 5000 tokens", "messages", "the prompt"),
        ("in ensemble 'x', text_input: is empty", "text_input", "is empty"),
    ],
)
def test_the_field_is_parsed(message: str, param: str, reason: str) -> None:
    error = error_from_status(Status.INVALID_ARGUMENT, message)
    assert isinstance(error, InvalidRequestError)
    assert error.param == param
    assert error.message.startswith(reason)
    assert str(error) == f"{param}: {error.message}"


@pytest.mark.parametrize(
    "message", ["unexpected shape for input", "failed: no reason", "my_messages: no", "x.image: no"]
)
def test_other_messages_have_no_field(message: str) -> None:
    error = error_from_status(Status.INVALID_ARGUMENT, message)
    assert isinstance(error, InvalidRequestError)
    assert (error.param, str(error)) == (None, message)


def test_when_to_try_again_is_told() -> None:
    error = error_from_text("queue full: 8 requests wait; retry in 12 s [UNAVAILABLE]")
    assert isinstance(error, OverloadedError) and error.retry_after == 12
