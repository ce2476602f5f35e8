"""Who may wait, and in which order stage 1 gets those that do."""

import threading

import pytest

from glm_engine.admission import QueueLimits, Waiting, check_room
from glm_engine.errors import EngineUnavailable
from glm_engine.fair_queue import FairQueue

LIMITS = QueueLimits(max_bytes=100, max_image_tokens=50, max_seconds=30)


def test_there_is_room() -> None:
    waiting = [Waiting("", 90.0, num_bytes=60, image_tokens=30)]
    check_room(Waiting("", 100.0, num_bytes=40, image_tokens=20), waiting, LIMITS, 100.0)


@pytest.mark.parametrize(
    ("newcomer", "reason"),
    [
        (Waiting("", 100.0, num_bytes=41), "more than 100 bytes of images would wait"),
        (Waiting("", 100.0, image_tokens=21), "more than 50 image tokens would wait"),
    ],
)
def test_too_much_waits(newcomer: Waiting, reason: str) -> None:
    waiting = [Waiting("", 90.0, num_bytes=60, image_tokens=30)]
    with pytest.raises(EngineUnavailable) as caught:
        check_room(newcomer, waiting, LIMITS, 100.0)
    assert str(caught.value) == f"queue full: {reason}; retry in 5 s"


def test_alone_any_request_may_wait() -> None:
    check_room(Waiting("", 0.0, num_bytes=10_000, image_tokens=10_000), [], LIMITS, 1000.0)


def test_a_tenant_whose_requests_wait_too_long_is_refused_and_no_other() -> None:
    waiting = [Waiting("slow", 60.0), Waiting("other", 99.0)]
    with pytest.raises(EngineUnavailable, match=r"waiting for 40 s; retry in 20 s$"):
        check_room(Waiting("slow", 100.0), waiting, LIMITS, 100.0)
    check_room(Waiting("other", 100.0), waiting, LIMITS, 100.0)
    check_room(Waiting("new", 100.0), waiting, LIMITS, 100.0)


def test_tenants_are_served_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.put(item[0], item)
    assert [queue.get() for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    queue.put("a", "a4")
    queue.close()
    assert [queue.get(), queue.get()] == ["a4", None]


def test_who_waits_for_an_item_gets_it() -> None:
    queue: FairQueue[int] = FairQueue()
    got: list[int | None] = []
    threads = [threading.Thread(target=lambda: got.append(queue.get())) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.put("", 1)
    queue.put("", 2)
    queue.close()
    for thread in threads:
        thread.join(5)
    assert sorted(got, key=str) == [1, 2, None]
