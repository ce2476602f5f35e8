"""Asks about pictures from the command line, and streams the answer.

With ``chat`` as the first argument it starts a conversation instead: see :mod:`glm_client.chat`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glm_client import chat
from glm_client.errors import GLMError
from glm_client.sync import Client
from glm_client.terminal import (
    EXIT_CODES,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    AnswerPrinter,
    add_options,
    close_stdout,
    connected,
    exit_code,
    explain,
    fail,
    program,
    sampling_parameters,
    text,
)
from glm_client.types import GenerationRequest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Raises:
        SystemExit: wrong usage, or ``--help``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["chat"]:
            return chat.main(arguments[1:])
        return _ask(arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        close_stdout()
        return EXIT_ERROR


def _ask(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.pictures and _is_file(options.question):
        parser.error(f"the question about {options.question} is missing")
    try:
        pictures = [Path(path).read_bytes() for path in options.pictures]
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}", EXIT_USAGE)
    with connected(parser, options) as client:
        try:
            _print_answer(client, _request(options, pictures), show_thinking=options.show_thinking)
        except GLMError as error:
            return fail(explain(error, client, options.url), exit_code(error))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program(),
        usage="%(prog)s [options] [PICTURE ...] QUESTION\n"
        "       %(prog)s chat [options] [PICTURE ...]",
        description="Ask GLM-4.6V about pictures. The answer goes to standard output.\n"
        "`%(prog)s chat` starts a conversation; see `%(prog)s chat --help`.",
        epilog=f"""examples:
  %(prog)s picture.png "What is in this image?"
  %(prog)s --show-thinking before.png after.png "What has changed?"
  %(prog)s --url gpu-host:8001 --temperature 0 "Who are you?"
  %(prog)s chat picture.png

{EXIT_CODES}""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="image files, in order")
    parser.add_argument(
        "question", type=text, metavar="QUESTION", help="what to ask; the last argument"
    )
    add_options(parser)
    thinking = parser.add_mutually_exclusive_group()
    thinking.add_argument("--no-thinking", action="store_true", help="answer without thinking")
    thinking.add_argument(
        "--show-thinking", action="store_true", help="print the thought to standard error"
    )
    return parser


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).is_file()
    except (OSError, ValueError):  # a question may be too long or invalid as a name
        return False


def _request(options: argparse.Namespace, pictures: list[bytes]) -> GenerationRequest:
    content: list[dict[str, Any]] = [{"type": "image"} for _ in pictures]
    content.append({"type": "text", "text": options.question})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": options.system})
    return GenerationRequest(
        return_events=True,
        messages=messages,
        images=pictures,
        chat_template_kwargs={"enable_thinking": False} if options.no_thinking else None,
        sampling_parameters=sampling_parameters(options),
    )


def _print_answer(client: Client, request: GenerationRequest, *, show_thinking: bool) -> None:
    printer = AnswerPrinter(show_thinking=show_thinking)
    with client.stream(request) as deltas:
        for delta in deltas:
            printer.feed(delta)
    printer.finish()
