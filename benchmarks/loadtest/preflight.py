"""Is the server there, and does it take our requests? Better asked before than seen in a report."""

import argparse
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence

from locust import User

from benchmarks.loadtest.users import GrpcUser

TIMEOUT = 10.0


def problem(user_classes: Sequence[type[User]], options: argparse.Namespace) -> str:
    """What stands in the way of a load, as a sentence; empty when nothing does."""
    if GrpcUser in user_classes and (reason := _cannot_connect(options.grpc)):
        return (
            f"No Triton at {options.grpc} ({reason}). Start one with `make serve`, or give --grpc."
        )
    if user_classes == [GrpcUser]:
        return ""
    host = (options.host or "").rstrip("/")
    try:
        _get(f"{host}/v1/health", options.api_key)
        models = _get(f"{host}/v1/models", options.api_key)
    except urllib.error.HTTPError as error:
        text = error.read(500).decode(errors="replace")
        hint = " Give a key of this server in GLM_API_KEY." if error.code == 401 else ""
        return f"{error.url} answers {error.code}: {text}{hint}"
    except (OSError, ValueError) as error:
        return f"No server at {host} ({error}). Start one with `make serve`, or give --host."
    names = [model["id"] for model in models["data"]]
    if options.model not in names:
        return f"--model: {host} has no {options.model!r}, but {', '.join(names)}"
    return ""


def _get(url: str, key: str) -> dict[str, list[dict[str, str]]]:
    if not url.startswith(("http://", "https://")):
        raise ValueError("--host has to begin with http:// or https://")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # nosec B310
        answer: dict[str, list[dict[str, str]]] = json.load(response)
    return answer


def _cannot_connect(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), TIMEOUT).close()
    except (OSError, ValueError) as error:
        return str(error)
    return ""
