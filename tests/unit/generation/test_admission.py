"""Who may wait, and in which order stage 1 gets those that do."""

import threading

import pytest

from glm_engine.errors import EngineUnavailable
from glm_engine.fair_queue import FairQueue
from glm_triton.admission import Pace, QueueLimits, check_capacity, check_wait
from glm_triton.jobs import Waiting
from waiting import TIMEOUT

LIMITS = QueueLimits(max_bytes=100, max_image_tokens=50)


def test_requests_within_the_limits_are_admitted() -> None:
    waiting = [Waiting("", 90.0, num_bytes=60, image_tokens=30)]
    check_capacity(Waiting("", 100.0, num_bytes=40, image_tokens=20), waiting, LIMITS)


@pytest.mark.parametrize(
    ("newcomer", "reason"),
    [
        (
            Waiting("", 100.0, num_bytes=41),
            "more than 100 bytes of images and videos would be queued",
        ),
        (Waiting("", 100.0, image_tokens=21), "more than 50 image tokens would be queued"),
    ],
)
def test_exceeding_a_queue_limit_is_rejected(newcomer: Waiting, reason: str) -> None:
    waiting = [Waiting("", 90.0, num_bytes=60, image_tokens=30)]
    with pytest.raises(EngineUnavailable) as caught:
        check_capacity(newcomer, waiting, LIMITS)
    assert str(caught.value) == f"queue full: {reason}; retry in 1 s"


def test_empty_queue_admits_any_size() -> None:
    check_capacity(Waiting("", 0.0, num_bytes=10_000, image_tokens=10_000), [], LIMITS)
    check_wait(Waiting("", 0.0), [], 30, 0.001, 1000.0)


def test_only_the_tenant_with_old_requests_is_rejected() -> None:
    waiting = [Waiting("slow", 60.0), Waiting("other", 99.0)]
    with pytest.raises(EngineUnavailable, match=r"waiting for 40 s; retry in 20 s$"):
        check_wait(Waiting("slow", 100.0), waiting, 30, None, 100.0)
    check_wait(Waiting("other", 100.0), waiting, 30, None, 100.0)
    check_wait(Waiting("new", 100.0), waiting, 30, None, 100.0)


def test_known_rate_takes_precedence_over_age() -> None:
    """A queue that was too long and is not any more: who comes now waits 2 s, the oldest 40."""
    check_wait(Waiting("", 100.0), [Waiting("", 60.0)] * 20, 30, 10.0, 100.0)


def test_too_long_estimated_wait_is_rejected_at_once() -> None:
    waiting = [Waiting("", 80.0)] * 60
    check_wait(Waiting("", 100.0), waiting, 30, 2.0, 100.0)
    with pytest.raises(EngineUnavailable, match=r"estimated wait is 40 s; retry in 20 s$"):
        check_wait(Waiting("", 100.0), waiting, 30, 1.5, 100.0)


def test_free_slots_reduce_the_estimated_wait() -> None:
    """A burst: 64 go into the idle engine at once, and 44 wait for less than 2 s at 22 a second."""
    burst = [Waiting("", 100.0)] * 108
    check_wait(Waiting("", 100.0), burst, 2, 22.0, 100.0, free_slots=64)
    with pytest.raises(EngineUnavailable, match="estimated wait"):
        check_wait(Waiting("", 100.0), [*burst, burst[0]], 2, 22.0, 100.0, free_slots=64)


def test_other_tenants_count_round_robin() -> None:
    """Beside 1,000 of another tenant the third of mine has two of mine and three others before."""
    waiting = [Waiting("flood", 80.0)] * 1000 + [Waiting("mine", 80.0)] * 2
    check_wait(Waiting("mine", 100.0), waiting, 30, 5 / 30, 100.0)
    with pytest.raises(EngineUnavailable, match="estimated wait"):
        check_wait(Waiting("mine", 100.0), waiting, 30, 4.9 / 30, 100.0)


def test_pace_measures_the_rate() -> None:
    pace = Pace()
    pace.begin(100.0)
    assert pace.rate(101.0, 64) is None
    pace.note(101.0)
    pace.note(102.0)
    assert pace.rate(104.0, 64) == 2 / 4
    for second in range(105, 125):
        pace.note(float(second))
    assert pace.rate(125.0, 64) == 10 / 10  # of the last ten seconds
    pace.begin(126.0)
    assert pace.rate(126.0, 64) is None


def test_new_queue_estimates_the_rate_from_earlier_run_times() -> None:
    pace = Pace()
    for _ in range(250):
        pace.note_run(0.001)  # test requests
    for _ in range(4):
        pace.note_run(4.0)
    pace.begin(100.0)
    assert pace.rate(100.0, 64) == pytest.approx(16, rel=0.1)
    assert pace.rate(104.0, 64) == pytest.approx(8, rel=0.1)  # none of them has left
    for _ in range(64):
        pace.note(104.0)
    assert pace.rate(104.0, 64) == pytest.approx(16, rel=0.1)
    assert pace.rate(110.0, 64) == 64 / 10  # by now it speaks for itself
    assert pace.rate(120.0, 64) is None


def test_tenants_are_served_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.put(item[0], item)
    assert len(queue) == 6
    assert [queue.get() for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    queue.put("a", "a4")
    queue.close()
    assert [queue.get(), queue.get()] == ["a4", None]


@pytest.mark.timing
def test_blocked_get_receives_the_next_item() -> None:
    queue: FairQueue[int] = FairQueue()
    got: list[int | None] = []
    threads = [threading.Thread(target=lambda: got.append(queue.get())) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.put("", 1)
    queue.put("", 2)
    queue.close()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(got, key=str) == [1, 2, None]
