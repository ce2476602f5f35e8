"""Whether one more request may wait. Free of torch and Triton."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glm_engine.errors import EngineUnavailable


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the requests before their prefill may come to.

    Attributes:
        max_bytes: of their images and videos as they were sent.
        max_image_tokens: tokens that stand for their images; an image token is up to 2,352 bytes of
            pixels in memory (four patches).
        max_seconds: a tenant's requests are refused while its oldest has waited this long.
    """

    max_bytes: int
    max_image_tokens: int
    max_seconds: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request before its prefill.

    Attributes:
        since: in seconds of ``time.monotonic()``.
        image_tokens: 0 as long as stage 1 has not told them.
    """

    tenant: str
    since: float
    num_bytes: int = 0
    image_tokens: int = 0


def check_room(
    newcomer: Waiting, waiting: Sequence[Waiting], limits: QueueLimits, now: float
) -> None:
    """Let one more request wait, or not. Alone it always may, however large it is.

    That the oldest has waited for long says more than an estimate could: who comes now will wait
    about as long. It is a tenant's own oldest, since tenants are served in turn.

    Raises:
        EngineUnavailable: with when to try again.
    """
    if not waiting:
        return
    own = [other.since for other in waiting if other.tenant == newcomer.tenant]
    oldest = now - min(own, default=now)
    reason = None
    if oldest > limits.max_seconds:
        reason = f"requests have been waiting for {oldest:.0f} s"
    elif newcomer.num_bytes + sum(other.num_bytes for other in waiting) > limits.max_bytes:
        reason = f"more than {limits.max_bytes} bytes of images would wait"
    elif (
        newcomer.image_tokens + sum(other.image_tokens for other in waiting)
        > limits.max_image_tokens
    ):
        reason = f"more than {limits.max_image_tokens} image tokens would wait"
    if reason is not None:
        raise queue_full(reason, oldest)


def queue_full(reason: str, oldest: float = 0.0) -> EngineUnavailable:
    """The error for a request that may not wait; half of what others waited is a good time to
    come back."""
    seconds = min(60, max(1, math.ceil(oldest / 2)))
    return EngineUnavailable(f"queue full: {reason}; retry in {seconds} s")
