"""What the model server says of its model: limits, and defaults of sampling parameters."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from glm_client import Generation, GenerationRequest, GLMError
from glm_frontend.core.backend import Backend

ASK_TIMEOUT = 2.0
ASK_AGAIN_SECONDS = 5.0

TINY_REQUEST = GenerationRequest(
    text_input="hi",
    sampling_parameters={"max_tokens": 1, "temperature": 0},
    request_id="health",
    tenant="health",  # with a turn of its own, however many others wait
    return_limits=True,
)
"""A request that is answered in a step."""


class ModelInfo:
    """Remembers what the first answer to ``TINY_REQUEST`` said.

    Attributes:
        known: as ``glm_client.GenerationDelta.limits``; empty until there was an answer.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._asking: asyncio.Task[None] | None = None
        self._asked = float("-inf")
        self.known: Mapping[str, Any] = {}

    def note(self, answer: Generation) -> None:
        """An answer to ``TINY_REQUEST``."""
        self.known = answer.limits or self.known

    async def get(self) -> Mapping[str, Any]:
        """What is known, after asking if that is nothing; empty where there is no answer."""
        if not self.known and time.monotonic() - self._asked >= ASK_AGAIN_SECONDS:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask())
            # Shielded: the caller's leaving must not end the request of the others.
            await asyncio.shield(self._asking)
        return self.known

    async def _ask(self) -> None:
        try:
            answers = await self._backend.generate_choices(TINY_REQUEST, timeout=ASK_TIMEOUT)
            self.note(answers[0])
        except GLMError:
            self._asked = time.monotonic()
        finally:
            self._asking = None
