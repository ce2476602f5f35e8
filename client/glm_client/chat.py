"""A conversation on the command line: pictures, history, streaming, Ctrl-C to stop an answer.

Answers go to standard output; thoughts, speeds, notes and errors to standard error. If standard
input is not a terminal, each of its lines is a question or a command.
"""

import argparse
import glob
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from glm_client.conversation import Conversation, ConversationError
from glm_client.errors import GLMError
from glm_client.pictures import PictureError, find_pictures, is_file, read_picture
from glm_client.sync import Client
from glm_client.terminal import (
    EXIT_CODES,
    EXIT_ERROR,
    EXIT_USAGE,
    AnswerPrinter,
    add_options,
    connected,
    dim,
    exit_code,
    explain,
    fail,
    program,
    sampling_parameters,
    text,
    why_not_ready,
)

_COMMANDS = {
    "/image": ("PATH-OR-URL ...", "attach pictures to the next question; alone: list them"),
    "/system": ("[TEXT]", "set the system message; alone: remove it"),
    "/think": ("on|off", "whether the model thinks before it answers"),
    "/params": ("[NAME=VALUE ...]", "sampling parameters, such as temperature=0 max_tokens=100;"),
    "/retry": ("", "ask the last question again"),
    "/clear": ("", "forget all turns and attached pictures"),
    "/save": ("FILE", "write the conversation as JSON, in the form of OpenAI's messages"),
    "/load": ("FILE", "continue a saved conversation instead of this one"),
    "/help": ("", "show this list"),
    "/quit": ("", "leave; same as Ctrl-D"),
}
_JSON = json.JSONDecoder(parse_constant=str)  # NaN cannot be sent as JSON
_MORE_HELP = {"/params": "NAME= restores the default; alone: show them"}


class _CommandError(Exception):
    """Wrong usage of a command; the message says how to use it."""


class _Leave(Exception):
    """The user wants to leave."""


def main(arguments: Sequence[str]) -> int:
    """Run ``chat`` with these arguments; returns the exit code.

    Raises:
        SystemExit: wrong usage, or ``--help``.
        KeyboardInterrupt: Ctrl-C in non-interactive use.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    interactive = options.prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    with connected(parser, options) as client:
        chat = _Chat(client, options, interactive=interactive)
        try:
            if options.load is not None:
                chat.run(f"/load {shlex.quote(options.load)}")
            if options.system is not None:
                chat.conversation.system = options.system
            chat.attach(options.pictures)
            if options.prompt is not None:
                chat.question(options.prompt)
                return chat.exit_code
        except (_CommandError, PictureError) as error:
            return fail(str(error), EXIT_USAGE)
        if interactive:
            return _talk(chat, why_not_ready(client, options.url))
        _read_pipe(chat)
        return chat.exit_code


def _talk(chat: "_Chat", problem: str) -> int:
    """Read and run lines until the user leaves."""
    if problem:
        return fail(problem, EXIT_ERROR)
    _set_up_readline()
    _note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves")
    while True:
        try:
            chat.run(input(chat.prompt()))
        except KeyboardInterrupt:
            print()
            _note("Ctrl-D leaves")
        except (EOFError, _Leave):
            print()
            return 0
        except (_CommandError, PictureError) as error:
            fail(str(error), EXIT_USAGE)


def _read_pipe(chat: "_Chat") -> None:
    for line in sys.stdin:
        try:
            chat.run(line)
        except _Leave:
            return
        except (_CommandError, PictureError) as error:
            chat.exit_code = fail(str(error), EXIT_USAGE)


class _Chat:
    """Executes the typed lines.

    Args:
        interactive: whether a user can type another line after a failure.

    Attributes:
        conversation: the turns so far.
        exit_code: of the last failure; 0 if there was none.
    """

    def __init__(self, client: Client, options: argparse.Namespace, *, interactive: bool) -> None:
        self.conversation = Conversation(options.system)
        self.exit_code = 0
        self._client = client
        self._url: str = options.url
        self._interactive = interactive
        self._quiet: bool = options.quiet
        self._thinking = not options.no_thinking
        self._sampling = sampling_parameters(options)
        self._pictures: list[tuple[str, str]] = []  # names and data URIs
        self._commands: dict[str, Callable[[str], None]] = {
            name: getattr(self, name.replace("/", "_")) for name in _COMMANDS
        }

    def prompt(self) -> str:
        """The prompt for the next line."""
        return f"[{_pictures(len(self._pictures))}] > " if self._pictures else "> "

    def run(self, line: str) -> None:
        """Execute a line, which is a command or a question.

        Raises:
            _CommandError, PictureError: it failed.
            _Leave: on /quit.
        """
        line = line.strip()
        name, _, rest = line.partition(" ")
        if name in self._commands:
            if rest and not _COMMANDS[name][0]:
                raise _CommandError(f"{name}: takes no argument")
            self._commands[name](rest.strip())
        elif line.startswith("/") and "/" not in name[1:] and not is_file(name):
            raise _CommandError(f"{name}: unknown command; /help lists all commands")
        elif line:
            self.question(line)

    def question(self, line: str) -> None:
        """Ask a question with the pictures named in it; without text, keep them for the next."""
        words, paths, missing = find_pictures(line)
        self.attach(paths)
        for name in missing:
            _note(f"{name}: no such file; sent as text")
        if words:
            self.conversation.ask(words, [uri for _, uri in self._pictures])
            self._pictures.clear()
            self._answer()
        elif paths:
            self._image("")

    def attach(self, sources: Sequence[str]) -> None:
        """Attach pictures to the next question: all of them, or none if one cannot be read."""
        self._pictures += [(source, read_picture(source)) for source in sources]

    def _answer(self) -> None:
        """Stream the answer to the last question."""
        request = self.conversation.request(
            thinking=self._thinking, sampling_parameters=self._sampling
        )
        printer = AnswerPrinter(show_thinking=not self._quiet)
        try:
            with self._client.stream(request) as deltas:
                for delta in deltas:
                    printer.feed(delta)
        except KeyboardInterrupt:  # leaving `with` has cancelled the request
            printer.finish()
            if not self._interactive:
                raise
            _note(f"stopped: {printer.speed()}")
        except GLMError as error:
            if printer.num_tokens:
                printer.finish()
            self.exit_code = fail(explain(error, self._client, self._url), exit_code(error))
            if self._interactive:
                _note("the question was not answered; /retry asks it again")
            return
        else:
            printer.finish()
            if not self._quiet:
                _note(printer.speed())
        if printer.content:
            self.conversation.answer(printer.content)
        else:
            _note("no answer was generated; the question is not kept in the history")

    def _image(self, rest: str) -> None:
        self.attach([rest] if is_file(rest) else _split(rest))  # a name may contain spaces
        if self._pictures:
            _note(f"attached to the next question: {', '.join(name for name, _ in self._pictures)}")
        else:
            _note("no pictures attached; usage: /image PATH-OR-URL ...")

    def _system(self, rest: str) -> None:
        self.conversation.system = rest or None
        _note("system message set" if rest else "no system message")

    def _think(self, rest: str) -> None:
        if rest not in ("on", "off"):
            raise _CommandError("/think: must be on or off")
        self._thinking = rest == "on"
        _note(f"thinking: {rest}")

    def _params(self, rest: str) -> None:
        given = _assignments(rest)
        if "n" in given:
            raise _CommandError("/params: n is always 1 in a conversation")
        changed = self._sampling | given
        self._sampling = {name: value for name, value in changed.items() if value is not None}
        shown = (f"{name}={json.dumps(value)}" for name, value in self._sampling.items())
        _note(" ".join(shown) or "all parameters have their default values")

    def _retry(self, rest: str) -> None:
        if not self.conversation.ask_again():
            raise _CommandError("/retry: there is no question yet")
        self._answer()

    def _clear(self, rest: str) -> None:
        self.conversation = Conversation(self.conversation.system)
        self._pictures.clear()
        _note("started a new conversation")

    def _save(self, rest: str) -> None:
        path = _file(rest, "/save")
        try:
            self.conversation.save(path)
        except (ConversationError, OSError) as error:
            raise _CommandError(f"/save: {path}: {_reason(error)}") from None
        _note(f"saved {len(self.conversation)} messages to {path}")

    def _load(self, rest: str) -> None:
        path = _file(rest, "/load")
        try:
            self.conversation = Conversation.load(path)
        except (ConversationError, OSError) as error:
            raise _CommandError(f"/load: {path}: {_reason(error)}") from None
        _note(f"loaded {len(self.conversation)} messages from {path}")

    def _help(self, rest: str) -> None:
        print(_command_list(), file=sys.stderr)

    def _quit(self, rest: str) -> None:
        raise _Leave


def _split(rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise _CommandError(f"{error}: {rest}") from None


def _file(rest: str, command: str) -> Path:
    words = _split(rest)
    if len(words) != 1:
        raise _CommandError(f"{command}: requires one file name, in quotes if it contains spaces")
    try:
        return Path(words[0]).expanduser()
    except RuntimeError as error:
        raise _CommandError(f"{command}: {error}") from None


def _assignments(rest: str) -> dict[str, Any]:
    """Parse NAME=VALUE pairs; a value is JSON, which may contain spaces, a word, or empty."""
    found: dict[str, Any] = {}
    while rest:
        match = re.match(r"(\w+)=(\S*)\s*", rest)
        if match is None:
            raise _CommandError(f"/params: must be NAME=VALUE, not {rest}")
        value, end = match[2] or None, match.end()
        try:
            decoded, after = _JSON.raw_decode(rest, match.start(2))
        except (ValueError, RecursionError):
            pass
        else:
            if rest[after : after + 1].strip() == "":
                value, end = decoded, after
        found[match[1]] = value
        rest = rest[end:].strip()
    return found


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _pictures(count: int) -> str:
    return f"{count} picture{'s' * (count != 1)}"


def _note(words: str) -> None:
    print(dim(f"[{words}]"), file=sys.stderr, flush=True)


def _set_up_readline() -> None:
    """Enable line editing, history within this session, and tab completion."""
    try:
        import readline
    except ImportError:  # some Python builds lack it
        return
    readline.set_completer_delims(" \t\n")
    readline.set_completer(lambda word, state: _completion(readline.get_line_buffer(), word, state))
    readline.parse_and_bind("tab: complete")


def _completion(line: str, word: str, state: int) -> str | None:
    if line == word and word.startswith("/") and "/" not in word[1:]:
        choices = [f"{name} " for name in _COMMANDS if name.startswith(word)]
    else:
        paths = sorted(glob.glob(glob.escape(os.path.expanduser(word)) + "*"))
        choices = [f"{path}/" if os.path.isdir(path) else path for path in paths]
    return choices[state] if state < len(choices) else None


def _command_list() -> str:
    def lines() -> Iterator[str]:
        for name, (arguments, help_text) in _COMMANDS.items():
            yield f"  {f'{name} {arguments}'.strip():24} {help_text}"
            if name in _MORE_HELP:
                yield f"  {'':24} {_MORE_HELP[name]}"

    return "\n".join(lines())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{program()} chat",
        description="Talk with GLM-4.6V about pictures. Answers are streamed, and turns are kept.\n"
        "Picture files can also be dropped into a line, or named in it.",
        epilog=f"""commands, at the beginning of a line:
{_command_list()}
Ctrl-C stops an answer, also on the server, and keeps the partial answer. Ctrl-D leaves.

examples:
  %(prog)s                                talk
  %(prog)s picture.png                    talk about a picture
  %(prog)s -p "What is in this image?" picture.png   one question, one answer
  %(prog)s --system "Answer in Chinese." --temperature 0
  %(prog)s --load yesterday.json          continue from a /save
  printf '/image a.png\\nWhat is in this image?\\nIs it red?\\n' | %(prog)s -q > answers.txt

Answers go to standard output; thoughts, speeds, notes and errors to standard error.

{EXIT_CODES}.
With piped lines, the code is that of the last failure.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pictures", nargs="*", metavar="PICTURE", help="files or URLs, for the first question"
    )
    parser.add_argument("-p", "--prompt", type=text, metavar="TEXT", help="ask this only, and exit")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print neither thoughts nor speeds"
    )
    parser.add_argument("--no-thinking", action="store_true", help="start with /think off")
    parser.add_argument("--load", metavar="FILE", help="start with /load FILE")
    add_options(parser)
    return parser
