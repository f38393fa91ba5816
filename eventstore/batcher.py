"""Coalesces requests: those that arrive while a call is under way go together in the next call.

This is the mechanism of group commit, of shared reads and of the small queries. An idle batcher calls at once,
without a timer, so the first token of an answer waits for nothing; a busy one gets larger batches by itself. A
request never joins a batch that has left: "nothing is newer" is then true of a moment after the request was made.

Every token passes here, so a waiting request is a bare task that is rescheduled by hand, and one task watches the
deadlines of all: a `trio.Event` and a cancel scope for each request cost more than all the rest of this file.
It knows no SQL, no events and no appends.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from eventstore.db_retry import pause_before_retry
from eventstore.errors import StoreUnavailable

Q = TypeVar("Q")
A = TypeVar("A")

SPLIT: Final = 16
"""From this many ready requests on, a batch takes only half of them if another lane is idle. Then one lane
prepares its batch while the other waits for the database."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`requests` and `weight` bound one batch. `waiting` bounds the requests that no batch has taken yet."""

    requests: int
    weight: int
    waiting: int


class _Waiting(Protocol):
    """A task that waits for an answer; compared by identity."""

    def settle(self, answer: None, error: Exception) -> None:
        """Ends the wait with an error."""


_Deadlines = dict[_Waiting, float]
"""The tasks that wait with one and the same timeout, with their deadlines. Both are in order of arrival."""


class DeadlineWatch:
    """Ends the waits whose deadline has passed: one task for all of them.

    Tasks are grouped by their timeout, because in a group the oldest has the earliest deadline. The number of
    different timeouts has to be small.
    """

    def __init__(self) -> None:
        self._by_timeout: dict[float, _Deadlines] = {}
        self._next_check = math.inf
        self._check_sooner = trio.Event()

    def add(self, waiting: _Waiting, timeout: float) -> _Deadlines:
        """Begins to watch. The caller removes `waiting` from the returned dict as soon as its wait is over."""
        deadlines = self._by_timeout.get(timeout)
        if deadlines is None:
            deadlines = self._by_timeout[timeout] = {}
        deadline = deadlines[waiting] = trio.current_time() + timeout
        if deadline < self._next_check:
            self._check_sooner.set()
        return deadlines

    async def serve(self) -> None:
        """Settles late tasks with `StoreUnavailable`. Runs until it is cancelled.

        It sleeps until the earliest deadline that it saw, even if that task was answered meanwhile. So an answer
        in time, which is nearly every one, wakes nobody here.
        """
        while True:
            earliest = (next(iter(group.values())) for group in self._by_timeout.values() if group)
            self._next_check = min(earliest, default=math.inf)
            self._check_sooner = trio.Event()
            with trio.move_on_at(self._next_check):
                await self._check_sooner.wait()
            now = trio.current_time()
            for timeout, deadlines in list(self._by_timeout.items()):
                late = [one for one, _ in takewhile(lambda item: item[1] <= now, deadlines.items())]  # noqa: B023
                for waiting in late:
                    del deadlines[waiting]
                    waiting.settle(None, StoreUnavailable(f"the database did not answer within {timeout:g} s"))

    def settle_all(self, error: StoreUnavailable) -> None:
        """Ends all waits with `error`."""
        for deadlines in self._by_timeout.values():
            for waiting in list(deadlines):
                waiting.settle(None, error)


class _Waiter(Generic[Q, A]):
    """One request and the task that made it.

    `over`: it was answered, or its task was cancelled. `retries`: how often it has to be made again.
    """

    __slots__ = ("answer", "error", "names", "over", "request", "retries", "task", "weight")

    def __init__(self, request: Q, weight: int, names: Sequence[Hashable]) -> None:
        self.request = request
        self.weight = weight
        self.names = names
        self.task = trio.lowlevel.current_task()
        self.over = False
        self.retries = 0
        self.answer: A | None = None
        self.error: Exception | None = None

    def settle(self, answer: A | None, error: Exception | None) -> None:
        """Wakes the task with its answer, unless it was cancelled."""
        if not self.over:
            self.over, self.answer, self.error = True, answer, error
            trio.lowlevel.reschedule(self.task)

    def abort(self, _: Any) -> trio.lowlevel.Abort:
        """The task was cancelled: nobody waits for the answer any more."""
        self.over = True
        return trio.lowlevel.Abort.SUCCEEDED


class Batcher(Generic[Q, A]):
    """Answers requests in batches, up to `lanes` batches at a time.

    `run` gets the requests of a batch and returns their answers in the same order. An element may be an exception,
    which goes to that request alone. If `run` itself raises `StoreUnavailable`, every request of the batch gets
    it.

    `exclusive` returns the names that a request needs for itself. Two requests with a common name are never under
    way at once and keep their order. With `shared`, equal requests of a batch are made once: five hundred readers
    at one position cost one read. `weigh` returns a request's share of `Limits.weight`.

    With `retry`, an element that is `StoreUnavailable` is not given to its request, which is made again after a
    pause, until its timeout is over. It keeps its place before the later requests that share a name with it.
    Repeated requests go in batches of their own, one such batch at a time, so that they do not hold up new ones.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        limits: Limits,
        *,
        exclusive: Callable[[Q], Iterable[Hashable]] | None = None,
        weigh: Callable[[Q], int] = lambda _: 1,
        shared: bool = False,
        retry: bool = False,
        lanes: int = 1,
    ) -> None:
        self._run = run
        self._shared = shared
        self._retry = retry
        self._lanes = lanes
        self._limits = limits
        self._exclusive = exclusive
        self._weigh = weigh
        # A queue for each exclusive name in use. A request leaves its queues when it is answered, and it is ready
        # when it is the first in all of them. So only the heads of the queues are ever compared.
        self._queues: dict[Hashable, deque[_Waiter[Q, A]]] = {}
        self._ready: deque[_Waiter[Q, A]] = deque()
        self._ready_again: deque[_Waiter[Q, A]] = deque()
        self._repeating = False
        self._waiting = 0
        self._deadlines = DeadlineWatch()
        self._idle_lanes = trio.lowlevel.ParkingLot()
        self._busy_lanes = 0
        self._nursery: trio.Nursery
        self._closed = False
        self.refused = 0

    @property
    def waiting(self) -> int:
        """How many requests no batch has taken yet."""
        return self._waiting

    @property
    def load(self) -> tuple[int, int]:
        """How many requests wait, and how many were refused so far because too many waited."""
        return self._waiting, self.refused

    async def ask(self, request: Q, timeout: float) -> A:
        """Returns the answer to one request.

        Raises the exception that `run` gave for it, or `StoreUnavailable` if there is no answer within `timeout`
        seconds, if too many requests wait, or if the batcher was closed. A request that is cancelled or late does
        not disturb the other requests of its batch.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= self._limits.waiting:
            self.refused += 1
            raise StoreUnavailable(f"{self._limits.waiting} requests wait for the database already")
        names = tuple(dict.fromkeys(self._exclusive(request))) if self._exclusive else ()
        waiter: _Waiter[Q, A] = _Waiter(request, self._weigh(request), names)
        self._waiting += 1
        self._enqueue(waiter)
        deadlines = self._deadlines.add(waiter, timeout)
        try:
            await trio.lowlevel.wait_task_rescheduled(waiter.abort)
        finally:
            deadlines.pop(waiter, None)
        if waiter.error is not None:
            raise waiter.error
        return waiter.answer  # type: ignore[return-value]  # answered: it is an A

    async def serve(self) -> None:
        """Makes the calls. Runs until it is cancelled; then what still waits gets `StoreUnavailable`."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._deadlines.serve)
                for _ in range(self._lanes):
                    nursery.start_soon(self._serve_lane)
        finally:
            self._closed = True
            self._deadlines.settle_all(StoreUnavailable("the store is closed"))

    async def _serve_lane(self) -> None:
        while True:
            batch = self._take_batch()
            if batch:
                repeated = batch[0].retries > 0
                self._repeating = self._repeating or repeated
                self._busy_lanes += 1
                try:
                    await self._answer(batch)
                finally:
                    self._busy_lanes -= 1
                    if repeated:
                        self._repeating = False
            else:
                await self._idle_lanes.park()

    def _enqueue(self, waiter: _Waiter[Q, A]) -> None:
        first = True
        for name in waiter.names:
            queue = self._queues.get(name)
            if queue is None:
                self._queues[name] = deque((waiter,))
            else:
                queue.append(waiter)
                first = False
        if first:
            self._make_ready(waiter)

    def _dequeue(self, waiter: _Waiter[Q, A]) -> None:
        """Takes an answered request out of its queues. The next ones that are first in all of theirs become
        ready."""
        for name in waiter.names:
            queue = self._queues[name]
            queue.popleft()
            if not queue:
                del self._queues[name]
            elif all(self._queues[other][0] is queue[0] for other in queue[0].names):
                self._make_ready(queue[0])

    def _make_ready(self, waiter: _Waiter[Q, A]) -> None:
        (self._ready_again if waiter.retries else self._ready).append(waiter)
        if self._idle_lanes:
            self._idle_lanes.unpark()

    async def _make_ready_after_pause(self, waiter: _Waiter[Q, A]) -> None:
        await trio.sleep(pause_before_retry(waiter.retries))
        self._make_ready(waiter)

    def _take_batch(self) -> list[_Waiter[Q, A]]:
        batch: list[_Waiter[Q, A]] = []
        included: set[Q] = set()  # with `shared`: an equal request joins the batch and weighs nothing
        number = weight = 0
        most = self._limits.requests
        ready = self._ready
        if self._ready_again and not self._repeating:
            ready = self._ready_again
        elif self._busy_lanes + 1 < self._lanes and len(ready) >= SPLIT:
            most = min(most, (len(ready) + 1) // 2)
        while ready and number < most:
            waiter = ready[0]
            if waiter.over:
                ready.popleft()
                self._waiting -= 1
                self._dequeue(waiter)
                continue
            if not (self._shared and waiter.request in included):
                if batch and weight + waiter.weight > self._limits.weight:
                    break
                number += 1
                weight += waiter.weight
                if self._shared:
                    included.add(waiter.request)
            ready.popleft()
            self._waiting -= 1
            batch.append(waiter)
        if not batch and ready is self._ready_again:
            return self._take_batch()  # all repeated requests were over: take new ones
        return batch

    async def _answer(self, batch: list[_Waiter[Q, A]]) -> None:
        requests = [waiter.request for waiter in batch]
        places: Iterable[int] = range(len(batch))
        if self._shared:
            place_of = {request: n for n, request in enumerate(dict.fromkeys(requests))}
            places = [place_of[request] for request in requests]
            requests = list(place_of)
        answers: Sequence[A | Exception]
        retry = self._retry
        try:
            answers = await self._run(requests)
        except StoreUnavailable as error:
            answers = [error] * len(requests)
            retry = False  # `run` has repeated the whole batch until its own timeout
        for waiter, place in zip(batch, places, strict=True):
            answer = answers[place]
            if not isinstance(answer, Exception):
                self._dequeue(waiter)
                waiter.settle(answer, None)
            elif retry and isinstance(answer, StoreUnavailable) and not waiter.over:
                waiter.retries += 1
                self._waiting += 1
                self._nursery.start_soon(self._make_ready_after_pause, waiter)
            else:
                self._dequeue(waiter)
                waiter.settle(None, answer)
