"""The entry points of a server, each with the invariants that must hold for any input."""

import base64
import json
import multiprocessing
import os
import queue
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx2
import hypothesis
import jsonschema
from google.protobuf import text_format
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import InferenceServerClient, InferenceServerException, model_config_pb2

from stress.fuzz import inputs
from tools.clips import ENCODERS, clip
from tools.metrics import sums_over_versions
from tools.report import ROOT
from tools.stack import Stack, wait_until

MODEL = "glm-4.6v-flash"
# That one request may take, on a machine that does other things as well: what is no hang ends in
# less than a second on an idle one.
SECONDS = 60.0
BATCH = 50

_FIELD = r"^[a-z_]+\b[^\n]*?: "
# What Triton itself says of tensors that do not fit the model's config.
_TRITONS_OWN = re.compile(
    r"unexpected (shape|datatype|inference input|total byte size|number of|additional)|"
    r"shape mismatch|must be|expected|Invalid|inference input|unable to parse|byte size"
)


@dataclass
class Outcome:
    """What one target gave.

    Attributes:
        kinds: how often a case ended in which way.
        failures: what may not be, each with the case that shows it.
    """

    name: str
    cases: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def _explore(
    outcome: Outcome,
    strategy: st.SearchStrategy[Any],
    check: Callable[[Any], str],
    seconds: float,
    seed: int,
) -> Outcome:
    """Check cases for so long; ``check`` returns how one ended, or raises AssertionError.

    No seconds: one batch, the same for the same seed.
    """
    began = time.monotonic()

    def one(case: Any) -> None:
        outcome.cases += 1
        outcome.kinds[check(case)] += 1

    while not outcome.cases or (time.monotonic() - began < seconds and not outcome.failures):
        explored = settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(given(strategy)(one))
        try:
            hypothesis.seed(seed)(explored)()
        except AssertionError as error:
            outcome.failures.append(str(error))
        except ExceptionGroup as group:  # several different ones
            outcome.failures += map(str, group.exceptions)
        seed += 1
    outcome.seconds = time.monotonic() - began
    return outcome


def http_api(stack: Stack, seconds: float, seed: int) -> Outcome:
    """schemathesis over the whole OpenAPI document."""
    outcome = Outcome("HTTP: every operation of the OpenAPI document")
    with tempfile.TemporaryDirectory() as folder:
        report, statuses = Path(folder) / "report.json", Path(folder) / "statuses.txt"
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run"),
            f"{stack.base_url}/openapi.json",
            "--checks=not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_schema_conformance,response_headers_conformance,unsupported_method,"
            "allow_header_conformance,refusal_names_a_field",
            *(
                ("--max-time", str(round(seconds)), "--max-examples", "100000")
                if seconds
                else ("--phases", "examples,fuzzing", "--max-examples", "5")
            ),
            *("--seed", str(seed)),
            *("--generation-database", "none", "--no-color", "--warnings", "off"),
            *("--request-timeout", str(SECONDS), "--continue-on-failure"),
            *("--report", "json", "--report-json-path", str(report)),
        ]
        hooks = {
            "SCHEMATHESIS_HOOKS": "stress.fuzz.hooks",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "FUZZ_STATUSES": str(statuses),
        }
        run = subprocess.run(
            command, env=os.environ | hooks, cwd=folder, capture_output=True, text=True
        )
        if not report.exists():
            raise RuntimeError(run.stdout + run.stderr)
        result = json.loads(report.read_text())
        outcome.kinds.update(statuses.read_text().split())
    outcome.cases = result["test_cases"]["generated"]
    outcome.seconds = result["running_time"]
    outcome.failures = [run.stdout] if result["exit_code"] else []
    return outcome


def _declared(model: str) -> dict[str, tuple[str, list[int]]]:
    text = (ROOT / "model_repository" / model / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    name = model_config_pb2.DataType.Name
    return {
        tensor.name: (
            name(tensor.data_type).removeprefix("TYPE_").replace("STRING", "BYTES"),
            list(tensor.dims),
        )
        for tensor in config.input
    }


# Traces, paths, addresses: nothing of these is for clients.
_INSIDES = re.compile(r"Traceback|site-packages|\.py\b|0x[0-9a-f]{6}|/(tmp|home|root|usr|work)/")


def _kind_of_error(message: str) -> str:
    assert not _INSIDES.search(message), message
    match = re.search(r" \[([A-Z_]+)\]$", message)
    code = match[1] if match else None
    if code == "UNAVAILABLE":
        return "unavailable"
    if code == "INVALID_ARG" or code is None:
        if re.match(_FIELD, message):
            return "refused by name"
        assert code is None and _TRITONS_OWN.search(message), message
        return "refused by Triton"
    raise AssertionError(message)


def generation(stack: Stack, seconds: float, seed: int) -> Outcome:
    """Tensors to the model that clients call."""
    declared = _declared("generation")
    del declared["cancel"]  # is answered by the end of another
    responses: queue.Queue[Any] = queue.Queue()
    client = InferenceServerClient(stack.grpc_url)
    client.start_stream(lambda result, error: responses.put((result, error)))

    def check(given: dict[str, Any]) -> str:
        shown = {
            name: (t.datatype(), t.shape(), bytes(t._raw_content[:300]))
            for name, t in given.items()
        }
        client.async_stream_infer(
            "generation", list(given.values()), enable_empty_final_response=True
        )
        while True:
            try:
                result, error = responses.get(timeout=SECONDS)
            except queue.Empty:
                raise AssertionError(f"no end within {SECONDS:g} s: {shown}") from None
            if error is not None:
                try:
                    return _kind_of_error(error.message())
                except AssertionError as unexpected:
                    raise AssertionError(f"{unexpected}: {shown}") from None
            if result.get_response().parameters["triton_final_response"].bool_param:
                return "answered"

    try:
        outcome = Outcome("gRPC: tensors to generation")
        return _explore(outcome, inputs.tensors(declared), check, seconds, seed)
    finally:
        client.stop_stream()
        client.close()


def preprocessing(stack: Stack, seconds: float, seed: int) -> Outcome:
    """Tensors to stage 1 itself."""
    declared = _declared("preprocessing")
    client = InferenceServerClient(stack.grpc_url)

    def check(given: dict[str, Any]) -> str:
        try:
            client.infer("preprocessing", list(given.values()), client_timeout=SECONDS)
            return "answered"
        except InferenceServerException as error:
            shown = {
                name: (t.datatype(), t.shape(), bytes(t._raw_content[:300]))
                for name, t in given.items()
            }
            message = error.message() or ""
            assert error.status() == "StatusCode.INVALID_ARGUMENT", (
                f"{error.status()} {message}: {shown}"
            )
            if re.match(_FIELD, message):
                return "refused by name"
            assert _TRITONS_OWN.search(message), f"{message}: {shown}"
            return "refused by Triton"

    try:
        outcome = Outcome("gRPC: tensors to preprocessing")
        return _explore(outcome, inputs.tensors(declared), check, seconds, seed)
    finally:
        client.close()


def _decode(connection: Connection, kind: str) -> None:
    """In a process of its own: say of each file whether it is an image, or a video."""
    sys.path[:0] = [str(ROOT / "model_repository" / "preprocessing" / "1")]
    from glm_preprocessing.errors import InvalidInput
    from glm_preprocessing.preprocessor import Preprocessor, PromptRequest
    from glm_preprocessing.settings import PreprocessingSettings

    checkpoint = ROOT / "demo_model" / "checkpoint"
    preprocessor = Preprocessor.from_settings(
        PreprocessingSettings.from_env({"GLM_MODEL": str(checkpoint)})
    )
    while (file := connection.recv()) is not None:
        images, videos = ([file], []) if kind == "image" else ([], [file])
        try:
            preprocessor(PromptRequest(text_input="x", image=images, video=videos))
            connection.send(kind)
        except InvalidInput as error:
            is_named = str(error).startswith(f"{kind}[0]: ")
            connection.send("refused by name" if is_named else str(error))
        except Exception as error:
            connection.send(repr(error))


def _explore_files(
    kind: str, originals: Sequence[bytes], outcome: Outcome, seconds: float, seed: int
) -> Outcome:
    """Without a server around the decoder: a crash would end its process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_decode, args=(theirs, kind), daemon=True)
    process.start()

    def check(file: bytes) -> str:
        shown = base64.b64encode(file).decode()
        ours.send(file)
        assert ours.poll(SECONDS), f"no end within {SECONDS:g} s, or a crash: {shown}"
        told = str(ours.recv())
        assert told in (kind, "refused by name"), f"{told}: {shown}"
        return told

    try:
        ours.send(originals[0])
        ours.poll(120)
        ours.recv()
        return _explore(outcome, inputs.files(originals), check, seconds, seed)
    finally:
        process.kill()
        process.join()


def picture_files(stack: Stack, seconds: float, seed: int) -> Outcome:
    """Files to stage 1's decoder of pictures."""
    outcome = Outcome("files of pictures, to the decoder")
    return _explore_files("image", inputs.PICTURES, outcome, seconds, seed)


def video_files(stack: Stack, seconds: float, seed: int) -> Outcome:
    """Files to stage 1's decoder of videos."""
    outcome = Outcome("files of videos, to the decoder")
    originals = [clip(4, container=container) for container in ENCODERS]
    return _explore_files("video", originals, outcome, seconds, seed)


def _post(stack: Stack, body: dict[str, Any]) -> httpx2.Response:
    content = json.dumps(body).encode(errors="surrogatepass")
    headers = {"content-type": "application/json"}
    return httpx2.post(
        f"{stack.base_url}/v1/chat/completions",
        content=content, headers=headers, timeout=SECONDS, trust_env=False,
    )  # fmt: skip


def _assert_names_a_field(response: httpx2.Response, begins: tuple[str, ...], shown: str) -> None:
    assert response.status_code == 400, f"{response.status_code} {response.text}: {shown}"
    error = response.json()["error"]
    assert not _INSIDES.search(error["message"]), f"{error}: {shown}"
    named = (error["param"] or "").startswith(begins) or error["code"] == "invalid_json"
    assert named, f"{error}: {shown}"


def data_uris(stack: Stack, seconds: float, seed: int) -> Outcome:
    """Data URIs over HTTP, of files that are almost pictures, and texts that are almost base64."""
    uris = inputs.files().map(base64.b64encode).map(bytes.decode) | st.text(max_size=60)
    prefixes = st.sampled_from(
        ["data:image/png;base64,"] * 4 + ["data:image/png,", "data:;base64,", "data:", ""]
    )

    def check(uri: str) -> str:
        image = {"type": "image_url", "image_url": {"url": uri}}
        content = [image, {"type": "text", "text": "?"}]
        messages = [{"role": "user", "content": content}]
        response = _post(stack, {"model": MODEL, "messages": messages, "max_tokens": 1})
        if response.status_code == 200:
            return "picture"
        _assert_names_a_field(response, ("messages[0].content[0].image_url",), uri)
        return "refused by name"

    joined = st.builds(str.__add__, prefixes, uris)
    return _explore(Outcome("HTTP: pictures in data URIs"), joined, check, seconds, seed)


def _structured(stack: Stack, fields: dict[str, Any], params: tuple[str, ...]) -> str | None:
    """The text of an answer that its grammar ended; None where the token limit did."""
    messages = [{"role": "user", "content": "Write something."}]
    body = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 48,
        "chat_template_kwargs": {"enable_thinking": False},
        **fields,
    }
    response = _post(stack, body)
    if response.status_code != 200:
        _assert_names_a_field(response, params, str(fields))
        raise _Refused
    choice = response.json()["choices"][0]
    text: str = choice["message"]["content"]
    return text if choice["finish_reason"] == "stop" else None


class _Refused(Exception):
    """By a 400 that names the field."""


def schemas(stack: Stack, seconds: float, seed: int) -> Outcome:
    """JSON schemas as a response format."""

    def check(schema: Any) -> str:
        fields = {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": schema},
            }
        }
        try:
            text = _structured(stack, fields, ("response_format",))
        except _Refused:
            return "refused by name"
        if text is None:
            return "cut at the token limit"
        try:
            jsonschema.validate(json.loads(text), schema)
        except (ValueError, jsonschema.ValidationError) as error:
            raise AssertionError(f"{text!r} does not fit {schema}: {error}") from None
        except RecursionError:  # a schema that is itself, or one of several of which one is itself
            return "cannot be checked"
        return "fits"

    outcome = Outcome("HTTP: JSON schemas")
    return _explore(outcome, inputs.SCHEMAS, check, seconds, seed)


def expressions(stack: Stack, seconds: float, seed: int) -> Outcome:
    """Regular expressions that an answer is held to."""

    def check(expression: str) -> str:
        fields = {"structured_outputs": {"regex": expression}}
        try:
            text = _structured(stack, fields, ("structured_outputs",))
        except _Refused:
            return "refused by name"
        if text is None:
            return "cut at the token limit"
        return "ended"

    outcome = Outcome("HTTP: regular expressions")
    return _explore(outcome, inputs.EXPRESSIONS, check, seconds, seed)


TARGETS: dict[str, Callable[[Stack, float, int], Outcome]] = {
    target.__name__: target
    for target in (
        http_api,
        generation,
        preprocessing,
        picture_files,
        video_files,
        data_uris,
        schemas,
        expressions,
    )
}


def assert_unharmed(stack: Stack, pids: list[int]) -> None:
    """Nothing is left of what came in, and the same processes answer.

    Raises:
        AssertionError: otherwise.
    """
    for name in ("requests_running", "requests_waiting", "kv_cache_blocks_used"):

        def is_zero(name: str = name) -> bool:
            text = httpx2.get(f"{stack.metrics_url}/metrics", trust_env=False).text
            return sums_over_versions(text)[f"glm_{name}"] == 0

        try:
            wait_until(is_zero, SECONDS)
        except TimeoutError:
            raise AssertionError(f"glm_{name} is not 0") from None
    response = _post(stack, {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
    assert response.status_code == 200, response.text
    assert processes(stack) == pids, "a process has died"


def processes(stack: Stack) -> list[int]:
    """Of the server's parts."""
    programs = ("triton_python_backend_stub", "bin/tritonserver", "glm_frontend")
    return sorted(pid for program in programs for pid in stack.pids(program))
