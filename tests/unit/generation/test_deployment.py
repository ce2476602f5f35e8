"""What stage 2 reads of its place in Triton: its parameters, and the server's command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glm_triton.deployment import is_listening, loads_at_start, preprocessing_model


def _config(**parameters: str) -> str:
    return json.dumps(
        {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    )


def test_the_name_of_stage_one() -> None:
    assert preprocessing_model(_config(preprocessing_model=" prompts ")) == "prompts"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{}", "the parameter 'preprocessing_model' names no model"),
        (_config(preprocessing_model=""), "names no model"),
        (_config(preprocessing="prompts"), "there is no parameter 'preprocessing', only"),
    ],
)
def test_a_missing_name_and_a_misspelt_parameter_are_refused(config: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preprocessing_model(config)


EXPLICIT = ("--model-control-mode=explicit",)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), True),
        (("--model-control-mode=poll",), True),
        (EXPLICIT, False),
        ((*EXPLICIT, "--load-model=generation"), False),
        ((*EXPLICIT, "--load-model=generation", "--load-model=prompts"), True),
        ((*EXPLICIT, "--load-model=*"), True),
        (("--model-control-mode", "explicit", "--load-model", "prompts"), True),
        (("--model-control-mode", "explicit", "--load-model", "other"), False),
        (("--model-repository=s3://bucket/models",), None),
    ],
)
@pytest.mark.parametrize("repository", ["{}/models", "models"])
def test_the_command_line_says_what_is_loaded(
    tmp_path: Path, repository: str, options: tuple[str, ...], expected: Any
) -> None:
    (tmp_path / "models" / "prompts").mkdir(parents=True)
    place = f"--model-repository={repository.format(tmp_path)}"
    command = ["/opt/tritonserver/bin/tritonserver", place, *options]
    assert loads_at_start("prompts", command, tmp_path) is expected


def test_what_is_not_in_any_repository_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "b" / "prompts").mkdir(parents=True)
    command = ["tritonserver", "--model-repository=a", "--model-repository=b"]
    assert loads_at_start("prompts", command, tmp_path) is True
    assert loads_at_start("others", command, tmp_path) is False


@pytest.mark.parametrize("command", [[], ["python3", "server.py"]])
def test_a_server_that_is_no_tritonserver_says_nothing(command: list[str], tmp_path: Path) -> None:
    assert loads_at_start("prompts", command, tmp_path) is None


LISTEN = """
import socket, sys
server = socket.socket()
server.bind(("127.0.0.1", 0))
for line in sys.stdin:
    server.listen()
    print(flush=True)
"""


def test_a_server_has_started_when_it_listens() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert not is_listening(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert is_listening(process.pid)
        process.stdin.close()
    assert not is_listening(process.pid)
