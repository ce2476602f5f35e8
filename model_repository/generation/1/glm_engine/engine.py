"""The engine: one thread that runs all live requests, step by step."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from glm_engine.block_manager import BlockManager
from glm_engine.checkpoint import Checkpoint
from glm_engine.config import EngineConfig
from glm_engine.detokenizer import Detokenizer, TokenTable
from glm_engine.errors import (
    EngineFailure,
    EngineUnavailable,
    GenerationError,
    InvalidRequest,
    OutOfMemory,
    RequestCancelled,
)
from glm_engine.heartbeat import Heartbeat
from glm_engine.model_runner import ModelRunner
from glm_engine.request import (
    DEFAULT_MAX_TOKENS,
    FinishReason,
    Output,
    Request,
    SamplingParams,
    StopReason,
    ThinkingTokens,
)
from glm_engine.sampler import Sampled
from glm_engine.scheduler import Scheduled, Scheduler
from glm_engine.scoring import branches
from glm_engine.structured_output import Grammars
from glm_engine.vision import KnownImage
from glm_format.answer import AnswerReader, Channel, channel_after
from glm_format.events import Event
from glm_format.tags import Tag, tags_by_token

# Of one prompt; they are sent in one response.
MAX_PROMPT_LOGPROBS = 200_000
_INTEGRITY_SECONDS = 10.0
_IDLE_HEARTBEAT_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Durations of the stages of an answered request, in seconds.

    Attributes:
        queue: from entering the engine's queue to the first part of its prompt.
        prefill: from there to the first token.
        ttft: time to first token, from the arrival at stage 2.
        decode: from the first token to the last.
        tpot: time per output token after the first; None if there is only one.
        end_to_end: from the arrival at stage 2.
    """

    queue: float
    prefill: float
    ttft: float
    decode: float
    tpot: float | None
    end_to_end: float


@dataclass(slots=True)
class EngineStats:
    """Counters since the start; written by the engine thread, read by any thread.

    Attributes:
        steps: steps of the engine.
        prompt_tokens: of started requests, including those found in the cache.
        cached_tokens: the prompt tokens found in the cache.
        kv_blocks_used, kv_blocks: blocks in use now, and in total.
        image_cache_bytes: size of the cached embeddings.
        image_cache_hits, images_encoded: pictures whose embeddings were cached, and were not.
        kernel_compilations: GPU kernels compiled after the warm-up; should stay 0.
        vision_seconds, times, cancellation_steps: one entry for each step that encoded pictures,
            each answered request, and each request cancelled in the engine (number of steps begun
            between the cancellation and the release of its memory). Readers pop entries from the
            left.
    """

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks: int = 0
    image_cache_bytes: int = 0
    image_cache_hits: int = 0
    images_encoded: int = 0
    kernel_compilations: int = 0
    vision_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    times: deque[RequestTimes] = field(default_factory=lambda: deque(maxlen=10_000))
    cancellation_steps: deque[int] = field(default_factory=lambda: deque(maxlen=10_000))


class Engine:
    """Continuous batching over a changing set of requests.

    ``add`` and ``abort`` are thread-safe. Everything else belongs to the engine thread: the
    scheduler, its requests, the model runner. Every added request gets exactly one final
    ``Output``, however it ends.

    Attributes:
        stats: see ``EngineStats``.
        table: bytes of each token.
        defaults: the checkpoint's defaults for sampling parameters.
        image_token_id: the placeholder token for image content in a prompt.
        merge_size: number of patches per image token in each direction.
        thinking: the tokens around a thought; None if the checkpoint has none.
        grammars: compiles the grammars of structured outputs.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_outputs: Callable[[Sequence[Output]], None],
        heartbeat: Heartbeat | None = None,
        runner: ModelRunner | None = None,
    ) -> None:
        """Load the model.

        Args:
            on_outputs: called on the engine thread; must not block.
            heartbeat: updated with every part of a step, and every second while idle.
            runner: used instead of loading the checkpoint's weights, for benchmarks.
        """
        checkpoint = Checkpoint.load(config.model)
        self.table = TokenTable(checkpoint.tokenizer)
        self.defaults = checkpoint.defaults
        self.image_token_id: int = checkpoint.config["image_token_id"]
        self.merge_size: int = checkpoint.config["vision_config"]["spatial_merge_size"]
        self._tags = tags_by_token(self.table.find)
        self._assistant_token_id = self.table.find("<|assistant|>")
        begin, end = self.table.find(Tag.THINK), self.table.find(Tag.END_THINK)
        self.thinking = None
        if begin is not None and end is not None:
            self.thinking = ThinkingTokens(begin, end)
        self.grammars = Grammars(
            checkpoint.tokenizer, len(self.table), self.defaults.eos_token_ids, self.thinking
        )
        self._revision = checkpoint.revision
        self._runner = runner or ModelRunner(
            checkpoint, config, num_tokens=len(self.table), thinking=self.thinking
        )
        cache = self._runner.cache
        self.stats = EngineStats(kv_blocks=cache.num_blocks)
        self._blocks = BlockManager(
            cache.num_blocks,
            cache.block_size,
            prefix_caching=config.prefix_caching,
            tenant_floor=config.cache_tenant_floor,
        )
        self._scheduler = Scheduler(
            self._blocks,
            max_num_seqs=self._runner.max_num_seqs,
            max_num_batched_tokens=self._runner.max_num_batched_tokens,
            max_num_batched_patches=config.max_num_batched_patches,
        )
        self._max_thinking_tokens = config.max_thinking_tokens
        self._on_outputs = on_outputs
        self._heartbeat = heartbeat or Heartbeat("engine", env={})
        self._outputs: list[Output] = []
        self._detokenizers: dict[Request, Detokenizer] = {}
        self._questions: dict[Request, None] = {}  # those whose branches are running or waiting
        self._mailbox: deque[Request] = deque()
        self._wake = threading.Event()
        self._checked, self._checked_step = 0.0, 0
        # Nothing enters the mailbox once _closing is set, so nothing is left in it unanswered.
        self._mailbox_lock = threading.Lock()
        self._closing = False
        self._out_of_time = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def known_image(self, content_hash: bytes) -> KnownImage | None:
        """The cached image with this content hash, if any."""
        return self._runner.images.get(content_hash)

    @property
    def max_model_len(self) -> int:
        """Maximum number of tokens of prompt and answer together."""
        return self._runner.max_model_len

    @property
    def max_num_seqs(self) -> int:
        """Maximum number of running requests."""
        return self._runner.max_num_seqs

    @property
    def limits(self) -> dict[str, float | str]:
        """What clients may want to know of the model, before they ask: ``max_model_len`` and
        ``vocab_size`` in tokens, the defaults of sampling parameters, and the ``revision`` of the
        checkpoint, which other weights do not have."""
        return {
            "revision": self._revision,
            "max_model_len": self.max_model_len,
            "vocab_size": len(self.table),
            "temperature": self.defaults.temperature,
            "top_p": self.defaults.top_p,
            "top_k": self.defaults.top_k,
        }

    @property
    def info(self) -> dict[str, str]:
        """How the model is run: ``dtype`` and ``quantization``."""
        runner = self._runner
        dtype = str(runner.dtype).removeprefix("torch.")
        return {"dtype": dtype, "quantization": runner.quantization}

    @property
    def is_alive(self) -> bool:
        """Whether the engine thread runs and accepts requests."""
        return self._thread.is_alive() and not self._closing

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def add(self, request: Request) -> None:
        """Submit a request, whose outputs will be passed to ``on_outputs``.

        Raises:
            InvalidRequest: the prompt, or the prompt plus ``max_tokens``, exceeds the context
                length.
            EngineUnavailable: the engine is stopping.
        """
        available = self.max_model_len - request.prompt.num_tokens
        if available < 1:
            raise InvalidRequest(
                request.prompt.field,
                f"the prompt has {request.prompt.num_tokens} tokens, which leaves none for an "
                f"answer within the context length of {self.max_model_len}",
                code="context_length_exceeded",
            )
        if request.scoring is not None:
            self._check_options(request, available)
            self._enqueue(request)
            return
        self._check_token_ids(request.params)
        top = request.params.prompt_logprobs
        if top is not None and request.prompt.num_tokens * (top + 1) > MAX_PROMPT_LOGPROBS:
            raise InvalidRequest(
                "sampling_parameters.prompt_logprobs",
                f"too many log probabilities: {request.prompt.num_tokens} tokens with {top + 1} "
                f"each (maximum {MAX_PROMPT_LOGPROBS})",
            )
        if request.params.thinking_token_budget is not None and self.thinking is None:
            raise InvalidRequest(
                "sampling_parameters.thinking_token_budget",
                "is not supported: the checkpoint has no thinking tokens",
            )
        self._set_limits(request, available)
        self._attach_readers(request)
        self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        timeline = request.timeline
        timeline.queued = time.monotonic()
        timeline.received = timeline.received or timeline.queued
        with self._mailbox_lock:
            if self._closing:
                raise EngineUnavailable("the engine is stopping")
            self._mailbox.append(request)
        self._wake.set()

    def _check_options(self, request: Request, available: int) -> None:
        assert request.scoring is not None
        longest = max(map(len, request.scoring.options))
        if longest > available:
            raise InvalidRequest(
                request.prompt.field,
                f"the prompt has {request.prompt.num_tokens} tokens and the longest option "
                f"{longest}, which exceeds the context length of {self.max_model_len}",
                code="context_length_exceeded",
            )

    def _attach_readers(self, request: Request) -> None:
        """Create the reader and the stop finder of a request."""
        prompt, params = request.prompt, request.params
        token_bytes = partial(
            self.table.token_bytes, skip_special_tokens=params.skip_special_tokens
        )
        is_raw = prompt.is_raw and not request.wants_events
        request.reader = request.stop_finder = AnswerReader(
            self._tags,
            token_bytes,
            begins_in=channel_after(prompt.input_ids, self._tags, self._assistant_token_id),
            functions=request.functions,
            stop=() if is_raw else params.stop,
        )
        if is_raw and params.stop:
            request.stop_finder = AnswerReader(
                {}, token_bytes, begins_in=Channel.TEXT, stop=params.stop
            )

    def _check_token_ids(self, params: SamplingParams) -> None:
        for name in ("logit_bias", "stop_token_ids"):
            for token_id in getattr(params, name):
                if token_id >= len(self.table):
                    raise InvalidRequest(
                        f"sampling_parameters.{name}",
                        f"{token_id} is not a token id (the vocabulary has {len(self.table)})",
                    )

    def _set_limits(self, request: Request, available: int) -> None:
        """Resolve how long the answer may become; ``available`` tokens are left in the context."""
        params = request.params
        if params.max_tokens is None:
            request.max_tokens = min(DEFAULT_MAX_TOKENS, available)
            if self.thinking is not None and not request.prompt.is_raw:
                # The answer's text has its place even where the thought takes all that it may.
                budget = max(available - DEFAULT_MAX_TOKENS, available // 2)
                request.max_thinking_tokens = min(self._max_thinking_tokens, budget)
                request.max_text_tokens = DEFAULT_MAX_TOKENS
                request.max_tokens = min(
                    DEFAULT_MAX_TOKENS + request.max_thinking_tokens, available
                )
        elif params.max_tokens <= available:
            request.max_tokens = params.max_tokens
        elif params.truncate_max_tokens:
            request.max_tokens = available
        else:
            raise InvalidRequest(
                "sampling_parameters.max_tokens",
                f"{params.max_tokens} plus the prompt's {request.prompt.num_tokens} tokens "
                f"exceeds the context length of {self.max_model_len}",
                code="context_length_exceeded",
            )

    def abort(self, request: Request) -> None:
        """Cancel a request in any state; may be called before ``add``, and repeatedly."""
        if not request.cancelled:
            request.cancelled_at_step = self.stats.steps
            request.cancelled = True
            self._wake.set()

    def stop(self, timeout: float) -> None:
        """Reject new requests, let live ones finish for ``timeout`` seconds, fail the rest."""
        self._close()
        self._thread.join(timeout)
        self._out_of_time = True
        self._thread.join()

    def _close(self) -> None:
        with self._mailbox_lock:
            self._closing = True
        self._wake.set()

    # ---- engine thread only from here on ----

    def _run(self) -> None:
        try:
            self._runner.enter_thread()
            while not self._out_of_time:
                self._heartbeat.beat()
                closing = self._closing  # read first: earlier requests are in the mailbox by now
                if not self.step():
                    if closing:
                        break
                    self._wake.wait(_IDLE_HEARTBEAT_SECONDS)
                    self._wake.clear()
        except Exception:
            logger.exception("engine thread failed")
            self._heartbeat.fail()
        finally:
            self._close()
            self._fail_all(EngineUnavailable("the engine stopped"))

    def step(self) -> bool:
        """Run one step: advance all running requests, and start waiting ones.

        Returns:
            False if there was nothing to do.
        """
        while self._mailbox:
            self._scheduler.add(self._mailbox.popleft())
        self._drop_cancelled()
        step = self._scheduler.schedule()
        if step:
            self.stats.steps += 1
            self._note_started(step)
            for part, sampled in self._run_step(step):
                self._guarded(part.request, self._take_token, part.request, sampled)
            for part in step:
                if part.request.scoring is not None:
                    self._guarded(part.request, self._take_scores, part.request)
        elif not self._live_requests():
            self._check_integrity()
        self._flush()
        return bool(step)

    def _check_integrity(self) -> None:
        """Check for leaked blocks while idle; takes 0.1 s at 4 million tokens of KV cache."""
        now, steps = time.monotonic(), self.stats.steps
        if now - self._checked >= _INTEGRITY_SECONDS and steps != self._checked_step:
            self._checked, self._checked_step = now, steps
            self._scheduler.check_integrity()

    def _drop_cancelled(self) -> None:
        for request in dict.fromkeys(r for r in self._live_requests() if r.cancelled):
            self._fail(request, RequestCancelled())

    def _note_started(self, step: Sequence[Scheduled]) -> None:
        for part in step:
            request = part.request
            if not request.timeline.scheduled:
                request.timeline.scheduled = time.monotonic()
                if request.option is not None:  # counted with its question
                    continue
                self.stats.prompt_tokens += request.prompt.num_tokens
                self.stats.cached_tokens += request.num_cached
                self.stats.image_tokens += request.prompt.num_image_tokens
                known = sum(image.embeddings is not None for image in request.prompt.images)
                self.stats.image_cache_hits += known

    def _run_step(self, step: list[Scheduled]) -> list[tuple[Scheduled, Sampled]]:
        """Run a step; if it fails, run its requests one by one, and fail those that raise."""
        if len(step) > 1:
            out_of_memory = False
            try:
                return self._attempt(step)
            except Exception as error:
                ids = " ".join(part.request.request_id for part in step)
                logger.exception(
                    "step failed; retrying its requests one by one request_ids=%s", ids
                )
                out_of_memory = _is_out_of_memory(error)
            if out_of_memory:  # not above, where the error still holds the step's tensors
                torch.cuda.empty_cache()
        sampled: list[tuple[Scheduled, Sampled]] = []
        for part in step:
            if part.request not in self._scheduler.running:
                continue  # a branch of a question that has just failed
            self._guarded(part.request, lambda part=part: sampled.extend(self._attempt([part])))
        return sampled

    def _attempt(self, step: list[Scheduled]) -> list[tuple[Scheduled, Sampled]]:
        self._heartbeat.beat()
        began = time.monotonic()
        images = self._runner.encode_images(step)
        self.stats.images_encoded += images.num_encoded
        self.stats.image_cache_hits += images.num_found
        if images.num_encoded:
            ended = time.monotonic()
            self.stats.vision_seconds.append(ended - began)
            for request in images.requests:
                request.timeline.vision_began = request.timeline.vision_began or began
                request.timeline.vision_ended = ended
            self._heartbeat.beat()
        sampled = self._runner.run(step)
        self._scheduler.computed(step)
        return sampled

    def _guarded(self, request: Request, work: Callable[..., None], *arguments: Any) -> None:
        """Run one request's part of a step; an error ends that request only."""
        try:
            work(*arguments)
        except GenerationError as error:
            self._fail(request, error)
        except Exception as error:
            logger.exception(
                "request failed request_id=%(request_id)s", {"request_id": request.request_id}
            )
            if _is_out_of_memory(error):
                self._fail(request, OutOfMemory())
            else:
                self._runner.check_device()  # a lost device fails the engine
                self._fail(request, EngineFailure("the engine failed while running this request"))

    def _take_token(self, request: Request, sampled: Sampled) -> None:
        token_id = sampled.token_id
        request.token_ids.append(token_id)
        if len(request.token_ids) == request.max_thinking_tokens:
            # Only now: a budget costs the sampler time for each token.
            request.params = replace(
                request.params, thinking_token_budget=request.max_thinking_tokens
            )
        self.stats.generation_tokens += 1
        if not request.timeline.first_token:
            request.timeline.first_token = time.monotonic()
        if sampled.logprobs is not None:
            request.cumulative_logprob += sampled.logprobs.entries[token_id][0]
        reader, stops = request.reader, request.stop_finder
        assert reader is not None and stops is not None
        finish_reason, stop_reason = self._stop_by_token(request, token_id)
        if request.guide is not None:
            if finish_reason is None:
                request.guide.accept(token_id)
            else:
                request.guide.check()
        text, events = "", list[Event]()
        if finish_reason is None:  # the token that ends an answer is not part of it
            events = reader.push(token_id, sampled.logprobs)
            if stops is not reader:
                stops.push(token_id)
            text = self._text(request, token_id)
        if stops.stop_string is not None:
            finish_reason, stop_reason = "stop", stops.stop_string
        elif request.guide is not None and request.guide.is_complete:
            finish_reason = "stop"
        elif finish_reason is None and _is_full(request, reader):
            finish_reason = "length"
        if finish_reason is not None:
            events += reader.finish(is_cut=finish_reason == "length")
            if stops is reader and reader.stop_string is not None:  # within the text held back
                finish_reason, stop_reason = "stop", reader.stop_string
            if not request.wants_events:
                text += self._detokenizer(request).finish()
        output = Output(
            request,
            text,
            events,
            reader.num_thought_tokens,
            (token_id,),
            () if sampled.logprobs is None else (sampled.logprobs,),
            request.cumulative_logprob,
            finish_reason,
            stop_reason,
        )
        if output.is_final:
            self._end(output)
        else:
            self._outputs.append(output)

    def _take_scores(self, request: Request) -> None:
        """Start the branches of a question, or end it with the last of them."""
        scoring, question = request.scoring, request
        assert scoring is not None
        if request.num_computed < request.num_tokens:
            return
        if request.option is None:
            scoring.open = dict.fromkeys(branches(request))
            self._questions[request] = None
            self._scheduler.park(request, list(scoring.open))
        else:
            assert request.leader is not None
            question = request.leader
            scoring.open.pop(request, None)
            self._scheduler.remove(request)
        if not scoring.open and question in self._questions:
            question.timeline.first_token = time.monotonic()
            self._end(Output(question, option_logprobs=scoring.sums(), finish_reason="stop"))

    def _text(self, request: Request, token_id: int) -> str:
        """The next text of the answer, cut off at a stop string."""
        stops = request.stop_finder
        if request.wants_events or stops is None:
            return ""
        detokenizer = self._detokenizer(request)
        if stops.stop_string is not None:
            return detokenizer.push_last(token_id, stops.stop_string)
        return detokenizer.push(token_id, stops.held)

    def _detokenizer(self, request: Request) -> Detokenizer:
        found = self._detokenizers.get(request)
        if found is None:
            found = self._detokenizers[request] = Detokenizer(
                self.table, skip_special_tokens=request.params.skip_special_tokens
            )
        return found

    def _stop_by_token(
        self, request: Request, token_id: int
    ) -> tuple[FinishReason | None, StopReason | None]:
        if token_id in self.defaults.eos_token_ids and not request.params.ignore_eos:
            return "stop", None
        return ("stop", token_id) if token_id in request.params.stop_token_ids else (None, None)

    def _fail(self, request: Request, error: GenerationError) -> None:
        if request.option is not None:
            assert request.leader is not None
            request = request.leader
        if request.scoring is not None:
            for branch in request.scoring.open:
                self._scheduler.remove(branch)
            request.scoring.open.clear()
        self._end(Output(request, error=error))

    def _end(self, output: Output) -> None:
        """Release the resources of a request and send its final output."""
        request = output.request
        request.timeline.finished = time.monotonic()
        self._scheduler.remove(request)
        self._questions.pop(request, None)
        self._detokenizers.pop(request, None)
        request.encoded.clear()
        request.sampling = request.guide = None
        if request.cancelled:
            self.stats.cancellation_steps.append(self.stats.steps - request.cancelled_at_step)
        if output.error is None:
            self.stats.times.append(_times(request))
        self._outputs.append(output)

    def _flush(self) -> None:
        """Update the counters, then pass on the outputs of the step."""
        stats, scheduler = self.stats, self._scheduler
        stats.running, stats.waiting = len(scheduler.running), len(scheduler.waiting)
        stats.preemptions = scheduler.num_preemptions
        stats.kernel_compilations = self._runner.num_compilations
        stats.image_cache_bytes = self._runner.images.num_bytes
        stats.kv_blocks_used = self._blocks.num_blocks - self._blocks.num_free
        if self._outputs:
            outputs, self._outputs = self._outputs, []
            self._on_outputs(outputs)

    def _live_requests(self) -> list[Request]:
        return [*self._questions, *self._scheduler.waiting, *self._scheduler.running]

    def _fail_all(self, error: GenerationError) -> None:
        while self._mailbox:
            self._scheduler.add(self._mailbox.popleft())
        while live := self._live_requests():
            self._fail(live[0], error)
        self._flush()


def _is_full(request: Request, reader: AnswerReader) -> bool:
    num_tokens, most = len(request.token_ids), request.max_text_tokens
    is_text_full = most is not None and num_tokens - reader.num_thought_tokens >= most
    return is_text_full or num_tokens >= request.max_tokens


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch has no exception class for out-of-memory on a CPU.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _times(request: Request) -> RequestTimes:
    timeline, num_tokens = request.timeline, len(request.token_ids)
    decode = timeline.finished - timeline.first_token
    return RequestTimes(
        queue=timeline.scheduled - timeline.queued,
        prefill=timeline.first_token - timeline.scheduled,
        ttft=timeline.first_token - timeline.received,
        decode=decode,
        tpot=decode / (num_tokens - 1) if num_tokens > 1 else None,
        end_to_end=timeline.finished - timeline.received,
    )
