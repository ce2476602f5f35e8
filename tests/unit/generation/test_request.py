"""Sampling parameters: what is read, and what is refused by name."""

import json
from typing import Any

import pytest

from glm_engine.config import EngineConfig
from glm_engine.errors import InvalidRequest
from glm_engine.request import GenerationDefaults, SamplingParams, parse_sampling_parameters

DEFAULTS = GenerationDefaults(frozenset({1}), temperature=0.8, top_p=0.6, top_k=2)


def _parse(**given: Any) -> SamplingParams:
    return parse_sampling_parameters(json.dumps(given), DEFAULTS)


def test_what_is_left_open_comes_from_the_checkpoint() -> None:
    for text in (None, "", "{}", '{"temperature": null}'):
        params = parse_sampling_parameters(text, DEFAULTS)
        assert (params.temperature, params.top_p, params.top_k) == (0.8, 0.6, 2)
        assert params.max_tokens is None


def test_values_may_be_texts_and_stand_beside() -> None:
    """As clients of Triton's HTTP endpoint send them."""
    text = '{"max_tokens": "5", "top_k": 7.0, "ignore_eos": "True", "temperature": null}'
    beside = {"temperature": "0.1", "max_tokens": 9, "binary_data_output": True}
    params = parse_sampling_parameters(text, DEFAULTS, beside)
    assert (params.max_tokens, params.top_k, params.ignore_eos) == (5, 7, True)
    assert params.temperature == DEFAULTS.temperature  # what is in the input counts, null as well
    params = parse_sampling_parameters(None, DEFAULTS, beside)
    assert (params.max_tokens, params.temperature) == (9, 0.1)


def test_every_parameter_is_read() -> None:
    params = _parse(
        max_tokens=7, temperature=0, top_p=1, top_k=-1, min_p=0.1, seed=3, stop="END",
        stop_token_ids=[4, 5], presence_penalty=-2, frequency_penalty=2, repetition_penalty=1.1,
        logit_bias={"9": -100}, min_tokens=2, ignore_eos=True, skip_special_tokens=False,
        logprobs=5, n=1,
    )  # fmt: skip
    assert params == SamplingParams(
        max_tokens=7, temperature=0, top_p=1, top_k=0, min_p=0.1, seed=3, stop=("END",),
        stop_token_ids=frozenset({4, 5}), presence_penalty=-2, frequency_penalty=2,
        repetition_penalty=1.1, logit_bias={9: -100}, min_tokens=2, ignore_eos=True,
        skip_special_tokens=False, logprobs=5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", "ten"), ("max_tokens", True),
        ("temperature", 2.1), ("temperature", -0.1), ("temperature", "hot"), ("temperature", False),
        ("top_p", 0), ("top_p", 1.1), ("top_k", -2), ("min_p", -0.1), ("min_p", 1.1),
        ("seed", 0.5), ("seed", 2**63), ("stop", 5), ("stop", [""]), ("stop", ["x"] * 17),
        ("stop_token_ids", 5), ("presence_penalty", 2.1), ("frequency_penalty", -2.1),
        ("repetition_penalty", 0), ("logit_bias", []), ("min_tokens", -1), ("ignore_eos", 1),
        ("skip_special_tokens", "no"), ("logprobs", 21), ("n", 17), ("beam_width", 4),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"^sampling_parameters\.{key}: "):
        _parse(**{key: value})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[]", "sampling_parameters"),
        ("{", "sampling_parameters"),
        ("[" * 100_000, "sampling_parameters"),
        ('{"temperature": NaN}', "sampling_parameters.temperature"),
        ('{"temperature": 1' + "0" * 400 + "}", "sampling_parameters.temperature"),
        ('{"logit_bias": {"' + "1" * 5000 + '": 1}}', "sampling_parameters.logit_bias"),
        ('{"": 1}', "sampling_parameters"),
        ('{"a\\u0000. b": 1}', "sampling_parameters"),
        ('{"structured_outputs": {"a: b": 1}}', "sampling_parameters.structured_outputs"),
        ('{"repetition_penalty": Infinity}', "sampling_parameters.repetition_penalty"),
        ('{"stop_token_ids": [1, -1]}', r"sampling_parameters.stop_token_ids\[1\]"),
        ('{"logit_bias": {"x": 1}}', "sampling_parameters.logit_bias.x"),
        ('{"logit_bias": {"4": 101}}', "sampling_parameters.logit_bias.4"),
        ('{"min_tokens": 5, "max_tokens": 4}', "sampling_parameters.min_tokens"),
    ],
)
def test_malformed_parameters_name_the_place(text: str, field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}: "):
        parse_sampling_parameters(text, DEFAULTS)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "GLM_MODEL is not set"),
        ({"GLM_MODEL": "x", "GLM_DEVICE": "tpu"}, "GLM_DEVICE='tpu' is not one of auto, cpu, cuda"),
        ({"GLM_MODEL": "x", "GLM_DTYPE": "int8"}, "GLM_DTYPE='int8'"),
        (
            {"GLM_MODEL": "x", "GLM_QUANTIZATION": "q4"},
            "GLM_QUANTIZATION='q4' is not one of none, fp8, int8, int4",
        ),
        ({"GLM_MODEL": "x", "GLM_MAX_NUM_SEQS": "0"}, "GLM_MAX_NUM_SEQS='0' is below 1"),
        ({"GLM_MODEL": "x", "GLM_MAX_QUEUE": "many"}, "GLM_MAX_QUEUE='many' is not an integer"),
    ],
)
def test_a_bad_setting_is_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig.from_env(env)
