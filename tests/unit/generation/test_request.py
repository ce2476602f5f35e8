"""Sampling parameters: what is read, and what is refused by name."""

import json
from typing import Any

import pytest

from glm_engine.config import EngineConfig
from glm_engine.errors import InvalidRequest
from glm_engine.request import (
    GenerationDefaults,
    SamplingParams,
    StructuredOutputs,
    parse_sampling_parameters,
)

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
    beside = {"temperature": "0.1", "max_tokens": 5}
    params = parse_sampling_parameters(text, DEFAULTS, beside)
    assert (params.max_tokens, params.top_k, params.ignore_eos) == (5, 7, True)
    assert params.temperature == 0.1  # null is the same as absent


def test_lists_and_objects_may_be_texts() -> None:
    """A parameter of a Triton request can be neither."""
    beside = {
        "stop_token_ids": "[4, 5]",
        "logit_bias": '{"9": -100}',
        "structured_outputs": '{"choice": ["a"]}',
        "tool_choice": '{"type": "function", "function": {"name": "f"}}',
        "stop": "[",
    }
    params = parse_sampling_parameters(None, DEFAULTS, beside)
    assert (params.stop_token_ids, params.logit_bias) == (frozenset({4, 5}), {9: -100})
    assert params.structured_outputs == StructuredOutputs("choice", ("a",))
    assert (params.tool_choice.name, params.stop) == ("f", ("[",))


def test_values_that_contradict_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_sampling_parameters('{"max_tokens": 5}', DEFAULTS, {"max_tokens": 9})
    assert str(caught.value) == "max_tokens: contradicts sampling_parameters.max_tokens"
    with pytest.raises(InvalidRequest, match=r"^sampling_parameters\.random_seed: contradicts "):
        _parse(seed=1, random_seed=2)


def test_a_value_that_stands_beside_is_named_as_it_was_given() -> None:
    for beside, name in (
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "min_length": 4}, "min_length"),
        ({"beams": 3}, "beams"),
        ({"stop_token_ids": "[-1]"}, r"stop_token_ids\[0\]"),
    ):
        with pytest.raises(InvalidRequest, match=rf"^{name}: "):
            parse_sampling_parameters(None, DEFAULTS, beside)


def test_names_of_tensorrt_llm() -> None:
    params = _parse(stop_words=["a"], random_seed="3", min_length=2, num_return_sequences=4)
    assert (params.stop, params.seed, params.min_tokens, params.n) == (("a",), 3, 2, 4)
    # Its example for curl.
    example = {"max_tokens": 20, "bad_words": "", "stop_words": "", "pad_id": 2, "end_id": 1}
    assert parse_sampling_parameters(None, DEFAULTS, example) == _parse(max_tokens=20)


@pytest.mark.parametrize(
    ("key", "neutral", "other"),
    [
        ("bad_words", [], ["x"]), ("beam_width", "1", 4), ("best_of", 1, "2"),
        ("detokenize", True, False), ("end_id", "1", 2), ("end_id", None, "x"),
        ("include_stop_str_in_output", "False", True), ("lora_name", "", "doll"),
        ("return_log_probs", False, True), ("use_beam_search", False, "true"),
        ("spaces_between_special_tokens", True, 0), ("allowed_token_ids", None, [1]),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_accepted_where_it_changes_nothing(
    key: str, neutral: Any, other: Any
) -> None:
    assert _parse(**{key: neutral}) == _parse()
    with pytest.raises(InvalidRequest, match=rf"^sampling_parameters\.{key}: is not supported"):
        _parse(**{key: other})


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
        ({"GLM_MODEL": "x", "GLM_BLOCK_SIZE": "0"}, "GLM_BLOCK_SIZE='0' is below 1"),
        (
            {"GLM_MODEL": "x", "GLM_QUANTIZATION": "q4"},
            "GLM_QUANTIZATION='q4' is not one of none, fp8, int8, int4",
        ),
        ({"GLM_MODEL": "x", "GLM_MAX_QUEUE": "many"}, "GLM_MAX_QUEUE='many' is not an integer"),
    ],
)
def test_a_bad_setting_is_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig.from_env(env)
