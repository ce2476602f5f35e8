"""A short form of ``make fuzz``: some cases for every entry point, the same each time.

Judged is how each case ends. Of time there is only what tells a hang: a minute for one request.
"""

import pytest
import requests

from e2e.calls import chat, post
from stress.fuzz.targets import TARGETS, assert_unharmed, processes
from tools.stack import Stack


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_in_ends_as_it_should(stack: Stack, name: str) -> None:
    pids = processes(stack)
    outcome = TARGETS[name](stack, 0, 20261123)
    assert outcome.failures == []
    assert len(outcome.kinds) > 1
    assert_unharmed(stack, pids)


def test_a_nul_in_an_error_does_not_hide_the_field(stack: Stack) -> None:
    schema = {"type": "\x00"}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    response = post(stack, chat("hello", response_format=response_format))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith("response_format")


def test_token_ids_beyond_32_bits_are_named(stack: Stack) -> None:
    response = post(stack, {"tokens": [2**31]}, "/detokenize")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens[0]")


def test_grids_without_hashes_are_named(stack: Stack) -> None:
    body = {
        "inputs": [
            {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["x"]},
            {"name": "image_grid", "shape": [1, 3], "datatype": "INT32", "data": [0, 0, 0]},
        ]
    }
    url = f"{stack.triton_http_url}/v2/models/preprocessing/infer"
    answer = requests.post(url, json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("image_grid: ")
