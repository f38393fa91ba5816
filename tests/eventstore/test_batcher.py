"""The batcher in virtual time: when a request is sent, with which others, and what a late or cancelled one
gets.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventstore import StoreUnavailable
from eventstore.batcher import Batcher, Limits

NO_LIMITS = Limits(requests=100, weight=100, waiting=100)
TAKES = 10.0  # virtual seconds an answer takes


@dataclass
class RecordingHandler:
    """Answers `question * 10` after a while, and records who asked what, when and with whom."""

    batches: list[list[int]] = field(default_factory=list)
    left_at: list[float] = field(default_factory=list)
    answers: dict[int, int | Exception] = field(default_factory=dict)
    answered_at: dict[int, float] = field(default_factory=dict)
    error: Exception | None = None
    began: float = field(default_factory=trio.current_time)

    def now(self) -> float:
        return round(trio.current_time() - self.began, 6)

    async def run(self, questions: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(questions))
        self.left_at.append(self.now())
        await trio.sleep(TAKES)
        if self.error is not None:
            raise self.error
        return [KeyError(question) if question < 0 else question * 10 for question in questions]

    async def ask(
        self, batcher: Batcher[int, int], question: int, *, at: float = 0.0, timeout: float = 1e6
    ) -> None:
        await trio.sleep(at)
        try:
            answer = await batcher.ask(question, timeout)
            assert self.answers.setdefault(question, answer) == answer
        except (StoreUnavailable, KeyError) as error:
            self.answers[question] = error
        self.answered_at[question] = self.now()


@pytest.fixture
async def handler() -> RecordingHandler:
    return RecordingHandler()


@pytest.fixture
async def start_batcher(nursery: trio.Nursery, handler: RecordingHandler) -> Callable[..., Batcher[int, int]]:
    """Starts a batcher in front of the handler."""

    def make(limits: Limits = NO_LIMITS, **options: object) -> Batcher[int, int]:
        batcher: Batcher[int, int] = Batcher(handler.run, limits, **options)  # type: ignore[arg-type]
        nursery.start_soon(batcher.serve)
        return batcher

    return make


@pytest.fixture
async def asking() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery


Serve = Callable[..., Batcher[int, int]]


async def ask_all(handler: RecordingHandler, batcher: Batcher[int, int], *asks: tuple[int, float]) -> None:
    async with trio.open_nursery() as nursery:
        for question, at in asks:
            nursery.start_soon(partial(handler.ask, batcher, question, at=at))


async def test_idle_batcher_sends_at_once(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher()
    for n, at in ((1, 0.0), (2, 7.0), (3, 0.0)):
        await handler.ask(batcher, n, at=at)
    assert handler.left_at == [0.0, TAKES + 7.0, 2 * TAKES + 7.0]
    assert handler.answers == {1: 10, 2: 20, 3: 30}


async def test_requests_gather_while_a_batch_is_under_way(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(handler, start_batcher(), (1, 0.0), (2, 1.0), (3, 5.0), (4, 9.9), (5, 10.1))
    assert handler.batches == [[1], [2, 3, 4], [5]]
    assert handler.left_at == [0.0, TAKES, 2 * TAKES]
    assert handler.answered_at == {1: TAKES, 2: 2 * TAKES, 3: 2 * TAKES, 4: 2 * TAKES, 5: 3 * TAKES}


async def test_batch_size_is_bounded(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(Limits(requests=3, weight=100, waiting=100))
    await ask_all(handler, batcher, (0, 0.0), *((n, n / 10) for n in range(1, 9)))
    assert handler.batches == [[0], [1, 2, 3], [4, 5, 6], [7, 8]]


async def test_batch_weight_is_bounded_in_order(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(Limits(requests=100, weight=10, waiting=100), weigh=lambda question: question)
    await ask_all(
        handler, batcher, (1, 0.0), (6, 0.1), (4, 0.2), (5, 0.3), (7, 0.4), (2, 0.5), (99, 0.6), (3, 0.7)
    )
    # 99 alone is more than a batch may weigh: it goes, by itself.
    assert handler.batches == [[1], [6, 4], [5], [7, 2], [99], [3]]


async def test_waiting_requests_are_bounded(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(Limits(requests=100, weight=100, waiting=2))
    await ask_all(handler, batcher, (1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0))
    assert isinstance(handler.answers[4], StoreUnavailable)
    assert handler.answered_at[4] == 3.0
    assert handler.batches == [[1], [2, 3]]


async def test_waiting_count(
    handler: RecordingHandler, start_batcher: Serve, asking: trio.Nursery, autojump_clock: MockClock
) -> None:
    batcher = start_batcher()
    for n in range(4):
        asking.start_soon(handler.ask, batcher, n)
        await wait_all_tasks_blocked()
    assert batcher.waiting == 3
    await trio.sleep(TAKES + 1)
    assert batcher.waiting == 0


async def test_requests_with_a_common_lane_key_are_serialised(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(exclusive=lambda question: [question % 10, f"tens {question // 10}"])
    await ask_all(handler, batcher, (0, 0.0), (11, 0.1), (21, 0.2), (22, 0.3), (33, 0.4), (13, 0.5))
    # 21 waits for 11 (ones); 22 for 21 (tens), which waits itself; 13 for 33.
    assert handler.batches == [[0], [11, 33], [21, 13], [22]]


async def test_equal_requests_are_sent_once(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(
        handler, start_batcher(shared=True), (1, 0.0), (2, 1.0), (3, 1.5), (2, 2.0), (2, 3.0), (3, 4.0), (4, 5.0)
    )
    assert handler.batches == [[1], [2, 3, 4]]
    assert handler.answers == {1: 10, 2: 20, 3: 30, 4: 40}


async def test_equal_requests_weigh_nothing(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(
        Limits(requests=2, weight=10, waiting=100), weigh=lambda question: question, shared=True
    )
    await ask_all(handler, batcher, (1, 0.0), *((7, n / 10) for n in range(1, 20)), (3, 2.0), (7, 2.1), (3, 2.2))
    assert handler.batches == [[1], [7, 3], [7, 3]]
    assert list(handler.answered_at.values()) == [TAKES, 3 * TAKES, 3 * TAKES]


async def test_request_never_joins_a_batch_under_way(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(handler, start_batcher(shared=True), (1, 0.0), (1, 5.0))
    assert handler.batches == [[1], [1]]
    assert handler.left_at == [0.0, TAKES]


async def test_equal_requests_are_all_sent_without_sharing(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(handler, start_batcher(), (1, 0.0), (2, 1.0), (2, 2.0))
    assert handler.batches == [[1], [2, 2]]


async def test_timed_out_request_is_not_sent(
    handler: RecordingHandler, start_batcher: Serve, asking: trio.Nursery, autojump_clock: MockClock
) -> None:
    batcher = start_batcher()
    asking.start_soon(lambda: handler.ask(batcher, 1, timeout=4.0))
    asking.start_soon(lambda: handler.ask(batcher, 2, at=1.0, timeout=5.0))
    asking.start_soon(lambda: handler.ask(batcher, 3, at=1.0, timeout=TAKES * 2))
    await trio.sleep(3 * TAKES)
    assert [type(handler.answers[n]) for n in (1, 2)] == [StoreUnavailable] * 2
    assert handler.answered_at == {1: 4.0, 2: 6.0, 3: 2 * TAKES}
    assert handler.batches == [[1], [3]]
    assert handler.answers[3] == 30


async def test_cancelled_waiter_cancels_no_other(
    handler: RecordingHandler, start_batcher: Serve, asking: trio.Nursery, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(shared=True)
    scopes = [trio.CancelScope() for _ in range(4)]
    got: list[tuple[int, int]] = []

    async def ask(n: int, question: int) -> None:
        with scopes[n]:
            got.append((n, await batcher.ask(question, 1e6)))

    asking.start_soon(ask, 0, 1)
    await wait_all_tasks_blocked()
    for n, question in ((1, 2), (2, 2), (3, 3)):
        asking.start_soon(ask, n, question)
    await wait_all_tasks_blocked()
    for n in (0, 1, 3):
        scopes[n].cancel()
    await trio.sleep(3 * TAKES)
    assert got == [(2, 20)]
    assert handler.batches == [[1], [2]]


async def test_error_in_an_answer_reaches_its_own_request(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(handler, start_batcher(), (1, 0.0), (2, 1.0), (-3, 1.0), (4, 1.0))
    assert isinstance(handler.answers.pop(-3), KeyError)
    assert handler.answers == {1: 10, 2: 20, 4: 40}


async def test_unavailable_reaches_the_whole_batch(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(shared=True)
    handler.error = StoreUnavailable("away")
    await ask_all(handler, batcher, (1, 0.0), (2, 1.0), (3, 1.0), (3, 2.0))
    assert list(handler.answers.values()) == [handler.error] * 3
    handler.error = None
    handler.answers.clear()
    await handler.ask(batcher, 4)
    assert handler.answers == {4: 40}


async def test_unexpected_error_ends_the_batcher(handler: RecordingHandler, autojump_clock: MockClock) -> None:
    batcher: Batcher[int, int] = Batcher(handler.run, NO_LIMITS)
    handler.error = ZeroDivisionError("a bug")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler.ask, batcher, 1)
        with pytest.RaisesGroup(ZeroDivisionError):
            await batcher.serve()
    # Whoever asked, or asks from now on, hears of it at once.
    await handler.ask(batcher, 2)
    assert [str(handler.answers[n]) for n in (1, 2)] == ["the store is closed"] * 2


async def test_none_is_a_valid_answer() -> None:
    async def run(questions: Sequence[str]) -> Sequence[int | None]:
        return [None] * len(questions)

    batcher: Batcher[str, int | None] = Batcher(run, NO_LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.serve)
        assert await batcher.ask("anything?", 5.0) is None
        nursery.cancel_scope.cancel()


async def test_lanes_run_concurrently(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(lanes=2)
    await ask_all(handler, batcher, (1, 0.0), (2, 4.0), (3, 5.0), (4, 6.0))
    assert handler.batches == [[1], [2], [3, 4]]
    assert handler.left_at == [0.0, 4.0, TAKES]


async def test_serialised_requests_wait_across_lanes(
    handler: RecordingHandler, start_batcher: Serve, autojump_clock: MockClock
) -> None:
    batcher = start_batcher(lanes=3, exclusive=lambda question: [question % 10])
    await ask_all(handler, batcher, (1, 0.0), (11, 1.0), (2, 2.0), (21, 3.0), (12, 4.0))
    assert handler.batches == [[1], [2], [11], [12], [21]]
    assert handler.left_at == [0.0, 2.0, TAKES, TAKES + 2.0, 2 * TAKES]


class DeferringHandler:
    """Answers each batch after a second, except the questions in `held`, which it defers."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.batches: list[list[int]] = []

    async def run(self, questions: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(questions))
        await trio.sleep(1.0)
        return [StoreUnavailable("held") if question in self.held else question * 10 for question in questions]


@pytest.mark.parametrize("lanes", [1, 2])
async def test_deferred_request_is_sent_again_without_blocking_others(
    nursery: trio.Nursery, autojump_clock: MockClock, lanes: int
) -> None:
    held = DeferringHandler()
    held.held = {3, 13}
    answered: dict[int, int] = {}
    batcher: Batcher[int, int] = Batcher(
        held.run, NO_LIMITS, exclusive=lambda question: [question % 10], retry=True, lanes=lanes
    )
    nursery.start_soon(batcher.serve)

    async def ask(question: int) -> None:
        answered[question] = await batcher.ask(question, 1e6)

    async with trio.open_nursery() as asking:
        for question in (1, 2, 3, 13, 23):  # 13 and 23 stand behind 3
            asking.start_soon(ask, question)
            await wait_all_tasks_blocked()
        await trio.sleep(10.0)
        assert set(answered) == {1, 2}
        asking.start_soon(ask, 4)
        await trio.sleep(3.0)
        assert answered[4] == 40
        assert [batch for batch in held.batches if 3 in batch][1:4] == [[3]] * 3  # apart from the others
        held.held.discard(3)
        await trio.sleep(10.0)
        assert answered[3] == 30
        assert 23 not in answered  # its order is kept
        held.held.clear()
    assert answered == {question: question * 10 for question in (1, 2, 3, 4, 13, 23)}
    assert batcher.waiting == 0


async def test_deferred_request_that_ends_makes_way(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    held = DeferringHandler()
    held.held = {3, 4}
    batcher: Batcher[int, int] = Batcher(held.run, NO_LIMITS, exclusive=lambda question: [0], retry=True)
    nursery.start_soon(batcher.serve)
    with trio.move_on_after(2.5) as left:
        await batcher.ask(3, 1e6)
    assert left.cancelled_caught
    with pytest.raises(StoreUnavailable):
        await batcher.ask(4, 3.0)
    assert await batcher.ask(5, 1e6) == 50
    assert batcher.waiting == 0


async def test_deferred_request_fails_without_retry(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    held = DeferringHandler()
    held.held = {3}
    batcher: Batcher[int, int] = Batcher(held.run, NO_LIMITS)
    nursery.start_soon(batcher.serve)
    with pytest.raises(StoreUnavailable, match="held"):
        await batcher.ask(3, 1e6)
