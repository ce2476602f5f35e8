"""Selects the requests of the next step, and their numbers of tokens. Independent of torch.

There are no separate prefill and decode phases: every request has tokens, some of which are
computed already, and a step computes at most ``max_num_batched_tokens`` more over all requests. So
a long prompt is split into chunks that fill up the steps of the running streams (chunked prefill),
and a preempted request recomputes the tokens of its answer along with its prompt (preemption by
recompute).
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from glm_engine.block_manager import BlockManager, block_hash
from glm_engine.request import Request


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One request's part of a step: its tokens from ``start`` to ``end``.

    Attributes:
        is_last: whether it includes the request's last token, and a new one is to be sampled.
    """

    request: Request
    start: int
    end: int
    is_last: bool


class Scheduler:
    """First come, first served, within a priority and a tenant. For the engine thread only.

    Among waiting tenants, the one that has been served the least comes first (the virtual token
    counter of "Fairness in Serving Large Language Models", Sheng et al., OSDI 2024): each gets an
    equal share of the computed tokens, and unused shares go to the others.

    Attributes:
        waiting, running: requests in scheduling order.
        parked: computed questions, and those of their branches that have not started from their
            blocks yet.
        num_preemptions: since the start.
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_num_batched_patches: int,
    ) -> None:
        """Create an idle scheduler.

        Args:
            blocks: all blocks of the cache.
            max_num_seqs: maximum number of running requests.
            max_num_batched_tokens: per step; at least ``max_num_seqs``.
            max_num_batched_patches: image patches encoded per step; a larger image is encoded
                alone.
        """
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")
        self._blocks = blocks
        self._max_num_seqs = max_num_seqs
        self._max_tokens = max_num_batched_tokens
        self._max_patches = max_num_batched_patches
        self._arrivals = 0
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.parked: dict[Request, set[Request]] = {}
        self.num_preemptions = 0
        # Computed tokens of each tenant with live requests.
        self._served: dict[str, int] = {}

    def add(self, request: Request) -> None:
        """Enqueue a new request."""
        if request.tenant not in self._served:
            # A new tenant has no claim to shares that it did not use before.
            self._served[request.tenant] = min(self._served.values(), default=0)
        if request.option is not None and request.leader is not None:
            request.arrival = request.leader.arrival  # before other questions, to free its blocks
        else:
            self._arrivals += 1
            request.arrival = self._arrivals
        request.table.owner = request.scope.owner
        insort(self.waiting, request, key=_order)

    def remove(self, request: Request) -> None:
        """Remove a request from its queue, and free its blocks."""
        for queue in (self.waiting, self.running):
            if request in queue:
                queue.remove(request)
        self.parked.pop(request, None)
        self._blocks.release(request.table)
        others = (other.tenant for queue in (self.waiting, self.running) for other in queue)
        if request.tenant not in others:
            self._served.pop(request.tenant, None)

    def park(self, question: Request, branches: Sequence[Request]) -> None:
        """Enqueue the branches of a computed question, which keeps its blocks until they start."""
        self.running.remove(question)
        self.parked[question] = set(branches)
        for branch in branches:
            self.add(branch)

    def schedule(self) -> list[Scheduled]:
        """The requests of the next step: decoding ones first, then those in prefill.

        Every running request is part of the step unless an earlier prompt uses up its tokens.
        Empty only if nothing is waiting or running.
        """
        step: list[Scheduled] = []
        tokens, patches = self._max_tokens, self._max_patches
        preempted = False
        decoding = [r for r in self.running if r.num_tokens - r.num_computed == 1]
        prefilling = [r for r in self.running if r.num_tokens - r.num_computed > 1]
        for request in [*decoding, *prefilling]:
            if request not in self.running:
                continue  # preempted above
            end, used = self._reach(request, tokens, patches)
            if end == request.num_computed:
                continue
            while not self._blocks.grow(request.table, end, from_all=self._is_alone(request)):
                if self._release_parked():
                    continue
                victim = self.running[-1]
                preempted = True
                self._preempt(victim)
                dropped = [part for part in step if part.request is victim]
                for part in dropped:
                    step.remove(part)
                    tokens += part.end - part.start
                if victim is request:
                    break
            else:
                step.append(_part(request, end))
                tokens -= end - request.num_computed
                patches -= used
        if not preempted:
            self._admit(step, tokens, patches)
        return step

    def _admit(self, step: list[Scheduled], tokens: int, patches: int) -> None:
        """Start waiting requests while there are enough free blocks for their whole prompts."""
        for request in self._fair_order():
            if tokens <= 0 or len(self.running) >= self._max_num_seqs:
                return
            if self._waits_for_leader(request):
                continue
            while not self._begin(request):
                # What others of this step begin from has to stay.
                if step or not self._release_parked():
                    return
            end, used = self._reach(request, tokens, patches)
            if end == request.num_computed:  # its image exceeds the patches left in this step
                self._blocks.release(request.table)
                request.num_computed = 0
                return
            self._blocks.grow(request.table, end, from_all=self._is_alone(request))
            self._note_fork(request)
            if not request.token_ids or request.scoring is not None:
                request.num_cached = request.num_computed
            self.waiting.remove(request)
            insort(self.running, request, key=_order)
            step.append(_part(request, end))
            tokens -= end - request.num_computed
            patches -= used

    def _begin(self, request: Request) -> bool:
        """Give a waiting request the blocks that it can begin from; False if too few are free."""
        size, leader = self._blocks.block_size, request.leader
        if leader is not None and not request.block_hashes:
            request.block_hashes = leader.block_hashes[: request.num_shared // size]
        hashes = self._cached_hashes(request)
        if leader is not None and len(leader.table.block_ids) * size >= request.num_shared:
            begins_at = min(request.num_shared, leader.num_computed)
        else:
            begins_at = 0
        is_fork = begins_at > len(hashes) * size
        kept = begins_at // size if is_fork else len(hashes)
        reused_free = 0 if is_fork else self._blocks.count_cached(hashes)[1]
        needed = self._blocks.num_blocks_for(request.num_tokens) - kept
        # Reserve one block for each running request.
        free = self._blocks.num_free_for(request.table.owner, from_all=self._is_alone(request))
        if needed + reused_free > free - len(self.running):
            return False
        if is_fork:
            assert leader is not None
            self._blocks.fork(request.table, leader.table, begins_at)
            request.num_computed = begins_at
        else:
            self._blocks.reuse(request.table, hashes)
            request.num_computed = len(hashes) * size
        return True

    def _is_alone(self, request: Request) -> bool:
        """Whether no other request has blocks: then it may take those that other tenants keep."""
        return not self.parked and all(other is request for other in self.running)

    def _note_fork(self, request: Request) -> None:
        """Have the tokens copied that a forked request shares in a block that is not full."""
        leader = request.leader
        if leader is None:
            return
        full, tail = divmod(request.num_computed, self._blocks.block_size)
        if tail:
            request.tail_copy = leader.table.block_ids[full], request.table.block_ids[full]
        if leader in self.parked:
            self.parked[leader].discard(request)

    def _release_parked(self) -> bool:
        """Free the blocks of the latest parked question; its branches compute what they need."""
        if not self.parked:
            return False
        question, _ = self.parked.popitem()
        self._blocks.release(question.table)
        return True

    def _fair_order(self) -> list[Request]:
        """The waiting requests in the order in which they may start."""
        if len(self._served) < 2:
            return list(self.waiting)
        served = self._served
        return sorted(self.waiting, key=lambda r: (r.params.priority, served[r.tenant], r.arrival))

    def _waits_for_leader(self, request: Request) -> bool:
        leader = request.leader
        if leader is None or leader.num_computed >= leader.prompt.num_tokens:
            return False
        return leader in self.running or leader in self.waiting

    def _reach(self, request: Request, tokens: int, patches: int) -> tuple[int, int]:
        """The end of a request's part of a step, and the number of patches to encode for it."""
        start = request.num_computed
        end = min(request.num_tokens, start + tokens)
        used = 0
        for image in request.images_between(start, end):
            if image.embeddings is not None or image in request.encoded:
                continue
            assert image.patches is not None
            count = len(image.patches)
            if used + count > patches and (used or patches < self._max_patches):
                return max(start, image.start), used
            used += count
        return end, used

    def _cached_hashes(self, request: Request) -> list[bytes]:
        """Hashes of the cached blocks that a starting request can reuse."""
        if not self._blocks.prefix_caching:
            return []
        # The log probabilities that follow cached tokens are not cached.
        self._extend_hashes(request, request.first_row)
        usable = request.block_hashes[: request.first_row // self._blocks.block_size]
        found, _ = self._blocks.count_cached(usable)
        return usable[:found]

    def computed(self, step: list[Scheduled]) -> None:
        """Update the requests after a step, before new tokens are appended to them."""
        for part in step:
            request = part.request
            request.num_computed, request.tail_copy = part.end, None
            self._served[request.tenant] += part.end - part.start
            size = self._blocks.block_size
            if self._blocks.prefix_caching and part.end // size > part.start // size:
                self._extend_hashes(request, part.end)
                self._blocks.seal(request.table, request.block_hashes[: part.end // size])
        # Only now: a step that fails is run again, from the same blocks.
        for question in [question for question, left in self.parked.items() if not left]:
            del self.parked[question]
            self._blocks.release(question.table)

    def _extend_hashes(self, request: Request, num_tokens: int) -> None:
        size, hashes = self._blocks.block_size, request.block_hashes
        for start in range(len(hashes) * size, num_tokens - size + 1, size):
            images = request.images_between(start, start + size)
            hashes.append(
                block_hash(
                    hashes[-1] if hashes else request.scope.key,
                    request.ids_between(start, start + size),
                    [image.content_hash for image in images],
                )
            )

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._blocks.release(request.table)
        request.num_computed, request.tail_copy = 0, None
        request.encoded.clear()
        insort(self.waiting, request, key=_order)
        self.num_preemptions += 1

    def check_integrity(self) -> None:
        """Raise AssertionError if blocks and requests are inconsistent."""
        holders = [*self.running, *self.parked]
        self._blocks.check_integrity(request.table for request in holders)
        for request in self.waiting:
            assert not request.table.block_ids, "a waiting request holds blocks"
        for request in self.running:
            held = len(request.table.block_ids) * self._blocks.block_size
            assert request.num_computed <= held, "computed tokens without a block"


def _part(request: Request, end: int) -> Scheduled:
    is_last = end == request.num_tokens and request.scoring is None
    return Scheduled(request, request.num_computed, end, is_last)


def _order(request: Request) -> tuple[int, int]:
    return request.params.priority, request.arrival
