"""Gets the prompts of jobs from stage 1 for the engine. Independent of Triton."""

import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np

from glm_engine.engine import Engine
from glm_engine.errors import (
    EngineFailure,
    EngineUnavailable,
    GenerationError,
    InvalidRequest,
    OutOfMemory,
    RequestCancelled,
)
from glm_engine.fair_queue import FairQueue
from glm_engine.request import Prompt, place_images
from glm_engine.tenant_cache import CacheScope
from glm_engine.vision import KnownImage
from glm_triton.admission import Admission
from glm_triton.jobs import Choice, Job

# The first four are the alternative forms of the prompt.
PROMPT_INPUTS = (
    "messages",
    "text_input",
    "prompt",
    "prompt_token_ids",
    "tools",
    "chat_template_kwargs",
    "image",
    "image_max_pixels",
    "video",
    "mm_processor_kwargs",
    "questions",
)
# Additional inputs of stage 1 that describe the entries of `image`; see its config.pbtxt.
KNOWN_IMAGE_INPUTS = ("image_hash", "image_grid")
PROMPT_OUTPUTS = (
    "input_ids",
    "position_ids",
    "rope_delta",
    "patches",
    "image_grid_thw",
    "image_hash",
    "image_frames",
    "image_size",
    "prompt_length",
    "prompt_images",
)
# Additional outputs for `questions`.
QUESTION_OUTPUTS = ("option_count", "option_length", "option_ids")
# Size of an image's content hash; must match stage 1.
_HASH_BYTES = 16
# BLS calls block until a preprocessing process is free; more threads than processes keep all busy.
_THREADS = 8
# A picture that kills a process is retried once only, so it kills two processes at most.
_ATTEMPTS = 2
# Time for the launcher to reload stage 1; after that, requests fail at once.
_PATIENCE_SECONDS = 15.0
_RETRY_SECONDS = 0.1
# Triton's own messages: while preprocessing is being reloaded, for a process that has died,
NOT_LOADED = re.compile(
    r"is not ready|not at ready state|unknown model|not found|no available versions"
)
_DEAD_PROCESS = re.compile(r"is not healthy|Stub process")
# and for a tensor that does not fit into /dev/shm.
_NO_SHARED_MEMORY = re.compile(r"shared memory", re.IGNORECASE)

Tensors = Mapping[str, "np.ndarray[Any, Any]"]
Infer = Callable[[str, Tensors], Tensors]

logger = logging.getLogger("generation")


def outputs_for(inputs: Tensors) -> list[str]:
    """The outputs of stage 1 that a call with these inputs needs."""
    return [*PROMPT_OUTPUTS, *(QUESTION_OUTPUTS if "questions" in inputs else ())]


class StageOneError(Exception):
    """An error of Triton or of stage 1; ``text`` is its unmodified message."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Preprocessing:
    """Gets the prompts of jobs from stage 1, and passes them to the engine.

    Args:
        infer: calls stage 1 with a request id and inputs, and returns its outputs; must be
            thread-safe. Raises StageOneError.
        fail: fails a job that does not reach the engine.

    Attributes:
        seconds: for each job the time from its arrival to its prompt; readers pop entries from
            the left.
    """

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        infer: Infer,
        fail: Callable[[Job, GenerationError], None],
    ) -> None:
        self.seconds: deque[float] = deque(maxlen=10_000)
        self._engine = engine
        self._admission = admission
        self._infer = infer
        self._fail = fail
        self._queue: FairQueue[Job] = FairQueue()
        self._lost_since: float | None = None
        # Whether it has ever been there; only then may it be about to come back.
        self._has_been_loaded = False
        self._threads = [
            threading.Thread(target=self._run, name=f"bls-{number}", daemon=True)
            for number in range(_THREADS)
        ]

    @property
    def is_idle(self) -> bool:
        """Whether no job is waiting for a thread."""
        return not self._queue

    @property
    def is_available(self) -> bool:
        """Whether stage 1 answers, as far as known."""
        return self._lost_since is None

    def probe(self) -> None:
        """Look whether a lost stage 1 is back; without requests nothing else would notice."""
        if self._lost_since is not None:
            with suppress(StageOneError):
                self._infer("probe", {"text_input": np.array([b"a"], object)})
                self._lost_since = None

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> None:
        """Enqueue a job; tenants are served in turn."""
        self._queue.put(job.tenant, job)

    def close(self) -> None:
        """Accept no more jobs; those in the queue are still prepared."""
        self._queue.close()

    def join(self) -> None:
        """Wait until the queue has been drained."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._prepare(job)

    def _prepare(self, job: Job) -> None:
        try:
            if job.cancelled:
                raise RequestCancelled
            job.taken = time.monotonic()
            inputs: Tensors = job.prompt_inputs
            known: Mapping[bytes, KnownImage] = {}
            if "return_image_sizes" not in job.flags:  # the sizes are only in the file
                inputs, known = self._without_known_images(inputs, job.scope)
            outputs = self._call(job, inputs)
            job.image_sizes = outputs["image_size"]
            prompts = self._to_prompts(outputs, job, known)
            # Those that questions have in common are encoded once.
            job.image_tokens = sum(
                {
                    image.content_hash: image.num_tokens for p in prompts for image in p.images
                }.values()
            )
            self._admission.check_prompt(job)
            if job.has_questions:
                choices = job.set_questions(prompts, _options(outputs))
            else:
                choices = self._choices(job, prompts[0])
            self.seconds.append(time.monotonic() - job.received)
            for choice in choices:
                self._engine.add(choice.request)
            if job.cancelled:  # set since the check above
                # A job that was answered already has released its choices.
                for choice in choices:
                    self._engine.abort(choice.request)
        except GenerationError as error:
            self._fail(job, error)
        except Exception as error:
            logger.exception(
                "preparing the request failed request_id=%(request_id)s",
                {"request_id": job.request_id},
            )
            is_full = isinstance(error, MemoryError) or _NO_SHARED_MEMORY.search(str(error))
            fault = EngineFailure("the request could not be prepared")
            self._fail(job, OutOfMemory() if is_full else fault)

    def _choices(self, job: Job, prompt: Prompt) -> list[Choice]:
        tools = _tools(job.prompt_inputs)
        guides = [
            self._engine.grammars.compile(job.params, tools, prompt) for _ in range(job.params.n)
        ]
        functions = {tool["function"]["name"]: tool["function"] for tool in tools}
        return job.set_prompt(
            prompt, guides, {name: one.get("parameters") for name, one in functions.items()}
        )

    def _call(self, job: Job, inputs: Tensors) -> Tensors:
        """Call stage 1. If its process dies, retry until it has been reloaded."""
        attempts = 0
        while True:
            try:
                outputs = self._infer(job.request_id, inputs)
            except StageOneError as answer:
                text = answer.text
            else:
                self._lost_since = None
                self._has_been_loaded = True
                return outputs
            error = error_of_stage_one(text)
            if not isinstance(error, EngineUnavailable):
                raise error
            died = _DEAD_PROCESS.search(text) is not None
            attempts += died
            if not (died or NOT_LOADED.search(text)):
                raise error
            now = time.monotonic()
            self._lost_since = self._lost_since or now
            self._has_been_loaded |= died
            if not self._has_been_loaded or attempts >= _ATTEMPTS:
                raise error
            if now - self._lost_since > _PATIENCE_SECONDS or job.cancelled:
                raise error
            time.sleep(_RETRY_SECONDS)

    def _without_known_images(
        self, inputs: Tensors, scope: CacheScope
    ) -> tuple[Tensors, dict[bytes, KnownImage]]:
        """Replace known images by hashes and grids.

        Returns:
            The inputs, and the known images by their hashes as stage 1 knows them.
        """
        if "image" not in inputs or not inputs["image"].size:
            return inputs, {}
        entries = inputs["image"].ravel()
        budgets = inputs.get("image_max_pixels", np.zeros(len(entries), np.int32)).tolist()
        if len(budgets) != len(entries):
            return inputs, {}  # stage 1 rejects it
        kwargs = inputs.get("mm_processor_kwargs", np.array([], object)).ravel()
        kwargs_json = kwargs[0] if kwargs.size else b""
        hashes = [
            _content_hash(*image, kwargs_json) for image in zip(entries, budgets, strict=True)
        ]
        known = {
            name: found
            for name in hashes
            if (found := self._engine.known_image(scope.image_key(name)))
        }
        grids = [known[name].grid if name in known else (0, 0, 0) for name in hashes]
        needed = [
            b"" if name in known else entry for name, entry in zip(hashes, entries, strict=True)
        ]
        described: tuple[np.ndarray[Any, Any], ...] = (
            np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, _HASH_BYTES),
            np.array(grids, np.int32),
        )
        about_images = dict(zip(KNOWN_IMAGE_INPUTS, described, strict=True))
        return {**inputs, "image": np.array(needed, object), **about_images}, known

    def _to_prompts(
        self, outputs: Tensors, job: Job, known: Mapping[bytes, KnownImage]
    ) -> list[Prompt]:
        """The prompt, or that of each question."""
        image_key = job.scope.image_key
        embeddings = {image_key(name): image.embeddings for name, image in known.items()}
        keys = b"".join(image_key(name.tobytes()) for name in outputs["image_hash"])
        hashes = np.frombuffer(keys, np.uint8).reshape(-1, _HASH_BYTES)
        tokens = np.cumsum([0, *outputs["prompt_length"]])
        images = np.cumsum([0, *outputs["prompt_images"]])
        prompts: list[Prompt] = []
        seen: dict[bytes, np.ndarray[Any, Any]] = {}
        rows = outputs["patches"]
        for number, delta in enumerate(outputs["rope_delta"].tolist()):
            own, some = slice(*tokens[number : number + 2]), slice(*images[number : number + 2])
            placed = place_images(
                outputs["input_ids"][own],
                self._engine.image_token_id,
                self._engine.merge_size,
                outputs["image_grid_thw"][some],
                hashes[some],
                rows,
                outputs["image_frames"][some],
                embeddings,
                seen,
            )
            new = {
                one.content_hash: one.patches
                for one in placed
                if one.patches is not None and one.content_hash not in seen
            }
            sent = sum(
                one.patches.size
                for one in placed
                if one.patches is not None and one.content_hash in new
            )
            rows = rows[sent // max(1, rows.shape[1]) :]
            seen |= new
            field = f"questions[{number}]" if job.has_questions else job.prompt_field
            positions = outputs["position_ids"][:, own]
            prompts.append(Prompt(field, outputs["input_ids"][own], positions, delta, placed))
        return prompts


def error_of_stage_one(text: str) -> GenerationError:
    """Convert an error of stage 1 by its details, or one of Triton by its message.

    The code cannot be used: BLS (Triton 24.10) reports all errors as INTERNAL.
    """
    try:
        details = json.loads(text)
    except ValueError:
        if _NO_SHARED_MEMORY.search(text):
            return OutOfMemory()
        return EngineUnavailable(f"preprocessing is not available: {text}", stage="preprocessing")
    if details["status"] == InvalidRequest.status:
        return InvalidRequest(details["param"], details["message"], code=details["code"])
    return EngineFailure(details["message"])


def _content_hash(image: bytes, max_pixels: int, processor_kwargs: bytes) -> bytes:
    """The key of an image; must match that of stage 1."""
    name = blake2b(image, digest_size=_HASH_BYTES)
    if max_pixels:
        name.update(b"%d" % max_pixels)
    name.update(processor_kwargs)
    return name.digest()


def _options(outputs: Tensors) -> list[list[list[int]]]:
    """The tokens of the options of each question."""
    ids = iter(outputs["option_ids"].tolist())
    options = iter([list(islice(ids, length)) for length in outputs["option_length"].tolist()])
    return [list(islice(options, count)) for count in outputs["option_count"].tolist()]


def _tools(prompt_inputs: Tensors) -> list[dict[str, Any]]:
    """The tools of a request, which stage 1 has checked."""
    given = prompt_inputs.get("tools")
    return json.loads(given.ravel()[0]) or [] if given is not None and given.size else []
