"""Coalescing: questions that arrive while an answer is under way go together in the next one.

The one mechanism behind group commit and shared reads. An idle batcher asks at once, with no timer, so the
first token pays nothing; a busy one grows its batches by itself. It knows nothing of SQL or events.

A question asked after a batch has left never joins it: "nothing new" is then true of a moment after the asking.
It is on every token's way, so a waiter is a bare task, put to sleep and woken by hand: an event and a cancel
scope for each cost more than all the rest of it.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import trio

from eventstore.errors import StoreUnavailable
from eventstore.lateness import Lateness

Q = TypeVar("Q")
A = TypeVar("A")


class _Waiter(Generic[Q, A]):
    """One question and the task that asks it. `over`: it was answered, or its asker has left.

    `tries`: how often it was asked and has to be asked again.
    """

    __slots__ = ("answer", "error", "names", "over", "question", "task", "tries", "weight")

    def __init__(self, question: Q, weight: int, names: Sequence[Hashable]) -> None:
        self.question = question
        self.weight = weight
        self.names = names
        self.task = trio.lowlevel.current_task()
        self.over = False
        self.tries = 0
        self.answer: A | None = None
        self.error: Exception | None = None

    def settle(self, answer: A | None, error: Exception | None) -> None:
        """Wakes the asker, unless it has left."""
        if not self.over:
            self.over, self.answer, self.error = True, answer, error
            trio.lowlevel.reschedule(self.task)

    def leave(self, _: Any) -> trio.lowlevel.Abort:
        """The asker was cancelled: nobody is there to hear the answer."""
        self.over = True
        return trio.lowlevel.Abort.SUCCEEDED


AGAIN_FIRST, AGAIN_MOST = 0.02, 0.5
"""Seconds until a question is asked again that could not be answered: doubled each time, up to the second."""

SPLIT = 16
"""From so many on, two idle lanes share what waits: each then works while the other's answer is on its way."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`questions` and `weight` bound one batch, `waiting` how many may wait before the next is refused."""

    questions: int
    weight: int
    waiting: int


class Batcher(Generic[Q, A]):
    """Answers questions in batches, `lanes` of them side by side.

    `run` gets the questions and returns their answers in order; an element may be an exception, for its
    asker alone. `StoreUnavailable` from `run` goes to every asker of that batch. Questions that share one of
    their `exclusive` values are never under way at once, and keep their order. With `shared`, equal questions
    of a batch are asked once: five hundred readers at one place cost one read.

    With `again`, an element that is `StoreUnavailable` is no answer: its question is asked again after a pause,
    until its asker's time is over. Meanwhile it keeps its place before those that share its `exclusive` values.
    Questions that are asked again go in batches apart, one at a time, so that they hold up no others."""

    def __init__(
        self,
        run: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        limits: Limits,
        *,
        exclusive: Callable[[Q], Iterable[Hashable]] | None = None,
        weigh: Callable[[Q], int] = lambda _: 1,
        shared: bool = False,
        again: bool = False,
        lanes: int = 1,
    ) -> None:
        self._run = run
        self._shared = shared
        self._again = again
        self._lanes = lanes
        self._limits = limits
        self._exclusive = exclusive
        self._weigh = weigh
        # Who may go in the next batch; and, by name, those who stand in line for it, the first of them being
        # ready or asked. A waiter is ready when it is first in all its lines: nobody looks at the others.
        self._ready: deque[_Waiter[Q, A]] = deque()
        self._ready_again: deque[_Waiter[Q, A]] = deque()
        self._asking_again = False
        self._lines: dict[Hashable, deque[_Waiter[Q, A]]] = {}
        self._waiting = 0
        self._lateness = Lateness()
        self._idle = trio.lowlevel.ParkingLot()
        self._busy = 0
        self._nursery: trio.Nursery
        self._closed = False
        self.refused = 0

    @property
    def waiting(self) -> int:
        """How many questions wait for a batch to take them."""
        return self._waiting

    @property
    def load(self) -> tuple[int, int]:
        """How many questions wait, and how many were turned away so far because too many did."""
        return self._waiting, self.refused

    async def ask(self, question: Q, timeout: float) -> A:
        """The answer, within `timeout` seconds, else `StoreUnavailable`.

        Whoever is cancelled or too late leaves alone: a batch under way goes on for the others.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= self._limits.waiting:
            self.refused += 1
            raise StoreUnavailable(f"{self._limits.waiting} requests wait for the database already")
        names = tuple(dict.fromkeys(self._exclusive(question))) if self._exclusive else ()
        waiter: _Waiter[Q, A] = _Waiter(question, self._weigh(question), names)
        self._waiting += 1
        self._line_up(waiter)
        watched = self._lateness.watch(waiter, timeout)
        try:
            await trio.lowlevel.wait_task_rescheduled(waiter.leave)
        finally:
            watched.pop(waiter, None)
        if waiter.error is not None:
            raise waiter.error
        return waiter.answer  # type: ignore[return-value]  # answered: it is an A

    async def serve(self) -> None:
        """Runs for ever; owned by the store's nursery. At its end whoever still waits gets `StoreUnavailable`."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._lateness.serve)
                for _ in range(self._lanes):
                    nursery.start_soon(self._serve_lane)
        finally:
            self._closed = True
            self._lateness.settle_all(StoreUnavailable("the store is closed"))

    async def _serve_lane(self) -> None:
        while True:
            batch = self._take()
            if batch:
                again = batch[0].tries > 0
                self._asking_again = self._asking_again or again
                self._busy += 1
                try:
                    await self._answer(batch)
                finally:
                    self._busy -= 1
                    if again:
                        self._asking_again = False
            else:
                await self._idle.park()

    def _line_up(self, waiter: _Waiter[Q, A]) -> None:
        first = True
        for name in waiter.names:
            line = self._lines.get(name)
            if line is None:
                self._lines[name] = deque((waiter,))
            else:
                line.append(waiter)
                first = False
        if first:
            self._make_ready(waiter)

    def _make_ready(self, waiter: _Waiter[Q, A]) -> None:
        (self._ready_again if waiter.tries else self._ready).append(waiter)
        if self._idle:
            self._idle.unpark()

    async def _make_ready_again(self, waiter: _Waiter[Q, A]) -> None:
        await trio.sleep(min(AGAIN_FIRST * 2**waiter.tries, AGAIN_MOST))
        self._make_ready(waiter)

    def _step_aside(self, waiter: _Waiter[Q, A]) -> None:
        """It is done with; whoever is first in all lines now may go."""
        for name in waiter.names:
            line = self._lines[name]
            line.popleft()
            if not line:
                del self._lines[name]
            elif all(self._lines[other][0] is line[0] for other in line[0].names):
                self._make_ready(line[0])

    def _take(self) -> list[_Waiter[Q, A]]:
        batch: list[_Waiter[Q, A]] = []
        asked: set[Q] = set()  # with `shared`: who asks for what is in the batch comes along, and weighs nothing
        number = weight = 0
        most = self._limits.questions
        ready = self._ready
        if self._ready_again and not self._asking_again:
            ready = self._ready_again
        elif self._busy + 1 < self._lanes and len(ready) >= SPLIT:
            most = min(most, (len(ready) + 1) // 2)
        while ready and number < most:
            waiter = ready[0]
            if waiter.over:
                ready.popleft()
                self._waiting -= 1
                self._step_aside(waiter)
                continue
            if not (self._shared and waiter.question in asked):
                if batch and weight + waiter.weight > self._limits.weight:
                    break
                number += 1
                weight += waiter.weight
                if self._shared:
                    asked.add(waiter.question)
            ready.popleft()
            self._waiting -= 1
            batch.append(waiter)
        if not batch and ready is self._ready_again:
            return self._take()  # none of them is waited for any more
        return batch

    async def _answer(self, batch: list[_Waiter[Q, A]]) -> None:
        questions = [waiter.question for waiter in batch]
        places: Iterable[int] = range(len(batch))
        if self._shared:
            order = {question: n for n, question in enumerate(dict.fromkeys(questions))}
            places = [order[question] for question in questions]
            questions = list(order)
        answers: Sequence[A | Exception]
        again = self._again
        try:
            answers = await self._run(questions)
        except StoreUnavailable as error:
            answers = [error] * len(questions)
            again = False  # asked for as long as there was patience
        for waiter, place in zip(batch, places, strict=True):
            answer = answers[place]
            if not isinstance(answer, Exception):
                self._step_aside(waiter)
                waiter.settle(answer, None)
            elif again and isinstance(answer, StoreUnavailable) and not waiter.over:
                waiter.tries += 1
                self._waiting += 1
                self._nursery.start_soon(self._make_ready_again, waiter)
            else:
                self._step_aside(waiter)
                waiter.settle(None, answer)
