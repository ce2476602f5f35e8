import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import triton
from launcher.errors import LaunchError
from launcher.settings import LauncherSettings
from launcher.triton import (
    LoadProgress,
    Triton,
    assemble_backends,
    find_triton,
    libpython_folder,
    libpython_name,
    line_level,
    loaded_libraries,
    missing_libraries,
    models_in,
)
from unit.paths import ROOT

ENGINE = ROOT / "model_repository/generation/1"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The folder pytriton/tritonserver of a wheel that has a stub for this Python only."""
    root = tmp_path / "tritonserver"
    stub = root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    backend = root / "backends" / "python" / "libtriton_python.so"
    for file in (stub, backend, backend.parent / "__pycache__" / "x.pyc"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return root


def test_backend_folder_has_the_backend_and_the_stub(wheel: Path, tmp_path: Path) -> None:
    assemble_backends(wheel, tmp_path / "backends")
    names = {path.name for path in (tmp_path / "backends" / "python").iterdir()}
    assert names == {"libtriton_python.so", "triton_python_backend_stub"}


def test_python_without_a_stub_is_refused(wheel: Path, tmp_path: Path) -> None:
    (wheel / "python_backend_stubs" / PYTHON).rename(wheel / "python_backend_stubs" / "2.7")
    with pytest.raises(LaunchError, match=f"no Python {PYTHON} backend"):
        assemble_backends(wheel, tmp_path / "backends")


def test_container_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.write_text("")
    monkeypatch.setattr(triton, "CONTAINER", tmp_path)
    found = find_triton(tmp_path / "run")
    assert found.binary == binary
    assert found.backends is None
    assert found.environment == triton.MEMORY


def test_no_triton_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(triton, "CONTAINER", tmp_path / "none")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LaunchError, match="nvidia-pytriton is not installed"):
        find_triton(tmp_path / "run")


def test_the_installed_wheel_can_load_all_its_libraries(tmp_path: Path) -> None:
    found = find_triton(tmp_path)
    libraries = found.environment["LD_LIBRARY_PATH"].split(":")
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    loaded = loaded_libraries(stub, map(Path, libraries))
    assert loaded[libpython_name()] is not None
    assert None not in loaded.values()
    assert found.environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_own_libpython_is_put_on_the_path_when_another_would_be_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, system = tmp_path / "own" / libpython_name(), tmp_path / "system" / libpython_name()
    for file in (own, system):
        file.parent.mkdir()
        file.write_text("")
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: str(own.parent))
    assert libpython_folder({libpython_name(): system}) == [own.parent]
    assert libpython_folder({libpython_name(): None}) == [own.parent]
    assert libpython_folder({libpython_name(): own}) == []


def test_python_without_own_libpython_uses_the_system_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: None)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    assert libpython_folder({libpython_name(): Path("/usr/lib/libpython.so")}) == []


def test_missing_libpython_names_library_and_package() -> None:
    message = missing_libraries([libpython_name(), "libz.so.1", "libunheard.so.3"])
    assert f"Triton needs {libpython_name()}, libunheard.so.3, libz.so.1" in message
    assert f"apt install libpython{PYTHON} zlib1g" in message


def test_command_binds_and_restricts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLM_TRITON_GRPC_PORT", "9001")
    monkeypatch.setenv("GLM_MODEL", "zai-org/GLM-4.6V-Flash")
    command = Triton(Path("tritonserver"), "", tmp_path).command(LauncherSettings(), admin_key="k")
    assert command[0] == "tritonserver"
    assert "--grpc-port=9001" in command
    assert {f"--{port}-address=127.0.0.1" for port in ("http", "grpc", "metrics")} <= {*command}
    for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
        (apis,) = (word for word in command if word.startswith(flag))
        assert apis.endswith(":glm-admin-key=k")
        assert "model-repository" in apis and "shared-memory" in apis
        assert not {"inference", "health", "statistics"} & {
            *apis.split("=")[1].split(":")[0].split(",")
        }
    assert f"--backend-directory={tmp_path}" in command


def test_options_of_the_operator_come_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLM_MODEL", "zai-org/GLM-4.6V-Flash")
    monkeypatch.setenv("GLM_TRITON_OPTIONS", "--rate-limit=off '--log-format=default'")
    command = Triton(Path("tritonserver"), "", tmp_path).command(LauncherSettings(), admin_key="k")
    assert command[-2:] == ["--rate-limit=off", "--log-format=default"]


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ('I1122 21:40:24.484673 7397 model_lifecycle.cc:839] "loaded"', logging.DEBUG),
        ("I1122 21:40:24.484673 7397 server.cc:604]", logging.DEBUG),
        ('I1122 21:40:24.482603 7397 model.py:5] "hello"', logging.INFO),
        ('W1122 21:40:24.486352 7397 metrics.cc:770] "careful"', logging.WARNING),
        ('E1122 21:40:24.486352 7397 backend_model.cc:692] "broken"', logging.ERROR),
        ('W1122 21:40:24.486352 7397 metrics.cc:798] "DCGM unable to start: x"', logging.DEBUG),
        ("+-------+---------+", logging.DEBUG),
        ("| Model | Version |", logging.DEBUG),
        ("", logging.DEBUG),
        ("printed by a model", logging.INFO),
        ('2026-12-01T11:43:26Z I 7 server.cc:604] "x"', logging.DEBUG),
        ('2026-12-01T11:43:26Z I 7 model.py:5] "x"', logging.INFO),
        ('2026-12-01T11:43:26Z E 7 server.cc:241] "x"', logging.ERROR),
    ],
)
def test_line_level(line: str, level: int) -> None:
    assert line_level(line) == level


def test_load_progress_follows_the_log() -> None:
    progress = LoadProgress(["preprocessing", "generation"])
    assert str(progress) == "generation waiting, preprocessing waiting"
    progress.read('I1122 21:40:24.29 7 model_lifecycle.cc:472] "loading: generation:1"')
    progress.read(
        "I1122 21:40:24.48 7 model_lifecycle.cc:839] \"successfully loaded 'generation'\""
    )
    progress.read("I1122 21:40:24.48 7 model_lifecycle.cc:839] \"successfully loaded 'other'\"")
    assert str(progress) == "generation ready, preprocessing waiting"
    assert not progress.failures


def test_how_much_of_the_weights_is_there_is_told() -> None:
    progress = LoadProgress(["generation"])
    progress.read("Loading weights:  34%|###4      | 33/96 [00:02<00:04, 15.24it/s]")
    assert str(progress) == "generation waiting, 34 % of the weights"


def test_load_failure_is_told_without_the_traceback() -> None:
    progress = LoadProgress(["generation"])
    progress.read(
        "E1122 21:51:22.208275 10152 model_lifecycle.cc:642] \"failed to load 'generation' "
        r"version 1: Internal: ValueError: GLM_DTYPE: first\nsecond\n\nAt:\n  /m/model.py(3): x\n"
        '"'
    )
    assert str(progress) == "generation failed"
    assert progress.failures == {"generation": "ValueError: GLM_DTYPE: first\nsecond"}


def test_models_are_the_folders_with_a_config(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no model in"):
        models_in(tmp_path)
    for name in ("preprocessing", "generation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text("")
    (tmp_path / "notes").mkdir()
    assert models_in(tmp_path) == ["generation", "preprocessing"]


MANY_SHAPES = """
import re, torch
from glm_engine.linear import PackedLinear

def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

layers = [PackedLinear(torch.ones(out, 192)) for out in (192, 384, 512)]
before = resident()
for rows in range(1, 401):
    x = torch.ones(rows, 192)
    for layer in layers:
        layer(x)
print(resident() - before)
"""


@pytest.mark.slow
def test_matrix_products_of_many_shapes_do_not_fill_the_memory() -> None:
    grown = []
    for settings in ({}, triton.MEMORY):
        environment = {**os.environ, "PYTHONPATH": str(ENGINE), **settings}
        run = [sys.executable, "-c", MANY_SHAPES]
        grown.append(int(subprocess.check_output(run, env=environment)))
    assert grown[1] < grown[0] / 2
