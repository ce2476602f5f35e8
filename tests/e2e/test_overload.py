"""More requests than there is room for: refused at once, and none of the others is lost.

Judged is how each ends, not when: a slow machine has two minutes for what it has taken.
"""

import asyncio

import pytest

from e2e.calls import chat, content, metrics, post
from stress.overload import Overload
from tools.stack import Stack
from waiting import wait_until


@pytest.mark.timing
def test_nothing_is_lost_and_nothing_comes_twice(stack: Stack) -> None:
    overload = Overload(stack, tokens=128)
    level = asyncio.run(overload.level(flood=250, trickle=0, seconds=3))
    assert level.count("lost") == 0 and level.others == [] and level.doubles == 0
    # A 429 without Retry-After would be among the others.
    assert level.count("429") > 0 and level.count("answered") >= 64
    assert level.count("429", "503", "answered") == len(level.outcomes)

    def is_idle() -> bool:
        values = metrics(stack)
        names = ("requests_running", "requests_waiting", "kv_cache_blocks_used")
        return all(values[f"glm_{name}"] == 0 for name in names)

    wait_until(is_idle)
    assert content(post(stack, chat("What is in this image?", "plot-42.png"))) == "The number 42."
