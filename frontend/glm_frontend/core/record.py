"""What happened to one request: noted where it happens, and told when it has ended."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from glm_frontend.core.events import AnswerEvent, Finish, TokenUsage


@dataclass(slots=True)
class AnswerRecord:
    """One call of the model server. Times are of ``time.perf_counter()``.

    Attributes:
        operation: as OpenTelemetry's ``gen_ai.operation.name`` has it.
        usage: so far.
        finish_reasons: of the answers that have ended.
        cache: ``hit`` for a kept answer, ``shared`` for that to another request, ``miss`` for one
            that is going to be kept; empty where none is.
    """

    operation: str
    began: float = field(default_factory=time.perf_counter)
    usage: TokenUsage | None = None
    finish_reasons: list[str] = field(default_factory=list)
    cache: str = ""
    _first: float = 0.0
    _last: float = 0.0
    _first_tokens: int = 0
    _num_choices: int = 1

    @property
    def is_repeated(self) -> bool:
        """Whether another request has had the answer computed."""
        return self.cache in ("hit", "shared")

    def note_ends(self, events: Sequence[AnswerEvent]) -> None:
        """Events have come."""
        ends = (one.event for one in events if isinstance(one.event, Finish))
        self.finish_reasons += [end.reason for end in ends]

    def note_piece(self, usage: TokenUsage, num_choices: int) -> None:
        """A chunk is sent to the client, of a stream of ``num_choices`` answers."""
        self._last = time.perf_counter()
        if not self._first:
            self._first, self._first_tokens = self._last, usage.completion
        self.usage, self._num_choices = usage, num_choices

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds, its pictures' loading included; None where nothing was streamed."""
        return self._first - self.began if self._first else None

    @property
    def time_per_output_token(self) -> float | None:
        """Seconds, of one answer, after its first piece; None where there was no other."""
        tokens = 0 if self.usage is None else self.usage.completion - self._first_tokens
        if not self._first or tokens <= 0:
            return None
        return self._num_choices * (self._last - self._first) / tokens


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request.

    Attributes:
        trace_context: W3C traceparent of its span, for the model server; empty where there is none.
        error_code: of the error that the client received, if any; an ``ErrorCode``.
        refusal: why it was not even begun, if so; of ``errors.REFUSALS``.
        failed_in_stream: whether that came after the beginning of the answer.
        request_bytes: of its body, as far as they came.
        left_out: places of pictures and videos that went since there were more than fit.
        answers: one, but of ``/v1/completions`` with several prompts.
    """

    trace_context: str = ""
    error_code: str | None = None
    refusal: str | None = None
    failed_in_stream: bool = False
    request_bytes: int = 0
    left_out: list[str] = field(default_factory=list)
    answers: list[AnswerRecord] = field(default_factory=list)

    @property
    def cache(self) -> str:
        """As of its answers where that is the same for all; else ``miss``."""
        found = {answer.cache for answer in self.answers}
        return found.pop() if len(found) == 1 else "miss" if found else ""

    def begin_answer(self, *, is_raw: bool) -> AnswerRecord:
        """The model server is about to be asked. ``is_raw``: without a chat template."""
        self.answers.append(AnswerRecord("text_completion" if is_raw else "chat"))
        return self.answers[-1]
