"""A folder of pictures: one question about each, the answers as JSON lines, with a progress bar.

    python client/examples/batch_folder.py
    python client/examples/batch_folder.py --folder photos --output answers.jsonl --concurrency 16

Prints a progress bar (to standard error), and at the end, for the four pictures beside this file::

    answers.jsonl: 4 answered, 0 failed, 0 were there before

A line of the output is ``{"file": "star.png", "answer": "An orange star."}``, or has an ``error``
instead of the ``answer``. Run it again after an interruption: what has an answer is not asked
again, what failed is; another question needs another --output. Of several lines about one picture
the last counts. Exit code 1 if any picture failed or the server is not there, 130 after Ctrl-C.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from glm_client import (
    AsyncClient,
    GenerationRequest,
    GLMError,
    OverloadedError,
    UnavailableError,
)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
TRIES = 5
LINE_START = b'{"file": "'


async def ask(client: AsyncClient, picture: Path, question: str) -> str:
    """Get the answer; retries while the server is overloaded or unavailable."""
    request = GenerationRequest(
        text_input=question,
        images=[picture.read_bytes()],
        sampling_parameters={"temperature": 0},
        return_events=True,  # the answer apart from its thought
        request_id=picture.name,  # to be found in the server's log
    )
    for attempt in range(1, TRIES):
        try:
            return (await client.generate(request)).content
        except OverloadedError as error:
            await asyncio.sleep(error.retry_after or 2**attempt)
        except UnavailableError:
            await asyncio.sleep(2**attempt)
    return (await client.generate(request)).content


async def work(
    client: AsyncClient,
    pictures: "asyncio.Queue[Path]",
    options: argparse.Namespace,
    output: TextIO,
    progress: "tqdm[Any]",
) -> int:
    """Ask about pictures until there are none left; returns how many failed."""
    failed = 0
    while not pictures.empty():
        picture = pictures.get_nowait()
        line: dict[str, Any] = {"file": str(picture.relative_to(options.folder))}
        try:
            line["answer"] = await ask(client, picture, options.question)
        except (GLMError, OSError) as error:
            line["error"] = f"{type(error).__name__}: {error}"
            failed += 1
        output.write(json.dumps(line, ensure_ascii=False) + "\n")
        output.flush()  # so that an interruption loses nothing
        progress.update()
    return failed


def answered(output: Path) -> set[str]:
    """The files that have an answer already. Cuts off a last line that was not finished.

    Raises:
        ValueError: these are no lines of ours.
    """
    if not output.exists():
        return set()
    data = output.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    rest = data[len(whole) :]
    try:
        lines = {line["file"]: line for line in map(json.loads, whole.splitlines())}
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{output} holds something else than answers") from None
    if rest[: len(LINE_START)] != LINE_START[: len(rest)]:
        raise ValueError(f"{output} holds something else than answers")
    if rest:
        os.truncate(output, len(whole))
    return {name for name, line in lines.items() if "answer" in line}


async def run(options: argparse.Namespace) -> int:
    async with AsyncClient(options.url, timeout=options.timeout) as client:
        if not await client.server_live():
            print(f"cannot reach Triton's gRPC endpoint at {options.url}", file=sys.stderr)
            return 1
        return await ask_all(client, options)


async def ask_all(client: AsyncClient, options: argparse.Namespace) -> int:
    found = [path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    before = answered(options.output)
    pictures: asyncio.Queue[Path] = asyncio.Queue()
    for path in sorted(found):
        if str(path.relative_to(options.folder)) not in before:
            pictures.put_nowait(path)
    total = pictures.qsize()
    with (
        options.output.open("a", encoding="utf-8") as output,
        tqdm(total=total, unit="picture") as progress,
    ):
        workers = (
            work(client, pictures, options, output, progress) for _ in range(options.concurrency)
        )
        failed = sum(await asyncio.gather(*workers))
    print(
        f"{options.output}: {total - failed} answered, {failed} failed,"
        f" {len(found) - total} were there before"
    )
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("GLM_TRITON_URL", "127.0.0.1:8001")
    parser.add_argument("--url", default=default, help="Triton's gRPC endpoint (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("--output", type=Path, default=Path("answers.jsonl"))
    parser.add_argument("--question", default="What is in this image?")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once (%(default)s)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one answer")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"--folder: {options.folder} is not a folder")
    if options.concurrency < 1:
        parser.error("--concurrency: must be at least 1")
    if not options.timeout > 0:
        parser.error("--timeout: must be more than 0")
    try:
        return asyncio.run(run(options))
    except (OSError, ValueError) as error:
        parser.error(f"--output: {error}")
    except KeyboardInterrupt:
        print(f"stopped; run it again to go on with {options.output}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
