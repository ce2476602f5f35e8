"""Direct clients of Triton: tritonclient alone, vllm_backend's tensor names, generate_stream."""

import base64
import json
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from e2e.calls import PICTURES, metrics, settled
from glm_client.errors import ERROR_DETAILS
from tools.stack import Stack
from waiting import wait_until


def _text(name: str, *values: bytes) -> grpc.InferInput:
    tensor = grpc.InferInput(name, [len(values)], "BYTES")
    return tensor.set_data_from_numpy(np.array(values, dtype=object))


def _flag(name: str, value: bool) -> grpc.InferInput:
    return grpc.InferInput(name, [1], "BOOL").set_data_from_numpy(np.array([value]))


@pytest.fixture
def client(stack: Stack) -> Iterator[grpc.InferenceServerClient]:
    client = grpc.InferenceServerClient(stack.grpc_url)
    yield client
    client.close()


def _responses(
    client: grpc.InferenceServerClient, *inputs: Any, **options: Any
) -> list[dict[str, Any]]:
    """All responses of one request, each as {output name: value}; raises its error."""
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: arrived.put((result, error)))
    try:
        client.async_stream_infer(
            "generation", list(inputs), enable_empty_final_response=True, **options
        )
        responses = []
        while True:
            result, error = arrived.get(timeout=60)
            if error is not None:
                raise error
            response = result.get_response()
            outputs = {output.name: result.as_numpy(output.name)[0] for output in response.outputs}
            if outputs:
                responses.append(outputs)
            if response.parameters["triton_final_response"].bool_param:
                return responses
    finally:
        client.stop_stream()


def test_vllm_backends_call_works_as_it_is(client: grpc.InferenceServerClient) -> None:
    picture = base64.b64encode((PICTURES / "photo-square.jpg").read_bytes())
    [response] = _responses(
        client,
        _text("text_input", b"What is in this image?"),
        _text("image", picture),
        _flag("stream", False),
        _text("sampling_parameters", b'{"temperature": 0, "max_tokens": 64}'),
        _flag("exclude_input_in_output", True),
        _flag("return_finish_reason", True),
        _flag("return_num_input_tokens", True),
        _flag("return_num_output_tokens", True),
        _flag("return_cumulative_logprob", True),
        _flag("return_logprobs", True),
    )
    assert response["text_output"].decode().endswith("A red square.")
    assert response["finish_reason"] == b"stop"
    assert response["num_input_tokens"] > 16
    assert response["num_output_tokens"] == len(json.loads(response["logprobs"]))
    assert response["cumulative_logprob"] <= 0


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_told_which_stop_string_ended_the_answer(
    client: grpc.InferenceServerClient, stream: bool
) -> None:
    *_, last = _responses(
        client,
        _text("text_input", b"What is in this image?"),
        _text("image", (PICTURES / "photo-square.jpg").read_bytes()),
        _text("sampling_parameters", b'{"temperature": 0, "stop": ["circle", " square"]}'),
        _flag("stream", stream),
        _flag("return_finish_reason", True),
    )
    assert (last["finish_reason"], json.loads(last["stop_reason"])) == (b"stop", " square")


def test_the_input_comes_first_unless_excluded(client: grpc.InferenceServerClient) -> None:
    question = _text("text_input", b"Who are you?")
    greedy = _text("sampling_parameters", b'{"temperature": 0}')
    [with_input] = _responses(client, question, greedy)
    [without] = _responses(client, question, greedy, _flag("exclude_input_in_output", True))
    assert with_input["text_output"] == b"Who are you?" + without["text_output"]


def test_a_stream_adds_up_to_the_whole(client: grpc.InferenceServerClient) -> None:
    inputs = [
        _text("messages", json.dumps([{"role": "user", "content": "你能做什么？"}]).encode()),
        # Long enough to come in pieces, however busy the machine is.
        _text("sampling_parameters", b'{"temperature": 0, "ignore_eos": true, "max_tokens": 1000}'),
        _flag("return_num_output_tokens", True),
        _flag("return_token_ids", True),
    ]
    [whole] = _responses(client, *inputs)
    pieces = _responses(client, *inputs, _flag("stream", True))
    assert len(pieces) > 1
    assert b"".join(piece["text_output"] for piece in pieces) == whole["text_output"]
    for piece in pieces:
        piece["text_output"].decode()  # never half a character
    assert sum(int(piece["num_output_tokens"]) for piece in pieces) == whole["num_output_tokens"]


def test_events_tell_thought_text_and_calls_apart(client: grpc.InferenceServerClient) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    message = {"role": "user", "content": "What is the weather in Paris?"}
    inputs = [
        _text("messages", json.dumps([message]).encode()),
        _text("tools", json.dumps([tool]).encode()),
        _text("sampling_parameters", b'{"temperature": 0}'),
        _flag("return_finish_reason", True),
    ]
    [plain] = _responses(client, *inputs)
    [whole] = _responses(client, *inputs, _flag("return_events", True))
    assert "text_output" not in whole and whole["finish_reason"] == plain["finish_reason"]
    thought, start, delta = json.loads(whole["events"])
    assert f"<think>{thought['thought']}</think>".encode() in plain["text_output"]
    assert start == {"call": 0, "name": "get_weather"}
    assert json.loads(delta["arguments"]) == {"city": "Paris"}
    pieces = _responses(client, *inputs, _flag("return_events", True), _flag("stream", True))
    events = [event for piece in pieces for event in json.loads(piece["events"])]
    assert "".join(event.get("arguments", "") for event in events) == delta["arguments"]
    assert "".join(event.get("thought", "") for event in events) == thought["thought"]


def test_several_answers_to_one_prompt(client: grpc.InferenceServerClient) -> None:
    def answers(sampling: dict[str, Any]) -> list[bytes]:
        pieces = _responses(
            client,
            _text("text_input", b"What is in this image?"),
            _text("image", (PICTURES / "photo-square.jpg").read_bytes()),
            _text("sampling_parameters", json.dumps(sampling).encode()),
            _flag("stream", True),
            _flag("return_finish_reason", True),
        )
        ends = [piece["index"] for piece in pieces if piece["finish_reason"]]
        assert sorted(int(index) for index in ends) == list(range(sampling["n"]))
        texts = [b""] * sampling["n"]
        for piece in pieces:
            texts[int(piece["index"])] += piece["text_output"]
        return texts

    greedy = answers({"temperature": 0, "n": 3})
    assert greedy[0].endswith(b"A red square.") and greedy == [greedy[0]] * 3
    hot = {"temperature": 2, "top_k": 0, "top_p": 1, "seed": 3, "max_tokens": 30}
    several = answers(hot | {"n": 3})
    assert len(set(several)) > 1
    [one] = [
        r["text_output"]
        for r in _responses(
            client,
            _text("text_input", b"What is in this image?"),
            _text("image", (PICTURES / "photo-square.jpg").read_bytes()),
            _text("sampling_parameters", json.dumps(hot).encode()),
            _flag("exclude_input_in_output", True),
        )
    ]
    assert one == several[0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "messages: is missing"),
        ([_text("text_input", b"hi"), _text("image", b"no image")], "image[0]: not a readable"),
        ([_text("messages", b"[]")], "messages: "),
        ([_text("text_input", b"\xff\xfe")], "text_input: is not valid UTF-8"),
        (
            [_text("text_input", b"hi"), _text("sampling_parameters", b'{"top_p": 7}')],
            "sampling_parameters.top_p: ",
        ),
        (
            [_text("text_input", b"hi"), _text("sampling_parameters", b'{"beams": 7}')],
            "sampling_parameters.beams: is not supported",
        ),
        (
            [_text("text_input", b"hi"), _text("cancel", b"key")],
            "cancel: cannot be combined with other inputs",
        ),
        (
            [_text("text_input", b"hi"), _text("trace_context", b"00-1-2-01")],
            "trace_context: is not a W3C traceparent",
        ),
    ],
)
def test_errors_have_their_code_and_name_the_field(
    client: grpc.InferenceServerClient, inputs: list[Any], message: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        _responses(client, *inputs)
    assert caught.value.message().startswith(message)
    assert caught.value.message().endswith(" [INVALID_ARG]")


def test_errors_as_data_for_those_who_ask(stack: Stack, client: grpc.InferenceServerClient) -> None:
    asked = {ERROR_DETAILS: True}
    too_long = [_text("text_input", b"hi"), _text("sampling_parameters", b'{"max_tokens": 99999}')]
    with pytest.raises(InferenceServerException) as caught:
        _responses(client, *too_long, parameters=asked)
    details = json.loads(caught.value.message())
    assert details.pop("message").startswith("99999 plus the prompt's")
    assert details == {
        "status": "INVALID_ARG",
        "code": "context_length_exceeded",
        "param": "sampling_parameters.max_tokens",
    }
    # Stage 1's, through stage 2 and from itself.
    empty = [_text("text_input", b"hi"), _text("image", b"")]
    expected = {
        "status": "INVALID_ARG",
        "code": "empty_image",
        "param": "image[0]",
        "message": "the image is empty",
    }
    with pytest.raises(InferenceServerException) as caught:
        _responses(client, *empty, parameters=asked)
    assert json.loads(caught.value.message()) == expected
    with pytest.raises(InferenceServerException) as caught:
        client.infer("preprocessing", empty, parameters=asked)
    assert json.loads(caught.value.message()) == expected
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    # Over HTTP a parameter is a field that is not one of the model's inputs.
    url = f"{stack.triton_http_url}/v2/models/generation/generate"
    body = {"text_input": "hi", "image": "", "exclude_input_in_output": True}
    response = requests.post(url, json=body | asked, timeout=60)
    assert json.loads(response.json()["error"]) == expected
    plain = requests.post(url, json=body, timeout=60)
    assert plain.json()["error"] == "image[0]: the image is empty [INVALID_ARG]"


def test_generate_and_generate_stream_over_http(stack: Stack) -> None:
    url = f"{stack.triton_http_url}/v2/models/generation"
    body: dict[str, Any] = {
        "text_input": "What is in this image?",
        "image": base64.b64encode((PICTURES / "plot-42.png").read_bytes()).decode(),
        "exclude_input_in_output": True,
        "sampling_parameters": '{"temperature": 0}',
    }
    whole = requests.post(f"{url}/generate", json=body, timeout=60).json()["text_output"]
    assert whole.endswith("The number 42.")
    events = requests.post(f"{url}/generate_stream", json=body | {"stream": True}, timeout=60).text
    pieces = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
    assert "".join(piece["text_output"] for piece in pieces) == whole
    long = {"stream": True, "sampling_parameters": '{"ignore_eos": true, "max_tokens": 1000}'}
    events = requests.post(f"{url}/generate_stream", json=body | long, timeout=60).text
    assert events.count("data: ") > 1


def _generate(stack: Stack, **fields: Any) -> requests.Response:
    url = f"{stack.triton_http_url}/v2/models/generation/generate"
    return requests.post(url, json=fields, timeout=60)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 3, "temperature": 0.0},
        {"max_tokens": "3", "temperature": "0"},
        {"parameters": {"max_tokens": 3, "temperature": 0, "stream": False}},
        {"sampling_parameters": '{"max_tokens": "3"}', "temperature": 0},
        # TensorRT-LLM's, with what asks for nothing.
        {"max_tokens": 3, "temperature": 0, "bad_words": "", "stop_words": "", "pad_id": 2},
        {"max_tokens": 3, "temperature": 0, "stop_words": ["neverseen", "northis"], "id": "a"},
    ],
)
def test_sampling_parameters_are_heeded_wherever_they_stand(
    stack: Stack, fields: dict[str, Any]
) -> None:
    expected = _generate(
        stack, text_input="Who?", sampling_parameters='{"max_tokens": 3, "temperature": 0}'
    )
    response = _generate(stack, text_input="Who?", **fields)
    assert response.status_code == 200
    assert response.json()["text_output"] == expected.json()["text_output"]


def test_stop_words_end_an_answer(stack: Stack) -> None:
    asked = {"text_input": "Who are you?", "temperature": 0, "exclude_input_in_output": True}
    whole = _generate(stack, **asked).json()["text_output"]
    _, word, rest = whole.partition(whole.split()[-1])
    cut = _generate(stack, **asked, stop_words=[word]).json()["text_output"]
    assert whole.startswith(cut) and word not in cut.rpartition("</think>")[2] and not rest


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"text": "Who?"}, "text"),
        ({"text_input": "Who?", "temprature": 1}, "temprature"),
        ({"text_input": "Who?", "parameters": {"beams": 1}}, "beams"),
        ({"text_input": "Who?", "max_tokens": 0}, "max_tokens"),
        ({"text_input": "Who?", "beam_width": 4}, "beam_width"),
        ({"text_input": "Who?", "timeout": 4}, "timeout"),
        (
            {"text_input": "Who?", "top_k": 3, "sampling_parameters": '{"top_k": 4}'},
            "top_k: contradicts sampling_parameters.top_k",
        ),
        # Triton's own sentences.
        ({"text_input": "Who?", "stop": ["a"]}, "parameter 'stop'"),
        ({"text_input": "Who?", "x": {"a": 1}}, "parameter 'x'"),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    stack: Stack, fields: dict[str, Any], name: str
) -> None:
    response = _generate(stack, **fields)
    assert response.status_code == 400
    assert response.json()["error"].startswith(name)


def test_parameters_over_grpc_are_heeded_or_refused(client: grpc.InferenceServerClient) -> None:
    question = _text("text_input", b"Who are you?")
    [response] = _responses(
        client, question, _flag("return_num_output_tokens", True), parameters={"max_tokens": 3}
    )
    assert response["num_output_tokens"] == 3
    # Those of Triton's scheduler are not ours.
    assert _responses(client, question, priority=1, sequence_id=3, sequence_start=True)
    for name, message in (
        ("zzz", "zzz: is neither an input nor a sampling parameter"),
        ("stream", "stream: is an input: send it as a tensor"),
    ):
        with pytest.raises(InferenceServerException, match=f"^{message}"):
            _responses(client, question, parameters={name: 1})


def test_named_outputs_need_no_flags(client: grpc.InferenceServerClient) -> None:
    asked = [
        _text("text_input", b"Who are you?"),
        _text("sampling_parameters", b'{"max_tokens": 3, "temperature": 0}'),
    ]

    def outputs(*names: str, **flags: bool) -> dict[str, Any]:
        [response] = _responses(
            client,
            *asked,
            *(_flag(name, value) for name, value in flags.items()),
            outputs=[grpc.InferRequestedOutput(name) for name in names],
        )
        return response

    names = {
        "text_output", "finish_reason", "index", "cumulative_logprob", "logprobs",
        "num_input_tokens", "num_image_tokens", "num_cached_tokens", "num_output_tokens",
        "num_reasoning_tokens", "token_ids", "prompt_logprobs", "limits",
    }  # fmt: skip
    assert {"text_output"} == {*_responses(client, *asked)[0]}
    assert outputs("finish_reason") == {"finish_reason": b"length"}
    assert outputs("finish_reason", "token_ids", return_finish_reason=False).keys() == {"token_ids"}
    assert outputs("events").keys() == {"events"}
    found = outputs(*names)
    assert {*found} == names
    assert len(json.loads(found["logprobs"])) == found["num_output_tokens"] == 3
    assert len(json.loads(found["prompt_logprobs"])) == found["num_input_tokens"]
    with pytest.raises(InferenceServerException, match=r"^text_output: is not an output beside"):
        outputs("events", "text_output")


def test_preprocessing_refuses_what_it_does_not_know(
    stack: Stack, client: grpc.InferenceServerClient
) -> None:
    question = _text("text_input", b"hi")
    of_http = http.InferInput("text_input", [1], "BYTES")
    of_http.set_data_from_numpy(np.array([b"hi"], dtype=object))
    http_client = http.InferenceServerClient(stack.triton_http_url.removeprefix("http://"))
    triton_s_own = {"priority": 3, "timeout": 9_000_000, "sequence_id": 4, "request_id": "k"}
    assert client.infer("preprocessing", [question], **triton_s_own).as_numpy("input_ids").size
    assert http_client.infer("preprocessing", [of_http], **triton_s_own).as_numpy("input_ids").size
    for infer, tensor in ((client.infer, question), (http_client.infer, of_http)):
        with pytest.raises(InferenceServerException, match="parameters: have 'zzz'"):
            infer("preprocessing", [tensor], parameters={"zzz": 1})


def test_statistics_are_open_and_administration_is_not(stack: Stack) -> None:
    url = f"{stack.triton_http_url}/v2"
    assert _generate(stack, text_input="Who?", max_tokens=1).status_code == 200
    [model] = requests.get(f"{url}/models/generation/stats", timeout=60).json()["model_stats"]
    assert model["inference_count"] >= 1
    assert requests.get(f"{url}/models/stats", timeout=60).status_code == 200
    for verb, path in (
        ("post", "repository/index"),
        ("post", "repository/models/generation/unload"),
        ("post", "repository/models/generation/load"),
        ("get", "models/generation/trace/setting"),
        ("post", "trace/setting"),
        ("get", "logging"),
        ("post", "logging"),
        ("get", "systemsharedmemory/status"),
        ("post", "cudasharedmemory/unregister"),
    ):
        assert requests.request(verb, f"{url}/{path}", json={}, timeout=60).status_code == 403, path


def test_a_mistake_of_a_client_is_not_counted_as_a_fault(stack: Stack) -> None:
    invalid, error = (f'glm_requests_total{{finish_reason="{r}"}}' for r in ("invalid", "error"))
    before = settled(stack)
    for fields in ({"top_p": 7}, {"temprature": 1}, {"image": "no image"}, {"max_tokens": 9999}):
        assert _generate(stack, text_input="Who?", **fields).status_code == 400
    wait_until(lambda: metrics(stack)[invalid] == before[invalid] + 4)
    assert metrics(stack)[error] == before[error]


def test_preprocessing_answers_by_itself(client: grpc.InferenceServerClient) -> None:
    picture = (PICTURES / "plot-42.png").read_bytes()
    result = client.infer("preprocessing", [_text("text_input", b"hi"), _text("image", picture)])
    patches, grid = result.as_numpy("patches"), result.as_numpy("image_grid_thw")
    assert patches.dtype == np.uint8 and patches.shape == (int(grid.prod()), 588)
    tokens = len(result.as_numpy("input_ids"))
    assert result.as_numpy("position_ids").shape == (3, tokens)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("preprocessing", [_text("text_input", b"hi"), _text("tools", b"{")])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.timing
def test_a_cancelled_stream_frees_its_request(
    stack: Stack, client: grpc.InferenceServerClient
) -> None:
    cancelled = 'glm_requests_total{finish_reason="cancelled"}'
    before = settled(stack)[cancelled]
    arrived: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: arrived.put(result or error))
    client.async_stream_infer(
        "generation",
        [
            _text("text_input", b"hello"),
            _flag("stream", True),
            _text("sampling_parameters", b'{"ignore_eos": true, "max_tokens": 4000}'),
        ],
    )
    arrived.get(timeout=60)
    client.stop_stream(cancel_requests=True)
    wait_until(lambda: metrics(stack)["glm_requests_running"] == 0)
    wait_until(lambda: metrics(stack)[cancelled] == before + 1)
