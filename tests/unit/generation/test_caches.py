"""The folder for compiled code: which it is, and that nobody else may write to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glm_engine.caches import cache_folder
from glm_engine.config import EngineConfig
from unit.paths import ROOT

GENERATION = ROOT / "model_repository" / "generation" / "1"


def test_the_folder_is_made_for_this_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert cache_folder({"GLM_CACHE_DIR": str(folder)}) == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_default_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder({}) == tmp_path / ".cache" / "glm-triton"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder({}) == tmp_path / ".cache" / "glm-triton"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder({}) == tmp_path / "xdg" / "glm-triton"


@pytest.mark.parametrize(
    ("mode", "owner", "reason"),
    [
        (0o777, None, "others may write to it"),
        (0o770, None, "others may write to it"),
        (0o700, 12345, "it belongs to another user"),
    ],
)
def test_a_folder_that_others_can_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int | None, reason: str
) -> None:
    folder = tmp_path / "glm-triton"
    folder.mkdir()
    folder.chmod(mode)
    if owner is not None:
        monkeypatch.setattr(os, "geteuid", lambda: owner)
    with pytest.raises(ValueError, match=rf"GLM_CACHE_DIR='.*' cannot be used: {reason}"):
        EngineConfig.from_env({"GLM_MODEL": "x", "GLM_CACHE_DIR": str(folder)})
    # Nobody has asked for the default, which is left out instead.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineConfig.from_env({"GLM_MODEL": "x"}).cache_dir is None


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with pytest.raises(ValueError, match=r"GLM_CACHE_DIR=.* cannot be used: "):
            cache_folder({"GLM_CACHE_DIR": str(path)})


COMPILE = """
import sys
sys.dont_write_bytecode = True
import numpy as np
from glm_engine.cpu_kernels import norm
x = np.ones((2, 4), np.float32)
norm(x, x[0], np.float32(1e-5), x)
print(sum(norm.stats.cache_hits.values()))
"""


@pytest.mark.slow
def test_copies_of_the_source_share_compiled_code_and_nothing_is_written_beside_it(
    tmp_path: Path,
) -> None:
    hits = []
    for name in ("first", "second"):
        copy = tmp_path / name / "glm_engine"
        copy.mkdir(parents=True)
        for file in ("__init__.py", "caches.py", "cpu_kernels.py"):
            (copy / file).write_bytes((GENERATION / "glm_engine" / file).read_bytes())
        environment = os.environ | {
            "PYTHONPATH": str(copy.parent),
            "GLM_CACHE_DIR": str(tmp_path / "cache"),
        }
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        hits.append(int(done.stdout))
        assert {path.name for path in copy.iterdir()} == {
            "__init__.py",
            "caches.py",
            "cpu_kernels.py",
        }
    assert hits == [0, 1]
    # Without a folder it is compiled, and kept nowhere.
    environment["GLM_CACHE_DIR"] = str(tmp_path / "first" / "glm_engine" / "caches.py")
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
