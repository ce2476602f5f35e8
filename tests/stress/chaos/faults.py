"""Faults on demand, in a copy of the model repository; the models themselves know nothing of them.

:func:`copy_repository` puts this file in the place of each model's ``model.py``, which becomes
``own_model.py``. Inside Triton it then waits for files in the folder ``GLM_CHAOS``: a file's name
is the fault, and it is removed when the fault begins.
"""

import ctypes
import os
import shutil
import time
from pathlib import Path
from typing import Any

# While this file is there, a stage does not begin to load; and while this one is, steps are slow.
HOLD_LOADING, SLOW_STEPS = "hold-loading", "slow-steps"
SLOW_STEP_SECONDS = 0.1
# The request id with which a request has not the memory to run, as long as ``out-of-memory`` is
# there.
TOO_LARGE = "chaos-too-large"


def copy_repository(source: Path, target: Path) -> Path:
    """A copy of the model repository with faults; returns ``target``.

    What is compiled already goes with it, so that the copy starts as fast as the original.
    """
    # Not what another server is about to write there, under a name for the time being.
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.tmp.*", "*.pyc.*"))
    for model in target.glob("*/1/model.py"):
        model.rename(model.with_name("own_model.py"))
        shutil.copy(__file__, model)
    return target


def _due(folder: Path, fault: str) -> bool:
    try:
        (folder / fault).unlink()
    except FileNotFoundError:
        return False
    return True


def _hang_with_the_lock_held() -> None:
    # PyDLL keeps the interpreter's lock: no thread of this process runs any more.
    ctypes.PyDLL(None).sleep(3600)


def _install(folder: Path, step_seconds: float) -> None:
    """Put the faults around what this stage does."""
    if Path(__file__).parents[1].name == "preprocessing":
        from glm_preprocessing.preprocessor import Preprocessor

        prepare = Preprocessor.__call__

        def prepare_with_faults(self: Any, *arguments: Any) -> Any:
            if _due(folder, "stuck-preprocessing"):
                _hang_with_the_lock_held()
            return prepare(self, *arguments)

        Preprocessor.__call__ = prepare_with_faults  # type: ignore[assignment, method-assign]
        return

    import torch

    from glm_engine.model_runner import ModelRunner

    run, check = ModelRunner.run, ModelRunner.check_device

    def run_with_faults(self: Any, step: Any) -> Any:
        if _due(folder, "stuck-step"):
            _hang_with_the_lock_held()
        too_large = any(part.request.request_id == TOO_LARGE for part in step)
        if too_large and (folder / "out-of-memory").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if (folder / "device-gone").exists():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(SLOW_STEP_SECONDS if (folder / SLOW_STEPS).exists() else step_seconds)
        return run(self, step)

    def check_with_faults(self: Any) -> None:
        if _due(folder, "device-gone"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        check(self)

    ModelRunner.run = run_with_faults  # type: ignore[method-assign]
    ModelRunner.check_device = check_with_faults  # type: ignore[method-assign]


if "GLM_CHAOS" in os.environ:
    while (Path(os.environ["GLM_CHAOS"]) / HOLD_LOADING).exists():
        time.sleep(0.05)

    from own_model import TritonPythonModel  # type: ignore[import-not-found]  # noqa: F401

    _install(Path(os.environ["GLM_CHAOS"]), float(os.environ.get("GLM_CHAOS_STEP_SECONDS", "0")))
