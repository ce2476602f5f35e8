"""Parameters of Triton requests: what is heeded, left to Triton, or refused by name."""

import pytest

from glm_engine.errors import InvalidRequest
from glm_triton.parameters import read_parameters, select_sampling_parameters, wants_details

INPUTS = ("text_input", "messages", "return_logprobs")


def test_sampling_parameters_are_selected() -> None:
    given = {
        "max_tokens": 3,
        "stop_words": "",
        "error_details": True,
        "binary_data_output": True,
        "id": "a",
        "priority": 3,
        "X-Request-Id": "a",
        "traceparent": "b",
    }
    selected = select_sampling_parameters(given, INPUTS, ("x-*", "traceparent"))
    assert selected == {"max_tokens": 3, "stop_words": "", "priority": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temprature", "temprature: is neither an input nor a sampling parameter; did you mean temp"
                       "erature?"),
        ("text", "text: is neither an input nor a sampling parameter; did you mean text_input?"),
        ("max-tokens", "max-tokens: is neither an input nor a sampling parameter; did you mean max_"
                       "tokens?"),
        ("timeout", "timeout: is neither an input nor a sampling parameter"),
        ("qqq", "qqq: is neither an input nor a sampling parameter"),
        ("messages", "messages: is an input: send it as a tensor, not as a parameter"),
        ("X-Request-Id", "X-Request-Id: is neither an input nor a sampling parameter"),
        ("a\n b", "parameters: have 'a\\n b', which is not known"),
        ("\ud800", "parameters: have '\\ud800', which is not known"),
        ("x" * 65, f"parameters: have '{'x' * 64}', which is not known"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        select_sampling_parameters({name: 1}, INPUTS, ())
    assert str(caught.value) == message


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^parameters: "):
        read_parameters('{"temperature":}')
    assert not wants_details('{"error_details": true, "temperature":}')
    assert wants_details('{"error_details": true}') and not wants_details("")
