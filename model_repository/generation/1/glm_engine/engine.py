"""The engine: one thread that runs all live requests, step by step."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    StopReason,
    ThinkingTokens,
)
from glm_engine.sampler import Sampled
from glm_engine.scheduler import Scheduled, Scheduler
from glm_engine.structured_output import Grammars
from glm_engine.vision import KnownImage
from glm_format.answer import AnswerReader, Channel, channel_after
from glm_format.events import Event
from glm_format.tags import Tag, tags_by_token

_INTEGRITY_SECONDS = 10.0
_IDLE_BEAT_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """How long the parts of an answered request took, in seconds.

    Attributes:
        queue: from the engine's queue to the first part of its prompt.
        prefill: from there to the first token.
        ttft: time to first token, from when stage 2 got the request.
        decode: from the first token to the last.
        tpot: time per output token after the first; None where there was only one.
        end_to_end: from when stage 2 got the request.
    """

    queue: float
    prefill: float
    ttft: float
    decode: float
    tpot: float | None
    end_to_end: float


@dataclass(slots=True)
class EngineStats:
    """Counts since the start; written by the engine thread, read by anyone.

    Attributes:
        steps: passes over the running requests.
        prompt_tokens: of requests that were started, those found in the cache included.
        cached_tokens: of these, those found in the cache.
        kv_blocks_used, kv_blocks: now, and in all.
        image_cache_bytes: of the embeddings that are kept.
        image_cache_hits, images_encoded: pictures whose embeddings were there, and were not.
        vision_seconds, times, cancellation_steps: one entry for each step that encoded pictures,
            each answered request, each request cancelled while the engine had it (steps begun
            between the cancellation and the moment its memory was free). Readers take entries from
            the left.
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
    vision_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    times: deque[RequestTimes] = field(default_factory=lambda: deque(maxlen=10_000))
    cancellation_steps: deque[int] = field(default_factory=lambda: deque(maxlen=10_000))


class Engine:
    """Continuous batching over a changing set of requests.

    ``add`` and ``abort`` may be called from any thread. Everything else belongs to the engine
    thread: the scheduler, the requests in it, the model runner. Every added request gets exactly
    one final ``Output``, on whatever path it ends.

    Attributes:
        stats: see ``EngineStats``.
        table: bytes of each token, for who wants to show token ids.
        defaults: what the checkpoint says for open sampling parameters.
        image_token_id: the token that stands for image content in a prompt.
        merge_size: an image token stands for so many patches in each direction.
        thinking: what a thought is put between; None where the checkpoint has no such tokens.
        grammars: compiles what an answer is to be held to.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_outputs: Callable[[Sequence[Output]], None],
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """Load the model.

        Args:
            on_outputs: is called on the engine thread and must not block.
            heartbeat: beats with every part of a step, and every second where there is nothing to
                do.
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
        self._runner = ModelRunner(
            checkpoint, config, num_tokens=len(self.table), thinking=self.thinking
        )
        cache = self._runner.cache
        self.stats = EngineStats(kv_blocks=cache.num_blocks)
        self._blocks = BlockManager(
            cache.num_blocks, cache.block_size, prefix_caching=config.prefix_caching
        )
        self._scheduler = Scheduler(
            self._blocks,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=self._runner.max_num_batched_tokens,
            max_num_batched_patches=config.max_num_batched_patches,
        )
        self._on_outputs = on_outputs
        self._heartbeat = heartbeat or Heartbeat("engine", env={})
        self._outputs: list[Output] = []
        self._detokenizers: dict[Request, Detokenizer] = {}
        self._mailbox: deque[Request] = deque()
        self._wake = threading.Event()
        self._checked = 0.0
        # Nothing gets into the mailbox once _closing is set, so nothing is left in it unanswered.
        self._door = threading.Lock()
        self._closing = False
        self._out_of_time = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def known_image(self, content_hash: bytes) -> KnownImage | None:
        """The image with this content, if it needs neither decoding nor encoding."""
        return self._runner.images.get(content_hash)

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
                code="context_length_exceeded",
            )
        if request.params.max_tokens is not None and request.params.max_tokens > room:
            raise InvalidRequest(
                "sampling_parameters.max_tokens",
                f"{request.params.max_tokens} and the prompt's {request.prompt.num_tokens} tokens "
                f"are more than the context of {self.max_model_len}",
                code="context_length_exceeded",
            )
        if request.params.thinking_token_budget is not None and self.thinking is None:
            raise InvalidRequest(
                "sampling_parameters.thinking_token_budget",
                "is not supported: the checkpoint has no tokens for a thought",
            )
        request.max_tokens = request.params.max_tokens or min(DEFAULT_MAX_TOKENS, room)
        self._read_by(request)
        timeline = request.timeline
        timeline.queued = time.monotonic()
        timeline.received = timeline.received or timeline.queued
        with self._door:
            if self._closing:
                raise EngineUnavailable("the engine is stopping")
            self._mailbox.append(request)
        self._wake.set()

    def _read_by(self, request: Request) -> None:
        """Give a request its reader and its stop finder."""
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
            self._runner.enter_thread()
            while not self._out_of_time:
                self._heartbeat.beat()
                closing = self._closing  # whatever came before that is in the mailbox by now
                if not self.step():
                    if closing:
                        break
                    self._wake.wait(_IDLE_BEAT_SECONDS)
                    self._wake.clear()
        except Exception:
            logger.exception("the engine thread failed")
            self._heartbeat.fail()
        finally:
            self._close()
            self._fail_all(EngineUnavailable("the engine stopped"))

    def step(self) -> bool:
        """Compute a part of every running request, and start some that wait.

        Returns:
            False when there was nothing to do.
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
        elif not self._live_requests():
            self._check_integrity()
        self._flush()
        return bool(step)

    def _check_integrity(self) -> None:
        """When idle, everything has to be back in its place; looking takes milliseconds."""
        now = time.monotonic()
        if now - self._checked >= _INTEGRITY_SECONDS:
            self._checked = now
            self._scheduler.check_integrity()

    def _drop_cancelled(self) -> None:
        for request in [r for r in self._live_requests() if r.cancelled]:
            self._fail(request, RequestCancelled())

    def _note_started(self, step: Sequence[Scheduled]) -> None:
        for part in step:
            request = part.request
            if not request.timeline.scheduled:
                request.timeline.scheduled = time.monotonic()
                self.stats.prompt_tokens += request.prompt.num_tokens
                self.stats.cached_tokens += request.num_cached
                self.stats.image_tokens += request.prompt.num_image_tokens
                known = sum(image.embeddings is not None for image in request.prompt.images)
                self.stats.image_cache_hits += known

    def _run_step(self, step: list[Scheduled]) -> list[tuple[Scheduled, Sampled]]:
        """Run a step; where that fails, run its requests one by one and fail those that cannot."""
        if len(step) > 1:
            try:
                return self._attempt(step)
            except Exception as error:
                ids = " ".join(part.request.request_id for part in step)
                logger.exception("a step failed; its requests are tried alone: %s", ids)
                if _is_out_of_memory(error):
                    torch.cuda.empty_cache()
        sampled: list[tuple[Scheduled, Sampled]] = []
        for part in step:
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
        """Do one request's part of a step; what goes wrong there ends that request only."""
        try:
            work(*arguments)
        except GenerationError as error:
            self._fail(request, error)
        except Exception as error:
            logger.exception("request %(request_id)s failed", {"request_id": request.request_id})
            if _is_out_of_memory(error):
                self._fail(request, OutOfMemory())
            else:
                self._runner.check_device()  # where that is gone, nothing can go on
                self._fail(request, EngineFailure("the engine failed while it ran this request"))

    def _take_token(self, request: Request, sampled: Sampled) -> None:
        token_id = sampled.token_id
        request.token_ids.append(token_id)
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
        elif finish_reason is None and len(request.token_ids) >= request.max_tokens:
            finish_reason = "length"
        if finish_reason is not None:
            events += reader.finish(is_cut=finish_reason == "length")
            if stops is reader and reader.stop_string is not None:  # in what was held back
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

    def _text(self, request: Request, token_id: int) -> str:
        """The answer as it is written, which ends where a stop string is found."""
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
        self._end(Output(request, error=error))

    def _end(self, output: Output) -> None:
        """Free what a request holds and send its final output."""
        request = output.request
        request.timeline.finished = time.monotonic()
        self._scheduler.remove(request)
        self._detokenizers.pop(request, None)
        request.encoded.clear()
        request.sampling = request.guide = None
        if request.cancelled:
            self.stats.cancellation_steps.append(self.stats.steps - request.cancelled_at_step)
        if output.error is None:
            self.stats.times.append(_times(request))
        self._outputs.append(output)

    def _flush(self) -> None:
        """Hand over the outputs of a step, once the counts say the same."""
        stats, scheduler = self.stats, self._scheduler
        stats.running, stats.waiting = len(scheduler.running), len(scheduler.waiting)
        stats.preemptions = scheduler.num_preemptions
        stats.image_cache_bytes = self._runner.images.num_bytes
        stats.kv_blocks_used = self._blocks.num_blocks - self._blocks.num_free
        if self._outputs:
            outputs, self._outputs = self._outputs, []
            self._on_outputs(outputs)

    def _live_requests(self) -> list[Request]:
        return [*self._scheduler.waiting, *self._scheduler.running]

    def _fail_all(self, error: GenerationError) -> None:
        while self._mailbox:
            self._scheduler.add(self._mailbox.popleft())
        for request in self._live_requests():
            self._fail(request, error)
        self._flush()


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch has no class of its own for a CPU's.
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
