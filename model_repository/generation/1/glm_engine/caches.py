"""The folder for compiled code, which is kept from one start to the next.

Nothing is written into the model repository: it may be read-only, and Triton's poll mode takes a
new file in a model's folder for a new model.
"""

import os
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLM_CACHE_DIR"
# Others must not be able to change what is executed here.
_PRIVATE, _WRITABLE_BY_OTHERS = 0o700, 0o022


def cache_folder(env: Mapping[str, str] = os.environ) -> Path | None:
    """The folder, made if need be; without ``GLM_CACHE_DIR`` it is ``~/.cache/glm-triton``.

    Returns None where that default cannot be used: code is then compiled at every start.

    Raises:
        ValueError: ``GLM_CACHE_DIR`` cannot be used, or is not safe; the message says why.
    """
    given = env.get(VARIABLE, "").strip()
    try:
        folder = Path(given).expanduser() if given else _default()
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows this user's home
        problem = getattr(error, "strerror", None) or str(error)
    else:
        if status.st_uid != os.geteuid():
            problem = "it belongs to another user, who could change what is executed"
        elif status.st_mode & _WRITABLE_BY_OTHERS:
            problem = "others may write to it, and could change what is executed (chmod go-w)"
        elif not os.access(folder, os.W_OK | os.X_OK):
            problem = "it is not writable"
        else:
            return folder.resolve()
    if given:
        raise ValueError(f"{VARIABLE}={given!r} cannot be used: {problem}")
    return None


def usable_cache_folder(name: str) -> Path | None:
    """A folder in the cache folder, for modules that need it when they are imported.

    None where there is none; :class:`glm_engine.config.EngineConfig` raises the error.
    """
    try:
        folder = cache_folder()
    except ValueError:
        return None
    return folder and folder / name


def _default() -> Path:
    # Relative ones are to be ignored (XDG Base Directory Specification).
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "glm-triton"
