"""``make bench-markup``: what telling thought, text and calls apart costs, outside the model.

One second of 64 streams that are in the middle of a thought, without a model: each step gives each
stream a token, which the engine reads, and each stream gets a response as often as the responder
sends them. CPU time of both, as a share of a core, for thoughts of several lengths; beside it what
the server did before it read tokens once: look through all tokens of the answer for each response.
"""

import argparse
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from glm_engine.detokenizer import TokenTable
from glm_engine.heartbeat import Heartbeat
from glm_engine.request import Output, Prompt, Request, SamplingParams
from glm_format.answer import AnswerReader
from glm_format.tags import Tag
from glm_triton.admission import Pace
from glm_triton.jobs import Choice, Job, Response
from glm_triton.responder import Responder
from tools.report import ROOT, report

STREAMS = 64
LENGTHS = (256, 4_096, 32_768)
STEP_SECONDS = 0.015
RESPONSES_PER_SECOND = 20
THINK, END_THINK, WORD = 0, 1, 2
_TAGS = {THINK: Tag.THINK, END_THINK: Tag.END_THINK}
_FLAGS = frozenset(
    {"return_events", "return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"}
)


class _Nobody:
    """A client that discards all responses."""

    def send(self, response: Response, *, is_last: bool) -> None:
        """Nothing: Triton's own way is not measured here."""


def streams(length: int) -> list[Choice]:
    """Streams within a thought of the given number of tokens."""
    prompt = Prompt("messages", np.array([9], np.int32), np.empty((3, 1), np.int32), 0)
    choices = []
    for number in range(STREAMS):
        job = Job(
            request_id=f"r{number}",
            client=_Nobody(),  # type: ignore[arg-type]
            prompt_inputs={},
            prompt_field="messages",
            params=SamplingParams(),
            stream=True,
            flags=_FLAGS,
            prefix="",
            received=time.monotonic(),
        )
        (choice,) = job.set_prompt(prompt, [None], {})
        request = choice.request
        request.reader = AnswerReader(_TAGS, lambda token_id: b" word")
        for token_id in (THINK, *[WORD] * length):
            request.token_ids.append(token_id)
            request.reader.push(token_id)
        choices.append(choice)
    return choices


def share_of_a_core(length: int, besides: Callable[[Request], object]) -> tuple[float, float]:
    """CPU seconds of one second: of reading the tokens, and of the responses.

    Args:
        besides: is done for each response, too.
    """
    choices = streams(length)
    engine: Any = SimpleNamespace(stats=SimpleNamespace(waiting=0), table=TokenTable)
    responder = Responder(engine, Pace(), lambda *end: None, Heartbeat("x", env={}, workers=1), 0)
    responder._jobs |= {choice.job for choice in choices}
    steps = round(1 / RESPONSES_PER_SECOND / STEP_SECONDS)
    reading = responding = 0.0
    for _ in range(RESPONSES_PER_SECOND):
        began = time.thread_time()
        for _ in range(steps):
            for choice in choices:
                request = choice.request
                assert request.reader is not None
                request.token_ids.append(WORD)
                events = request.reader.push(WORD)
                thought = request.reader.num_thought_tokens
                choice.unsent.append(Output(request, "", events, thought, (WORD,)))
        read = time.thread_time()
        for choice in choices:
            responder._send_guarded(choice)
            besides(choice.request)
        reading += read - began
        responding += time.thread_time() - read
    assert all(choice.num_sent == RESPONSES_PER_SECOND for choice in choices)
    return reading, responding


def look_through(request: Request) -> int:
    """How many tokens of the answer are its thought, found in all of them."""
    answer = request.token_ids[: len(request.token_ids)]
    count = answer.index(END_THINK) + 1 if END_THINK in answer else len(answer)
    return count if END_THINK not in answer else 0


def main() -> int:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=ROOT / "benchmarks" / "results" / "markup_cost.md")
    arguments = parser.parse_args()
    share_of_a_core(LENGTHS[0], lambda request: None)  # warm
    table = [
        "| thought, tokens | reading tokens | responses | both | both, with a look through all |",
        "|---|---|---|---|---|",
    ]
    for length in LENGTHS:
        reading, responding = share_of_a_core(length, lambda request: None)
        before = sum(share_of_a_core(length, look_through))
        table.append(
            f"| {length:,} | {reading:.1%} | {responding:.1%} | {reading + responding:.1%} "
            f"| {before:.1%} |"
        )
    details = f"{STREAMS} streams, a step every {1000 * STEP_SECONDS:g} ms"
    report(arguments.output, "What GLM's markup costs", details, __doc__, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
