"""Jobs in, prompts to the engine out: what stage 2 does with stage 1. Free of Triton."""

import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from hashlib import blake2b
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
from glm_engine.vision import KnownImage
from glm_triton.admission import Admission
from glm_triton.jobs import Job

# The first four are the prompt itself, in the forms that it may have.
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
)
# What stage 1 is told about the entries of `image`, besides: see its config.pbtxt.
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
)
# Of an image's content hash, as preprocessing makes it too.
_HASH_BYTES = 16
# BLS calls wait for a preprocessing process; more threads than processes keep those busy.
_THREADS = 8
# A picture that killed one process may kill another, but no third.
_ATTEMPTS = 2
# As long as whoever watches Triton may need to load it again; then requests fail at once.
_PATIENCE_SECONDS = 15.0
_RETRY_SECONDS = 0.1
# Triton's own sentences: while preprocessing is loaded again, of a process of it that has died,
_NOT_LOADED = re.compile(r"is not ready|unknown model|not found|no available versions")
_DEAD_PROCESS = re.compile(r"is not healthy|Stub process")
# and of a tensor for which /dev/shm has no room.
_NO_SHARED_MEMORY = re.compile(r"shared memory", re.IGNORECASE)

Tensors = Mapping[str, "np.ndarray[Any, Any]"]
Infer = Callable[[str, Tensors], Tensors]

logger = logging.getLogger("generation")


class StageOneError(Exception):
    """What Triton or stage 1 answered instead of a prompt; ``text`` as it came."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Preprocessing:
    """Gets the prompts of jobs from stage 1, and hands them to the engine.

    Args:
        infer: from a request id and the inputs of stage 1 to its outputs; called by several
            threads. Raises StageOneError.
        fail: ends a job that the engine does not get.

    Attributes:
        seconds: from a job's arrival to its prompt, one entry each; readers take them from the
            left.
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
        self._threads = [
            threading.Thread(target=self._run, name=f"bls-{number}", daemon=True)
            for number in range(_THREADS)
        ]

    @property
    def is_idle(self) -> bool:
        """Whether no job waits for a thread."""
        return not self._queue

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> None:
        """Prepare this job when its tenant's turn comes."""
        self._queue.put(job.tenant, job)

    def close(self) -> None:
        """Take no more; what waits is still prepared."""
        self._queue.close()

    def join(self) -> None:
        """Wait until what waited has been prepared."""
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
            if "return_image_sizes" not in job.flags:  # which only the file tells
                inputs, known = self._without_known_images(inputs)
            outputs = self._call(job, inputs)
            job.image_sizes = outputs["image_size"]
            prompt = self._to_prompt(outputs, job, known)
            job.image_tokens = prompt.num_image_tokens
            self._admission.check_prompt(job)
            tools = _tools(job.prompt_inputs)
            guides = [
                self._engine.grammars.compile(job.params, tools, prompt)
                for _ in range(job.params.n)
            ]
            functions = {tool["function"]["name"]: tool["function"] for tool in tools}
            choices = job.set_prompt(
                prompt, guides, {name: one.get("parameters") for name, one in functions.items()}
            )
            self.seconds.append(time.monotonic() - job.received)
            for choice in choices:
                self._engine.add(choice.request)
            if job.cancelled:  # set while this thread was between the two checks
                # A job that was answered already has forgotten them.
                for choice in choices:
                    self._engine.abort(choice.request)
        except GenerationError as error:
            self._fail(job, error)
        except Exception as error:
            logger.exception(
                "request %(request_id)s failed before it reached the engine",
                {"request_id": job.request_id},
            )
            is_full = isinstance(error, MemoryError) or _NO_SHARED_MEMORY.search(str(error))
            fault = EngineFailure("the request could not be prepared")
            self._fail(job, OutOfMemory() if is_full else fault)

    def _call(self, job: Job, inputs: Tensors) -> Tensors:
        """Stage 1's outputs. A process of it that dies is loaded again while its requests wait."""
        attempts = 0
        while True:
            try:
                outputs = self._infer(job.request_id, inputs)
            except StageOneError as answer:
                text = answer.text
            else:
                self._lost_since = None
                return outputs
            error = error_of_stage_one(text)
            if not isinstance(error, EngineUnavailable):
                raise error
            died = _DEAD_PROCESS.search(text) is not None
            attempts += died
            if not (died or _NOT_LOADED.search(text)) or attempts >= _ATTEMPTS:
                raise error
            now = time.monotonic()
            self._lost_since = self._lost_since or now
            if now - self._lost_since > _PATIENCE_SECONDS or job.cancelled:
                raise error
            time.sleep(_RETRY_SECONDS)

    def _without_known_images(self, inputs: Tensors) -> tuple[Tensors, dict[bytes, KnownImage]]:
        """Inputs that say what is known of the images, instead of those images; and what it is."""
        if "image" not in inputs or not inputs["image"].size:
            return inputs, {}
        entries = inputs["image"].ravel()
        budgets = inputs.get("image_max_pixels", np.zeros(len(entries), np.int32)).tolist()
        if len(budgets) != len(entries):
            return inputs, {}  # stage 1 refuses it
        hashes = [_content_hash(*image) for image in zip(entries, budgets, strict=True)]
        known = {name: found for name in hashes if (found := self._engine.known_image(name))}
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

    def _to_prompt(self, outputs: Tensors, job: Job, known: Mapping[bytes, KnownImage]) -> Prompt:
        return Prompt(
            field=job.prompt_field,
            input_ids=outputs["input_ids"],
            position_ids=outputs["position_ids"],
            rope_delta=int(outputs["rope_delta"][0]),
            images=place_images(
                outputs["input_ids"],
                self._engine.image_token_id,
                self._engine.merge_size,
                outputs["image_grid_thw"],
                outputs["image_hash"],
                outputs["patches"],
                outputs["image_frames"],
                {name: image.embeddings for name, image in known.items()},
            ),
        )


def error_of_stage_one(text: str) -> GenerationError:
    """An error of stage 1 by its details, or of Triton by its sentence: BLS (Triton 24.10) makes
    every code INTERNAL."""
    try:
        details = json.loads(text)
    except ValueError:
        if _NO_SHARED_MEMORY.search(text):
            return OutOfMemory()
        return EngineUnavailable(f"preprocessing is not available: {text}", stage="preprocessing")
    if details["status"] == InvalidRequest.status:
        return InvalidRequest(details["param"], details["message"], code=details["code"])
    return EngineFailure(details["message"])


def _content_hash(image: bytes, max_pixels: int) -> bytes:
    """The name of an image, as preprocessing gives it."""
    name = blake2b(image, digest_size=_HASH_BYTES)
    if max_pixels:
        name.update(b"%d" % max_pixels)
    return name.digest()


def _tools(prompt_inputs: Tensors) -> list[dict[str, Any]]:
    """The tools that stage 1 has found to be in order."""
    given = prompt_inputs.get("tools")
    return json.loads(given.ravel()[0]) or [] if given is not None and given.size else []
