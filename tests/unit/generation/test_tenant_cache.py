"""Caches divided by tenant: who reuses what, and whose content is evicted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_engine.block_manager import BlockManager, BlockTable, block_hash
from glm_engine.request import Prompt, Request, SamplingParams
from glm_engine.scheduler import Scheduler
from glm_engine.tenant_cache import CacheScope, TenantLRU

SIZE = 4


def test_tenants_and_salts_have_scopes_of_their_own() -> None:
    pairs = [("", ""), ("a", ""), ("", "a"), ("a", "b"), ("b", "a"), ("ab", ""), ('a", "b', "")]
    keys = {CacheScope.of(tenant, salt, divided=True).key for tenant, salt in pairs}
    assert len(keys) == len(pairs)
    assert CacheScope.of("a", "", divided=False) == CacheScope.of("b", "", divided=False)
    assert CacheScope.of("a", "x", divided=False) != CacheScope.of("a", "y", divided=False)
    image = bytes(range(16))
    keys = {CacheScope.of(tenant, "", divided=True).image_key(image) for tenant in ("", "a", "b")}
    assert len(keys) == 3 and image in keys and {len(key) for key in keys} == {16}


def test_others_take_what_is_above_the_floor_oldest_first() -> None:
    order: TenantLRU[int] = TenantLRU(20, floor=0.1)  # two entries
    for key in range(5):
        order.add(key, "a")
    order.add(10, "b")
    taken = [order.pop("b", from_all=False) for _ in range(5)]
    assert taken == [0, 1, 2, 10, None]
    assert order.num_for("b", from_all=False) == 0 and order.num_for("b", from_all=True) == 2
    assert [order.pop("b", from_all=True) for _ in range(3)] == [3, 4, None]


def test_a_tenant_itself_takes_its_own() -> None:
    order: TenantLRU[int] = TenantLRU(20, floor=0.1)
    for key in range(3):
        order.add(key, "a")
    order.add(0, "a")  # used once more
    assert [order.pop("a", from_all=False) for _ in range(3)] == [1, 2, 0]


def test_at_most_half_of_the_cache_is_protected() -> None:
    order: TenantLRU[int] = TenantLRU(100, floor=0.1)
    for key in range(100):
        order.add(key, f"tenant-{key % 20}")
    assert len(order.kept_owners) == 5
    assert order.num_for("other", from_all=False) >= 50


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "pop", "pop_all"]),
            st.integers(0, 12),
            st.sampled_from("abcd"),
            st.integers(1, 5),
        ),
        max_size=80,
    ),
    st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.5]),
)
def test_no_entry_is_lost_or_doubled(steps: list[tuple[str, int, str, int]], floor: float) -> None:
    order: TenantLRU[int] = TenantLRU(30, floor)
    entries: dict[int, tuple[str, int]] = {}
    for what, key, owner, size in steps:
        match what:
            case "add":
                order.add(key, owner, size)
                entries[key] = owner, size
            case "remove" if key in entries:
                order.remove(key)
                del entries[key]
            case "pop" | "pop_all":
                reachable = order.num_for(owner, from_all=what == "pop_all")
                taken = order.pop(owner, from_all=what == "pop_all")
                assert (taken is not None) == bool(reachable)
                if taken is not None:
                    del entries[taken]
        assert len(order) == len(entries) and all(key in order for key in entries)
        protected = len(order) - order.num_for("nobody", from_all=False)
        assert protected <= 15  # half of the capacity, as each size is 1 or more
    left = [order.pop("nobody", from_all=True) for _ in entries]
    assert sorted(left, key=str) == sorted(entries, key=str)
    assert order.kept_owners == [] and not order._kept_size and not order._shared


def _request(tenant: str, first: int, length: int) -> Request:
    prompt = Prompt(
        "prompt",
        np.arange(first, first + length, dtype=np.int32),
        np.zeros((3, length), np.int32),
        0,
    )
    scope = CacheScope.of(tenant, "", divided=True)
    return Request("r", prompt, SamplingParams(), tenant=tenant, scope=scope)


def _run(scheduler: Scheduler, steps: int = 1) -> None:
    for _ in range(steps):
        scheduler.computed(scheduler.schedule())


@pytest.fixture
def scheduler() -> Scheduler:
    blocks = BlockManager(40, SIZE, tenant_floor=0.1)  # 4 blocks for each
    return Scheduler(
        blocks, max_num_seqs=8, max_num_batched_tokens=512, max_num_batched_patches=100
    )


def _hit_of(scheduler: Scheduler, request: Request) -> int:
    scheduler.add(request)
    _run(scheduler)
    hit = request.num_cached
    scheduler.remove(request)
    return hit


def test_the_same_prompt_of_another_tenant_is_computed_again(scheduler: Scheduler) -> None:
    assert _hit_of(scheduler, _request("a", 0, 17)) == 0
    assert _hit_of(scheduler, _request("b", 0, 17)) == 0
    assert _hit_of(scheduler, _request("a", 0, 17)) == 16
    assert _hit_of(scheduler, _request("b", 0, 17)) == 16


def test_a_flood_leaves_another_tenant_its_floor(scheduler: Scheduler) -> None:
    _hit_of(scheduler, _request("quiet", 0, 17))
    flood = [_request("flood", 1000 + 100 * number, 33) for number in range(40)]
    for request in flood:
        scheduler.add(request)
    while scheduler.waiting or scheduler.running:
        _run(scheduler)
        for request in list(scheduler.running):
            scheduler.remove(request)
        scheduler.check_integrity()
    assert _hit_of(scheduler, _request("quiet", 0, 17)) == 16


def test_a_request_that_needs_all_blocks_takes_them(scheduler: Scheduler) -> None:
    """A floor holds back no request that nothing else stands in the way of."""
    _hit_of(scheduler, _request("quiet", 0, 17))
    large = _request("large", 1000, 40 * SIZE)
    scheduler.add(large)
    _run(scheduler)
    assert large.num_computed == 40 * SIZE
    scheduler.remove(large)
    assert _hit_of(scheduler, _request("quiet", 0, 17)) == 0


def test_requests_that_grow_are_preempted_before_a_floor_is_taken(scheduler: Scheduler) -> None:
    _hit_of(scheduler, _request("quiet", 0, 17))
    both = [_request("busy", 1000 + 500 * number, 15 * SIZE) for number in range(2)]
    for request in both:
        scheduler.add(request)
    for step in range(6 * SIZE):
        _run(scheduler)
        for request in scheduler.running:
            request.token_ids.append(step)
        scheduler.check_integrity()
    assert scheduler.num_preemptions
    for request in both:
        scheduler.remove(request)
    assert _hit_of(scheduler, _request("quiet", 0, 17)) == 16


def test_the_first_block_depends_on_the_scope() -> None:
    tokens = np.arange(SIZE, dtype=np.int32)
    assert block_hash(b"", tokens, []) != block_hash(b"a" * 16, tokens, [])
    blocks, table = BlockManager(4, SIZE), BlockTable()
    assert table.owner == "" and blocks.num_free_for("") == 4
