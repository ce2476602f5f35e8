"""Options of tritonserver that operators add: any, but for those that the launcher depends on."""

import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType

_OPTION = re.compile(r"--(?P<name>[a-z0-9-]+)(=.*)?", re.DOTALL)

_RESTRICTED = "it would change who may administrate the server; the launcher restricts these APIs"
_OPENS = "it would open an API, for the loading of models as well, that asks for no key"
_NEEDED = "the launcher needs this endpoint"
_REPOSITORY = "the launcher loads all models of GLM_MODEL_REPOSITORY, and reloads one that died"
_CODE = "it would load other code than that of the server"

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "allow-client-shm": "clients would get access to the server's shared memory",
        "allow-grpc": _NEEDED,
        "allow-http": _NEEDED,
        "allow-metrics": _NEEDED,
        "allow-sagemaker": _OPENS,
        "allow-vertex-ai": _OPENS,
        "backend-directory": _CODE,
        "cache-directory": _CODE,
        "disable-auto-complete-config": "it is set",
        "exit-on-error": "the launcher reports a model that fails to load",
        "exit-timeout-secs": "set GLM_TRITON_EXIT_TIMEOUT",
        "grpc-address": "set GLM_TRITON_HOST",
        "grpc-port": "set GLM_TRITON_GRPC_PORT",
        "grpc-restricted-protocol": _RESTRICTED,
        "help": "run tritonserver itself",
        "http-address": "set GLM_TRITON_HOST",
        "http-port": "set GLM_TRITON_HTTP_PORT",
        "http-restricted-api": _RESTRICTED,
        "load-model": _REPOSITORY,
        "log-file": "the launcher reads the log, and passes it on to its own standard output",
        "log-info": "the launcher reads the progress of loading from these lines",
        "metrics-address": "set GLM_TRITON_HOST",
        "metrics-port": "set GLM_TRITON_METRICS_PORT",
        "model-control-mode": _REPOSITORY,
        "model-namespacing": _REPOSITORY,
        "model-repository": "set GLM_MODEL_REPOSITORY",
        "model-store": "set GLM_MODEL_REPOSITORY",
        "repoagent-directory": _CODE,
        "repository-poll-secs": _REPOSITORY,
        "reuse-grpc-port": "another program could take over requests",
        "reuse-http-port": "another program could take over requests",
        "strict-readiness": "a server that is not ready would get requests",
    }
)
"""Options that may not be given, and why or what to do instead."""


def split_options(text: str) -> list[str]:
    """The options in a text, which are written as in a shell.

    Raises:
        ValueError: names the option that may not be given.
    """
    words = shlex.split(text)
    for word in words:
        option = _OPTION.fullmatch(word)
        if option is None:
            raise ValueError(f"{word!r} is not of the form --name=value")
        # Triton accepts the beginning of a name as well.
        for refused, reason in REFUSED.items():
            if refused.startswith(option["name"]):
                raise ValueError(f"--{refused} may not be given: {reason}")
    return words


def is_set(options: list[str], name: str) -> bool:
    """Whether a boolean option is given as true; of several, the last counts."""
    values = [word.partition("=")[2].lower() for word in options if word.split("=")[0] == name]
    return bool(values) and values[-1] in ("true", "1", "on")
