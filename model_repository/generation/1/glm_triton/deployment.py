"""How the operator has set up this model in Triton. Independent of Triton.

That is: config.pbtxt's parameters and tritonserver's command line.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

# The parameter of config.pbtxt that names the model of stage 1.
PARAMETER = "preprocessing_model"
_SERVER = "tritonserver"
_LISTENS = "0A"
_REMOTE = ("s3://", "gs://", "as://")


def preprocessing_model(model_config: str) -> str:
    """The name of stage 1's model, from the parameters of config.pbtxt.

    Args:
        model_config: JSON, as Triton gives it to a model.

    Raises:
        ValueError: it is missing or empty, or there is another parameter, perhaps a misspelt one.
    """
    parameters = json.loads(model_config).get("parameters", {})
    if unknown := sorted(parameters.keys() - {PARAMETER}):
        raise ValueError(f"config.pbtxt: there is no parameter {unknown[0]!r}, only {PARAMETER!r}")
    name: str = parameters.get(PARAMETER, {}).get("string_value", "").strip()
    if not name:
        raise ValueError(f"config.pbtxt: the parameter {PARAMETER!r} names no model")
    return name


def has_started() -> bool:
    """Whether the tritonserver that starts this process has loaded its first models.

    It listens on its ports from then on.
    """
    return _program(_command_line(os.getppid())[0]) == _SERVER and is_listening(os.getppid())


def is_listening(pid: int) -> bool:
    """Whether a process has a TCP socket that listens; False where that is not shown."""
    process = Path("/proc", str(pid))
    try:
        sockets = {(process / "fd" / name).readlink().name for name in os.listdir(process / "fd")}
        tables = [(process / "net" / name).read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return False
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    # proc_pid_net(5): the fourth column is the state, the tenth the inode.
    return any(row[3] == _LISTENS and f"socket:[{row[9]}]" in sockets for row in rows)


def is_loaded_at_start(name: str) -> bool | None:
    """Whether the server that starts this process loads that model, too.

    While it starts, Triton tells no model which others it has or will have; its command line does.

    Returns None where the command line does not say.
    """
    return loads_at_start(name, *_command_line(os.getppid()))


def loads_at_start(name: str, command: Sequence[str], folder: Path) -> bool | None:
    """The same for a command line, and the folder from which its relative paths count."""
    if _program(command) != _SERVER:
        return None
    options = list(_options(command[1:]))
    repositories = [v for o, v in options if o in ("--model-repository", "--model-store")]
    if any(repository.startswith(_REMOTE) for repository in repositories):
        return None
    is_there = any((folder / repository / name).is_dir() for repository in repositories)
    if ("--model-control-mode", "explicit") not in options:
        return is_there
    return is_there and any(("--load-model", model) in options for model in (name, "*"))


def _program(command: Sequence[str]) -> str:
    return Path(command[0]).name if command else ""


def _options(arguments: Sequence[str]) -> Iterable[tuple[str, str]]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, has_value, value = argument.partition("=")
        yield option, value if has_value else following


def _command_line(pid: int) -> tuple[list[str], Path]:
    """Command line and working directory of a process; an empty one where it is not shown."""
    process = Path("/proc", str(pid))
    try:
        command = (process / "cmdline").read_bytes().decode().rstrip("\0").split("\0")
        return command, (process / "cwd").readlink()
    except (OSError, UnicodeDecodeError):
        return [], Path()
