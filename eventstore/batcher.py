"""Coalescing: questions that arrive while an answer is under way go together in the next one.

The one mechanism behind group commit and shared reads. An idle batcher asks at once, with no timer, so the
first token pays nothing; a busy one grows its batches by itself. It knows nothing of SQL or events.

A question asked after a batch has left never joins it: "nothing new" is then true of a moment after the asking.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from eventstore.errors import StoreUnavailable

Q = TypeVar("Q")
A = TypeVar("A")


class _Waiter(Generic[Q, A]):
    __slots__ = ("abandoned", "answer", "answered", "done", "error", "question", "weight")

    def __init__(self, question: Q, weight: int) -> None:
        self.question = question
        self.weight = weight
        self.done = trio.Event()
        self.answered = False
        self.answer: A | None = None
        self.error: Exception | None = None
        self.abandoned = False


@dataclass(frozen=True, slots=True)
class Limits:
    """`questions` and `weight` bound one batch, `waiting` how many may wait before the next is refused."""

    questions: int
    weight: int
    waiting: int


class Batcher(Generic[Q, A]):
    """Answers questions in batches, one batch at a time.

    `run` gets the questions and returns their answers in order; an element may be an exception, for its
    asker alone. `StoreUnavailable` from `run` goes to every asker of that batch. Questions that share one of
    their `exclusive` values never go in one batch, and keep their order. With `shared`, equal questions of a
    batch are asked once: five hundred readers at one place cost one read.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        limits: Limits,
        *,
        exclusive: Callable[[Q], Iterable[Hashable]] | None = None,
        weigh: Callable[[Q], int] = lambda _: 1,
        shared: bool = False,
    ) -> None:
        self._run = run
        self._shared = shared
        self._limits = limits
        self._exclusive = exclusive
        self._weigh = weigh
        self._queue: deque[_Waiter[Q, A]] = deque()
        self._wake = trio.Event()

    @property
    def waiting(self) -> int:
        """How many questions wait for a batch to take them."""
        return len(self._queue)

    async def ask(self, question: Q, timeout: float) -> A:
        """The answer, within `timeout` seconds, else `StoreUnavailable`.

        Whoever is cancelled or too late leaves alone: a batch under way goes on for the others.
        """
        if len(self._queue) >= self._limits.waiting:
            raise StoreUnavailable(f"{self._limits.waiting} requests wait for the database already")
        waiter: _Waiter[Q, A] = _Waiter(question, self._weigh(question))
        self._queue.append(waiter)
        self._wake.set()
        with trio.move_on_after(timeout):
            try:
                await waiter.done.wait()
            finally:
                waiter.abandoned = not waiter.done.is_set()
        if waiter.error is not None:
            raise waiter.error
        if not waiter.answered:
            raise StoreUnavailable(f"the database did not answer within {timeout:g} s")
        return waiter.answer  # type: ignore[return-value]  # answered: it is an A

    async def serve(self) -> None:
        """Runs for ever; owned by the store's nursery."""
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake = trio.Event()
                continue
            await self._answer(batch)

    async def _answer(self, batch: list[_Waiter[Q, A]]) -> None:
        questions = [waiter.question for waiter in batch]
        places: Iterable[int] = range(len(batch))
        if self._shared:
            order = {question: n for n, question in enumerate(dict.fromkeys(questions))}
            places = [order[question] for question in questions]
            questions = list(order)
        answers: Sequence[A | Exception]
        try:
            answers = await self._run(questions)
        except StoreUnavailable as error:
            answers = [error] * len(questions)
        for waiter, place in zip(batch, places, strict=True):
            answer = answers[place]
            if isinstance(answer, Exception):
                waiter.error = answer
            else:
                waiter.answer, waiter.answered = answer, True
            waiter.done.set()

    def _take(self) -> list[_Waiter[Q, A]]:
        batch: list[_Waiter[Q, A]] = []
        later: list[_Waiter[Q, A]] = []
        held: set[Hashable] = set()
        asked: set[Q] = set()  # with `shared`: who asks for what is in the batch comes along, and weighs nothing
        number = weight = 0
        while self._queue and number < self._limits.questions:
            waiter = self._queue.popleft()
            if waiter.abandoned:
                continue
            names = set(self._exclusive(waiter.question)) if self._exclusive else set()
            if self._shared and waiter.question in asked:
                batch.append(waiter)
            elif held & names:
                later.append(waiter)
            elif batch and weight + waiter.weight > self._limits.weight:
                self._queue.appendleft(waiter)
                break
            else:
                batch.append(waiter)
                number += 1
                weight += waiter.weight
                if self._shared:
                    asked.add(waiter.question)
            held |= names
        self._queue.extendleft(reversed(later))
        return batch
