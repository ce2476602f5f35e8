"""Ask about pictures from the command line, and print the answer as it comes.

Exit codes: 0 answered, 1 the server refused or failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glm_client.aio import DEFAULT_TIMEOUT, DEFAULT_URL
from glm_client.errors import GLMError
from glm_client.sync import Client
from glm_client.thinking import ThinkingSplitter, ThinkingText
from glm_client.types import GenerationRequest

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

_DIM, _NORMAL = "\033[2m", "\033[0m"


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a question may be longer than a name, or hold what none holds
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Raises:
        SystemExit: wrong usage, or ``--help``.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.pictures and _is_file(options.question):
        parser.error(f"the question about {options.question} is missing")
    try:
        pictures = [_read(path) for path in options.pictures]
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}", EXIT_USAGE)
    try:
        with Client(options.url, timeout=options.timeout) as client:
            _print_answer(client, _request(options, pictures), show_thinking=options.show_thinking)
    except GLMError as error:
        return _fail(str(error), EXIT_ERROR)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as in `... | head -1`; let the interpreter's last flush pass quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="Ask GLM-4.6V about pictures. The answer goes to standard output.",
        epilog='example: python -m client picture.png "What is in this image?"',
    )
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="image files, in order")
    parser.add_argument("question", metavar="QUESTION", help="what to ask; the last argument")
    parser.add_argument("--url", default=DEFAULT_URL, help="Triton's gRPC endpoint (%(default)s)")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens to write (512)")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0 to 2; the checkpoint's own by default"
    )
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="above 0, to 1; the checkpoint's own by default"
    )
    thinking = parser.add_mutually_exclusive_group()
    thinking.add_argument("--no-thinking", action="store_true", help="answer without a thought")
    thinking.add_argument(
        "--show-thinking", action="store_true", help="print the thought to standard error"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="limit for the whole answer (%(default)g)",
    )
    return parser


def _request(options: argparse.Namespace, pictures: list[bytes]) -> GenerationRequest:
    content: list[dict[str, Any]] = [{"type": "image"} for _ in pictures]
    content.append({"type": "text", "text": options.question})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": options.system})
    sampling = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
    }
    return GenerationRequest(
        messages=messages,
        images=pictures,
        chat_template_kwargs={"enable_thinking": False} if options.no_thinking else None,
        sampling_parameters={key: value for key, value in sampling.items() if value is not None},
    )


def _print_answer(client: Client, request: GenerationRequest, *, show_thinking: bool) -> None:
    splitter = ThinkingSplitter()
    with client.stream(request) as deltas:
        for delta in deltas:
            _print_piece(splitter.feed(delta.text), show_thinking=show_thinking)
    _print_piece(splitter.finish(), show_thinking=show_thinking)
    print(flush=True)


def _print_piece(piece: ThinkingText, *, show_thinking: bool) -> None:
    if piece.reasoning and show_thinking:
        dim, normal = (_DIM, _NORMAL) if sys.stderr.isatty() else ("", "")
        print(f"{dim}{piece.reasoning}{normal}", end="", file=sys.stderr, flush=True)
    if piece.content:
        print(piece.content, end="", flush=True)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
