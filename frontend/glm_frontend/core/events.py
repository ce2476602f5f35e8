"""An answer as it comes: one ordered stream of events, the same for every API.

What the model writes comes as the client's own ``ThoughtDelta``, ``TextDelta``, ``CallStart`` and
``CallDelta``, in the order in which it writes them; a ``Finish`` ends each answer. A whole answer
is the fold of the same events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from glm_client import (
    CallDelta,
    CallStart,
    FinishReason,
    TextDelta,
    ThoughtDelta,
    TokenLogprobs,
)
from glm_frontend.core.boxes import Box


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Numbers of tokens that a request took.

    Attributes:
        prompt: of the prompt, as ``image`` (those of pictures and videos) and ``cached`` (found in
            the KV cache).
        completion: of all answers, as ``reasoning`` (those of their thoughts).
    """

    prompt: int = 0
    image: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.prompt + other.prompt,
            self.image + other.image,
            self.cached + other.cached,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True, slots=True)
class Finish:
    """An answer has ended.

    Attributes:
        stop_reason: the stop string or stop token of the request that ended it, if one did.
        boxes: places in the last picture; None unless the request asked for them.
    """

    reason: FinishReason
    stop_reason: str | int | None = None
    boxes: Sequence[Box] | None = None


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """How likely the prompt's tokens were; the first one's log probability is NaN.

    Comes first, and only of whole answers to requests that asked for it.
    """

    logprobs: Sequence[TokenLogprobs]


Event = PromptTokens | ThoughtDelta | TextDelta | CallStart | CallDelta | Finish


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """One event of one answer.

    Attributes:
        choice: which of the answers to the request, from 0.
        usage: of the whole request so far, this event included.
    """

    choice: int
    event: Event
    usage: TokenUsage


@dataclass(slots=True)
class WholeCall:
    """A call of a whole answer; ``arguments`` is JSON text."""

    name: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """One answer, folded: its thought, its text and its calls apart."""

    thought: str
    text: str
    calls: Sequence[WholeCall]
    logprobs: Sequence[TokenLogprobs]
    finish: Finish
    prompt_logprobs: Sequence[TokenLogprobs] = ()


def fold(events: Sequence[AnswerEvent]) -> list[WholeAnswer]:
    """The whole answers that these are all events of, by their number."""
    choices: dict[int, list[Event]] = {}
    for event in events:
        choices.setdefault(event.choice, []).append(event.event)
    return [_fold(choices[choice]) for choice in sorted(choices)]


def _fold(events: Sequence[Event]) -> WholeAnswer:
    thoughts, texts = list[str](), list[str]()
    calls: list[WholeCall] = []
    logprobs: list[TokenLogprobs] = []
    finish = Finish("stop")
    prompt: Sequence[TokenLogprobs] = ()
    for event in events:
        match event:
            case PromptTokens(prompt):
                pass
            case ThoughtDelta(text):
                thoughts.append(text)
            case TextDelta(text, notes):
                texts.append(text)
                logprobs += notes
            case CallStart(_, name):
                calls.append(WholeCall(name))
            case CallDelta(index, arguments):
                calls[index].arguments += arguments
            case Finish():
                finish = event
    return WholeAnswer("".join(thoughts), "".join(texts), calls, logprobs, finish, prompt)
