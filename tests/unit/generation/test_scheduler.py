"""The scheduler by itself: who runs, with how many tokens, and who has to give way."""

from typing import Any

import numpy as np
import pytest

from glm_engine.block_manager import BlockManager
from glm_engine.request import Prompt, PromptImage, Request, SamplingParams
from glm_engine.scheduler import Scheduled, Scheduler

SIZE = 4


def _scheduler(num_blocks: int = 100, **limits: Any) -> Scheduler:
    limits = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 16,
        "max_num_batched_patches": 64,
        **limits,
    }
    return Scheduler(BlockManager(num_blocks, SIZE), **limits)


def _request(
    length: int, first: int = 0, images: tuple[PromptImage, ...] = (), **params: Any
) -> Request:
    ids = np.arange(first, first + length, dtype=np.int32)
    positions = np.tile(ids, (3, 1))
    prompt = Prompt("text_input", ids, positions, 0, images)
    tenant = params.pop("tenant", "")
    return Request(f"r{first}", prompt, SamplingParams(**params), tenant=tenant)


def _image(start: int, num_tokens: int, name: bytes) -> PromptImage:
    patches = np.zeros((num_tokens * 4, 588), np.uint8)
    return PromptImage(start, num_tokens, (1, 2, num_tokens * 2), name * 16, patches)


def _run(scheduler: Scheduler) -> list[tuple[Request, int, int]]:
    """One step, as the engine does it: computed, then a token for those whose last one is in it."""
    step = scheduler.schedule()
    scheduler.computed(step)
    for part in step:
        for image in part.request.images_between(part.start, part.end):
            part.request.encoded[image] = None
            if image.end <= part.end:
                del part.request.encoded[image]
        if part.is_last:
            part.request.token_ids.append(7)
    scheduler.check_integrity()
    return [(part.request, part.start, part.end) for part in step]


def test_a_long_prompt_is_cut_and_leaves_room_for_those_that_decode() -> None:
    scheduler = _scheduler()
    short, long = _request(3), _request(40, 100)
    scheduler.add(short)
    scheduler.add(long)
    assert _run(scheduler) == [(short, 0, 3), (long, 0, 13)]
    assert _run(scheduler) == [(short, 3, 4), (long, 13, 28)]
    assert _run(scheduler) == [(short, 4, 5), (long, 28, 40)]
    assert _run(scheduler) == [(short, 5, 6), (long, 40, 41)]
    assert len(long.token_ids) == 2


def test_first_come_first_served_within_a_priority() -> None:
    scheduler = _scheduler(max_num_seqs=2)
    later, first, urgent = _request(3, 0), _request(3, 10), _request(3, 20, priority=-1)
    for request in (first, later, urgent):
        scheduler.add(request)
    assert [request for request, *_ in _run(scheduler)] == [urgent, first]
    scheduler.remove(urgent)
    assert [request for request, *_ in _run(scheduler)] == [first, later]


def test_a_prefix_is_computed_once() -> None:
    scheduler = _scheduler()
    first, second = _request(15), _request(15)
    scheduler.add(first)
    _run(scheduler)
    scheduler.add(second)
    # Twelve of its tokens are full blocks; the last block is not full, and the last token is
    # computed in any case.
    assert (second, 12, 15) in _run(scheduler)
    assert second.num_cached == 12
    assert second.table.block_ids[:3] == first.table.block_ids[:3]


def test_a_prompt_that_is_wholly_there_still_computes_its_last_token() -> None:
    scheduler = _scheduler()
    first, second = _request(16), _request(16)
    scheduler.add(first)
    _run(scheduler)
    scheduler.remove(first)
    scheduler.add(second)
    assert _run(scheduler) == [(second, 12, 16)]


def test_two_pictures_with_the_same_placeholders_share_nothing() -> None:
    scheduler = _scheduler()
    ids = np.full(12, 5, np.int32)
    positions = np.tile(ids, (3, 1))
    requests = [
        Request("r", Prompt("text_input", ids, positions, 0, (_image(0, 10, name),)),
                SamplingParams())
        for name in (b"a", b"b", b"a")
    ]  # fmt: skip
    starts = []
    for request in requests:
        scheduler.add(request)
        ((_, start, _),) = [part for part in _run(scheduler) if part[0] is request]
        starts.append(start)
    assert starts == [0, 0, 8]


def test_a_small_pool_preempts_the_last_and_everybody_gets_everything() -> None:
    scheduler = _scheduler(num_blocks=8)
    requests = [_request(6, 100 * index) for index in range(3)]
    for request in requests:
        scheduler.add(request)
    done: list[Request] = []
    for _ in range(100):
        _run(scheduler)
        for request in list(scheduler.running):
            if len(request.token_ids) >= 14:
                scheduler.remove(request)
                done.append(request)
        if len(done) == 3:
            break
    assert done == requests  # the first come are never the ones who wait
    assert scheduler.num_preemptions > 0
    scheduler.check_integrity()


def test_a_preempted_request_computes_its_answer_again_and_goes_on() -> None:
    scheduler = _scheduler(num_blocks=5)
    first, second = _request(8), _request(6, 100)
    for request in (first, second):
        scheduler.add(request)
    while not scheduler.num_preemptions:
        _run(scheduler)
    assert scheduler.waiting == [second] and second.num_computed == 0
    tokens = len(second.token_ids)
    assert tokens > 0
    scheduler.remove(first)
    assert _run(scheduler)[0][2] == 6 + tokens
    assert len(second.token_ids) == tokens + 1


def test_a_prompt_waits_until_it_fits_as_a_whole() -> None:
    scheduler = _scheduler(num_blocks=6)
    first, second = _request(12), _request(13, 100)
    for request in (first, second):
        scheduler.add(request)
    assert _run(scheduler) == [(first, 0, 12)]
    assert scheduler.waiting == [second]
    scheduler.remove(first)
    assert _run(scheduler) == [(second, 0, 13)]


def test_images_of_a_step_are_limited_and_one_that_is_larger_goes_alone() -> None:
    scheduler = _scheduler(max_num_batched_tokens=100)
    images = (_image(2, 10, b"a"), _image(14, 10, b"b"), _image(26, 20, b"c"))
    request = _request(50, images=images)
    scheduler.add(request)
    assert _run(scheduler) == [(request, 0, 14)]  # 40 patches of 64, the next would be 80
    assert _run(scheduler) == [(request, 14, 26)]
    assert _run(scheduler) == [(request, 26, 50)]  # 80 patches, but alone


def test_an_image_cut_by_a_chunk_is_encoded_once() -> None:
    scheduler = _scheduler(max_num_batched_tokens=8)
    image = _image(2, 10, b"a")
    request = _request(20, images=(image,))
    scheduler.add(request)
    scheduler.computed(scheduler.schedule())
    request.encoded[image] = object()  # by the model runner
    (part,) = scheduler.schedule()
    assert (part.start, part.end) == (8, 16)


def test_a_choice_waits_for_the_one_that_computes_their_prompt() -> None:
    scheduler = _scheduler()
    leader, follower = _request(30), _request(30)
    follower.leader = leader
    scheduler.add(leader)
    scheduler.add(follower)
    other = _request(2, 500)
    scheduler.add(other)
    assert _run(scheduler) == [(leader, 0, 16)]
    assert _run(scheduler) == [(leader, 16, 30), (other, 0, 2)]
    assert (follower, 28, 30) in _run(scheduler)


def test_a_choice_goes_on_alone_where_its_leader_is_gone() -> None:
    scheduler = _scheduler()
    leader, follower = _request(30), _request(30)
    follower.leader = leader
    scheduler.add(leader)
    scheduler.add(follower)
    _run(scheduler)
    scheduler.remove(leader)
    assert _run(scheduler) == [(follower, 16, 30)]


def test_max_num_batched_tokens_below_max_num_seqs_is_rejected() -> None:
    with pytest.raises(ValueError, match="must be at least max_num_seqs"):
        _scheduler(max_num_seqs=32)


def test_nothing_to_do_is_an_empty_step() -> None:
    step: list[Scheduled] = _scheduler().schedule()
    assert step == []


def test_tenants_get_equal_shares_of_the_computed_tokens() -> None:
    scheduler = _scheduler(max_num_seqs=1)
    flood = [_request(8, 100 * number, tenant="flood") for number in range(20)]
    trickle = [_request(4, 5000 + 100 * number, tenant="trickle") for number in range(5)]
    for request in [*flood, *trickle]:
        scheduler.add(request)
    served: list[Request] = []
    while len(served) < 15:
        ((request, _, _),) = _run(scheduler)
        served.append(request)
        scheduler.remove(request)
    # Of every three, two are the trickle's, whose requests are half as long.
    assert served[:9].count(flood[0]) == 1
    assert [request.tenant for request in served[:9]].count("trickle") == 5
    assert served[:1] == flood[:1]
    # What the trickle leaves is for the flood; each in its own order.
    assert [request for request in served if request.tenant == "flood"] == flood[:10]
    assert [request for request in served if request.tenant == "trickle"] == trickle


def test_new_tenant_has_no_claim_to_unused_shares() -> None:
    scheduler = _scheduler(max_num_seqs=1)
    for number in range(4):
        scheduler.add(_request(8, 100 * number, tenant="early"))
    for _ in range(2):
        ((request, _, _),) = _run(scheduler)
        scheduler.remove(request)
    for number in range(4):
        scheduler.add(_request(8, 5000 + 100 * number, tenant="late"))
    order = []
    while scheduler.waiting or scheduler.running:
        ((request, _, _),) = _run(scheduler)
        order.append(request.tenant)
        scheduler.remove(request)
    assert order == ["early", "late", "early", "late", "late", "late"]


def test_priority_comes_before_fairness() -> None:
    scheduler = _scheduler(max_num_seqs=1)
    scheduler.add(_request(4, 0, tenant="a"))
    _run(scheduler)
    scheduler.add(_request(4, 100, tenant="b"))
    urgent = _request(4, 200, tenant="a", priority=-1)
    scheduler.add(urgent)
    scheduler.remove(scheduler.running[0])
    assert _run(scheduler)[0][0] is urgent
