"""Shared by the command lines ``cli`` and ``chat``: options, output, exit codes."""

import argparse
import contextlib
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from glm_client.aio import DEFAULT_TIMEOUT, DEFAULT_URL, TLS
from glm_client.errors import GLMError, InvalidRequestError, OverloadedError, UnavailableError
from glm_client.sync import Client
from glm_client.types import GenerationDelta

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

URL_VARIABLE = "GLM_TRITON_URL"
# The options for TLS, and what their files contain; their variables are those of the frontend.
_PEM_FILES = {
    "root_certificate": "the certificates by which the server's is signed; switches TLS on",
    "certificate": "your own certificate, for a server that asks for one",
    "key": "its private key",
}
# gRPC's words for certificates that do not fit, and for a server that closes a connection at once.
_HANDSHAKE = re.compile(r"failed to connect .*(handshake|verification check)", re.IGNORECASE)
_CLOSED = re.compile(r"failed to connect .*Socket closed")
EXIT_CODES = (
    "exit codes: 0 answered; 1 the server failed, is overloaded or unreachable;\n"
    "2 wrong usage, or a request that the server rejects; 130 interrupted by Ctrl-C"
)

_DIM, _NORMAL = "\033[2m", "\033[0m"


def program() -> str:
    """The name of this program, for its help."""
    return "python -m client" if sys.argv[0].endswith("__main__.py") else "glm-client"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the server and the sampling."""
    parser.add_argument(
        "--url",
        type=_host_and_port,
        default=os.environ.get(URL_VARIABLE) or DEFAULT_URL,
        metavar="HOST:PORT",
        help=f"Triton's gRPC endpoint; by default ${URL_VARIABLE}, or else {DEFAULT_URL}",
    )
    for name, content in _PEM_FILES.items():
        variable = f"GLM_TRITON_{name.upper()}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=text,
            default=os.environ.get(variable),
            metavar="PEM",
            help=f"file with {content}; by default ${variable}",
        )
    parser.add_argument("--system", type=text, metavar="TEXT", help="system message")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="maximum number of tokens to generate (512)"
    )
    parser.add_argument(
        "--temperature", type=_number, metavar="T", help="0 to 2; default: the checkpoint's"
    )
    parser.add_argument(
        "--top-p", type=_number, metavar="P", help="above 0, up to 1; default: the checkpoint's"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="limit for one whole answer (%(default)g)",
    )


@contextlib.contextmanager
def connected(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Iterator[Client]:
    """A client of the server that the options name; it is closed at the end.

    Raises:
        SystemExit: the options for TLS are wrong.
    """
    root, certificate, key = (getattr(options, name) or None for name in _PEM_FILES)
    tls = None
    try:
        if root is not None:
            tls = TLS(root_certificate=root, certificate=certificate, key=key)
        elif certificate is not None or key is not None:
            raise ValueError("certificate and key: need --root-certificate")
        client = Client(options.url, timeout=options.timeout, tls=tls)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    with client:
        yield client


def sampling_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """The given sampling parameters, by their names on the wire."""
    names = ("max_tokens", "temperature", "top_p")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def text(argument: str) -> str:
    """An argument of text.

    Raises:
        argparse.ArgumentTypeError: it is not UTF-8.
    """
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not valid UTF-8") from None
    return argument


def _host_and_port(argument: str) -> str:
    port = re.search(r"[^/]:(\d{1,5})$", argument)
    if argument.startswith(("http://", "https://")) or not port or not 0 < int(port[1]) < 65536:
        raise argparse.ArgumentTypeError(
            f"{argument!r} must be host:port of Triton's gRPC endpoint, such as {DEFAULT_URL}"
        )
    return argument


def _number(argument: str) -> float:
    value = float(argument)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{argument!r} must be a finite number")
    return value


def _seconds(argument: str) -> float:
    value = _number(argument)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{argument!r} must be more than 0")
    return value


class AnswerPrinter:
    """Prints a streamed answer to standard output, and its thought to standard error.

    Attributes:
        content: the answer so far, without its thought.
        num_tokens: tokens so far, including those of the thought.
    """

    def __init__(self, *, show_thinking: bool) -> None:
        self.content = ""
        self.num_tokens = 0
        self._show_thinking = show_thinking
        self._thinks = False
        self._cut = False
        self._start = self._first = self._last = time.monotonic()

    def feed(self, delta: GenerationDelta) -> None:
        """Print the next piece."""
        self._last = time.monotonic()
        if not self.num_tokens:
            self._first = self._last
        self.num_tokens += delta.num_output_tokens
        self._cut = delta.finish_reason == "length"
        if delta.reasoning and self._show_thinking:
            self._thinks = True
            print(dim(delta.reasoning), end="", file=sys.stderr, flush=True)
        if delta.content:
            if self._thinks:
                self._end_thought()
            self.content += delta.content
            print(delta.content, end="", flush=True)

    def finish(self) -> None:
        """Finish the output, also of an interrupted answer; call it once."""
        if self._thinks:
            self._end_thought()
        print(flush=True)

    def speed(self) -> str:
        """Number of tokens, time to first token (TTFT), tokens per second overall."""
        words = [f"{self.num_tokens} token{'s' * (self.num_tokens != 1)}"]
        if self.num_tokens:
            words.append(f"TTFT {(self._first - self._start) * 1000:.0f} ms")
            words.append(f"{self.num_tokens / (self._last - self._start):.0f} tokens/s")
        if self._cut:
            words.append("cut off by max_tokens")
        return ", ".join(words)

    def _end_thought(self) -> None:
        self._thinks = False
        print(file=sys.stderr, flush=True)


def dim(words: str) -> str:
    """Text for standard error: dimmed if that is a terminal."""
    return f"{_DIM}{words}{_NORMAL}" if sys.stderr.isatty() else words


def explain(error: GLMError, client: Client, url: str) -> str:
    """Describe an error, and what to do, in one line."""
    message = " ".join(str(error).split())
    if isinstance(error, OverloadedError):
        return f"the server is overloaded, try again later ({message})"
    if isinstance(error, UnavailableError) and _HANDSHAKE.search(message):
        return f"no TLS connection to {url} with these certificates ({message})"
    if isinstance(error, UnavailableError) and _CLOSED.search(message):
        return (
            f"{url} closed the connection: it may use TLS, or ask for another certificate"
            " (--root-certificate, --certificate, --key)"
        )
    if isinstance(error, UnavailableError):
        return why_not_ready(client, url) or message
    return message


def why_not_ready(client: Client, url: str) -> str:
    """Why the server is not ready; empty if it is."""
    if not client.server_live():
        return (
            f"cannot reach Triton's gRPC endpoint at {url}: it is not running (make serve), is"
            f" still loading, or has another address (--url, {URL_VARIABLE})"
        )
    loading = [name for name, ready in client.models_ready().items() if not ready]
    return f"the server at {url} is still loading ({', '.join(loading)})" if loading else ""


def exit_code(error: GLMError) -> int:
    """The exit code for an error of a request."""
    return EXIT_USAGE if isinstance(error, InvalidRequestError) else EXIT_ERROR


def fail(message: str, code: int) -> int:
    """Print an error in one line; returns ``code``."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def close_stdout() -> None:
    """After a BrokenPipeError, as in ``... | head -1``: silences the interpreter's last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
