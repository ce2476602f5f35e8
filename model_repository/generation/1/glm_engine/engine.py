"""The engine: one thread that runs all live requests, a token each a step."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from glm_engine.checkpoint import Checkpoint
from glm_engine.config import EngineConfig
from glm_engine.detokenizer import Detokenizer, TokenTable
from glm_engine.errors import EngineFailure, EngineUnavailable, InvalidRequest, RequestCancelled
from glm_engine.model_runner import ModelRunner
from glm_engine.request import DEFAULT_MAX_TOKENS, FinishReason, Output, Request
from glm_engine.sampler import Sampler

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class EngineStats:
    """Counts since the start; written by the engine thread, read by anyone.

    Attributes:
        steps: passes over the running requests.
        cancellation_steps: for each request cancelled while the engine had it, how many steps
            began between the cancellation and the moment its memory was free. Readers take entries
            from the left.
    """

    steps: int = 0
    prompt_tokens: int = 0
    image_tokens: int = 0
    generation_tokens: int = 0
    running: int = 0
    waiting: int = 0
    cancellation_steps: deque[int] = field(default_factory=lambda: deque(maxlen=10_000))


@dataclass(eq=False, slots=True)
class _Running:
    """A request between its prefill and its last token."""

    request: Request
    sampler: Sampler
    detokenizer: Detokenizer


class Engine:
    """Continuous generation over a changing set of requests.

    ``add`` and ``abort`` may be called from any thread. Everything else belongs to the engine
    thread: the queues, the requests in them, the model runner. Every added request gets exactly
        one final
    ``Output``, on whatever path it ends.

    Attributes:
        stats: see ``EngineStats``.
        table: bytes of each token, for who wants to show token ids.
        defaults: what the checkpoint says for open sampling parameters.
        image_token_id: the token that stands for image content in a prompt.
    """

    def __init__(self, config: EngineConfig, on_output: Callable[[Output], None]) -> None:
        """Load the model. ``on_output`` is called on the engine thread and must not block."""
        checkpoint = Checkpoint.load(config.model)
        self.table = TokenTable(checkpoint.tokenizer)
        self.defaults = checkpoint.defaults
        self.image_token_id: int = checkpoint.config["image_token_id"]
        self.stats = EngineStats()
        self._runner = ModelRunner(checkpoint, config, num_tokens=len(self.table))
        self._max_num_seqs = config.max_num_seqs
        self._on_output = on_output
        self._mailbox: deque[Request] = deque()
        self._waiting: deque[Request] = deque()
        self._running: list[_Running] = []
        self._wake = threading.Event()
        # Nothing gets into the mailbox once _closing is set, so nothing is left in it unanswered.
        self._door = threading.Lock()
        self._closing = False
        self._out_of_time = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        return self._runner.max_model_len

    @property
    def is_alive(self) -> bool:
        """Whether the engine thread runs and takes requests."""
        return self._thread.is_alive() and not self._closing

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def add(self, request: Request) -> None:
        """Hand a request over. From here on its answers come through ``on_output``.

        Raises:
            InvalidRequest: the prompt, or the prompt and ``max_tokens``, are longer than the
                context.
            EngineUnavailable: the engine is stopping.
        """
        room = self.max_model_len - request.prompt.num_tokens
        if room < 1:
            raise InvalidRequest(
                request.prompt.field,
                f"the prompt has {request.prompt.num_tokens} tokens and leaves no room for an "
                f"answer in the context of {self.max_model_len}",
            )
        if request.params.max_tokens is not None and request.params.max_tokens > room:
            raise InvalidRequest(
                "sampling_parameters.max_tokens",
                f"{request.params.max_tokens} and the prompt's {request.prompt.num_tokens} tokens "
                f"are more than the context of {self.max_model_len}",
            )
        request.max_tokens = request.params.max_tokens or min(DEFAULT_MAX_TOKENS, room)
        with self._door:
            if self._closing:
                raise EngineUnavailable("the engine is stopping")
            self._mailbox.append(request)
        self._wake.set()

    def abort(self, request: Request) -> None:
        """Give a request up, whatever it is doing; before or after ``add``, any number of times."""
        if not request.cancelled:
            request.cancelled_at_step = self.stats.steps
            request.cancelled = True
            self._wake.set()

    def stop(self, timeout: float) -> None:
        """Take no more requests, let live ones finish for ``timeout`` seconds, fail the rest."""
        self._close()
        self._thread.join(timeout)
        self._out_of_time = True
        self._thread.join()

    def _close(self) -> None:
        with self._door:
            self._closing = True
        self._wake.set()

    # ---- engine thread only from here on ----

    def _run(self) -> None:
        try:
            while not self._out_of_time:
                if not self.step():
                    if self._closing:
                        break
                    self._wake.wait()
                    self._wake.clear()
        except Exception:
            logger.exception("the engine thread failed")
        finally:
            self._close()
            self._fail_all(EngineUnavailable("the engine stopped"))

    def step(self) -> bool:
        """Give every running request one token, and start one that waits.

        At most one prefill a step: running streams wait for one prompt at most, never for all that
        arrived.

        Returns:
            False when there was nothing to do.
        """
        while self._mailbox:
            self._waiting.append(self._mailbox.popleft())
        self._drop_cancelled()
        if not self._waiting and not self._running:
            return False
        self.stats.steps += 1
        running = list(self._running)
        if self._waiting and len(self._running) < self._max_num_seqs:
            request = self._waiting.popleft()
            self._guarded(request, partial(self._start, request))
        for item in running:
            if not item.request.cancelled:
                self._guarded(item.request, partial(self._advance, item))
        self._count_live()
        return True

    def _drop_cancelled(self) -> None:
        for request in [request for request in self._waiting if request.cancelled]:
            self._waiting.remove(request)
            self._end(request, Output(request, error=RequestCancelled("the request was cancelled")))
        for request in [item.request for item in self._running if item.request.cancelled]:
            self._end(request, Output(request, error=RequestCancelled("the request was cancelled")))
        self._count_live()

    def _guarded(self, request: Request, work: Callable[[], None]) -> None:
        """Do one request's part of a step; what goes wrong there ends that request only."""
        try:
            work()
        except Exception as error:
            logger.exception("request %s failed", request.request_id)
            if isinstance(error, torch.OutOfMemoryError):
                failure = EngineFailure(
                    "out of memory: use smaller images, or shorter prompts and answers"
                )
            else:
                failure = EngineFailure("the engine failed while it ran this request")
            self._end(request, Output(request, error=failure))

    def _start(self, request: Request) -> None:
        logits = self._runner.prefill(request)
        self.stats.prompt_tokens += request.prompt.num_tokens
        self.stats.image_tokens += request.prompt.num_image_tokens
        item = _Running(
            request,
            Sampler(request, self.defaults.eos_token_ids),
            Detokenizer(
                self.table,
                request.params.stop,
                skip_special_tokens=request.params.skip_special_tokens,
            ),
        )
        self._running.append(item)
        self._take_token(item, logits)

    def _advance(self, item: _Running) -> None:
        self._take_token(item, self._runner.decode(item.request))

    def _take_token(self, item: _Running, logits: torch.Tensor) -> None:
        request = item.request
        token_id, logprobs = item.sampler.sample(logits)
        request.token_ids.append(token_id)
        request.cumulative_logprob += logprobs.entries[token_id][0]
        self.stats.generation_tokens += 1
        finish_reason = self._stop_by_token(request, token_id)
        # The token that ends an answer is not part of its text.
        text = "" if finish_reason == "stop" else item.detokenizer.push(token_id)
        if item.detokenizer.stopped:
            finish_reason = "stop"
        elif finish_reason is None and len(request.token_ids) >= request.max_tokens:
            finish_reason = "length"
        if finish_reason is not None:
            text += item.detokenizer.finish()
        output = Output(
            request, text, (token_id,), (logprobs,), request.cumulative_logprob, finish_reason
        )
        if output.is_final:
            self._end(request, output)
        else:
            self._on_output(output)

    def _stop_by_token(self, request: Request, token_id: int) -> FinishReason | None:
        is_eos = token_id in self.defaults.eos_token_ids and not request.params.ignore_eos
        return "stop" if is_eos or token_id in request.params.stop_token_ids else None

    def _end(self, request: Request, output: Output) -> None:
        """Free what a request holds and send its final output."""
        self._running = [item for item in self._running if item.request is not request]
        self._runner.release(request)
        self._count_live()
        if request.cancelled:
            self.stats.cancellation_steps.append(self.stats.steps - request.cancelled_at_step)
        self._on_output(output)

    def _count_live(self) -> None:
        self.stats.running, self.stats.waiting = len(self._running), len(self._waiting)

    def _fail_all(self, error: Exception) -> None:
        live = [*self._mailbox, *self._waiting, *(item.request for item in self._running)]
        self._mailbox.clear()
        self._waiting.clear()
        for request in live:
            self._end(request, Output(request, error=error))
