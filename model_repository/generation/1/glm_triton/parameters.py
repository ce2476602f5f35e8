"""The parameters of a Triton request. Independent of Triton.

Triton passes on any parameter, and its ``generate`` endpoint makes one of each field that is not an
input of the model. So a misspelt field arrives here, and only here can it be refused.
"""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from glm_engine.errors import InvalidRequest
from glm_engine.request import SAMPLING_PARAMETERS

ERROR_DETAILS = "error_details"
"""Selects JSON errors."""

# Those that concern the form of a response only. Others of Triton's own, such
# as `timeout`, do not arrive here from gRPC and `infer`, and have no effect in `generate`.
REQUEST_ID = "id"
_OF_TRITON = frozenset({REQUEST_ID, "binary_data_output", "triton_enable_empty_final_response"})


def read_parameters(text: str) -> dict[str, Any]:
    """All parameters of a request.

    Raises:
        InvalidRequest: a value cannot be written as JSON, such as infinity.
    """
    try:
        found: dict[str, Any] = json.loads(text or "{}")
    except ValueError:
        raise InvalidRequest("parameters", "must be texts, booleans and finite numbers") from None
    return found


def wants_details(text: str) -> bool:
    """Whether the client asks for errors in JSON; never raises."""
    try:
        return bool(read_parameters(text).get(ERROR_DETAILS))
    except InvalidRequest:
        return False


def select_sampling_parameters(
    parameters: Mapping[str, Any], inputs: Iterable[str], forwarded_headers: Iterable[str]
) -> dict[str, Any]:
    """The sampling parameters among the parameters of a request.

    Args:
        inputs: names of the model's inputs.
        forwarded_headers: patterns for the names of headers that Triton passes on as parameters.

    Raises:
        InvalidRequest: names the first parameter that is unknown.
    """
    selected = {}
    for name, value in parameters.items():
        if name in _OF_TRITON or name == ERROR_DETAILS:
            continue
        if name in SAMPLING_PARAMETERS:
            selected[name] = value
        elif not any(fnmatchcase(name.lower(), pattern) for pattern in forwarded_headers):
            raise _unknown(name, list(inputs))
    return selected


def _unknown(name: str, inputs: list[str]) -> InvalidRequest:
    if name in inputs:
        return InvalidRequest(name, "is an input: send it as a tensor, not as a parameter")
    known = sorted([*inputs, *SAMPLING_PARAMETERS])
    near = [word for word in known if word.startswith(f"{name.lower()}_")]
    near = near or get_close_matches(name.lower(), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if not name.isprintable() or len(name) > 64 or not name.isascii():
        return InvalidRequest("parameters", f"have {name[:64]!a}, which is not known{hint}")
    return InvalidRequest(name, f"is neither an input nor a sampling parameter{hint}")
