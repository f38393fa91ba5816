"""The batcher in virtual time: who goes when, with whom, and what becomes of those who are late or leave."""

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
class Desk:
    """Answers `question * 10` after a while, and notes who asked what, when and with whom."""

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
async def desk() -> Desk:
    return Desk()


@pytest.fixture
async def serve(nursery: trio.Nursery, desk: Desk) -> Callable[..., Batcher[int, int]]:
    """Makes a batcher in front of the desk, at work."""

    def make(limits: Limits = NO_LIMITS, **options: object) -> Batcher[int, int]:
        batcher: Batcher[int, int] = Batcher(desk.run, limits, **options)  # type: ignore[arg-type]
        nursery.start_soon(batcher.serve)
        return batcher

    return make


@pytest.fixture
async def asking() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery


Serve = Callable[..., Batcher[int, int]]


async def ask_all(desk: Desk, batcher: Batcher[int, int], *asks: tuple[int, float]) -> None:
    async with trio.open_nursery() as nursery:
        for question, at in asks:
            nursery.start_soon(partial(desk.ask, batcher, question, at=at))


async def test_an_idle_one_asks_at_once(desk: Desk, serve: Serve, autojump_clock: MockClock) -> None:
    batcher = serve()
    for n, at in ((1, 0.0), (2, 7.0), (3, 0.0)):
        await desk.ask(batcher, n, at=at)
    assert desk.left_at == [0.0, TAKES + 7.0, 2 * TAKES + 7.0]
    assert desk.answers == {1: 10, 2: 20, 3: 30}


async def test_while_one_is_under_way_the_others_gather(
    desk: Desk, serve: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(desk, serve(), (1, 0.0), (2, 1.0), (3, 5.0), (4, 9.9), (5, 10.1))
    assert desk.batches == [[1], [2, 3, 4], [5]]
    assert desk.left_at == [0.0, TAKES, 2 * TAKES]
    assert desk.answered_at == {1: TAKES, 2: 2 * TAKES, 3: 2 * TAKES, 4: 2 * TAKES, 5: 3 * TAKES}


async def test_the_number_of_questions_is_bounded(desk: Desk, serve: Serve, autojump_clock: MockClock) -> None:
    batcher = serve(Limits(requests=3, weight=100, waiting=100))
    await ask_all(desk, batcher, (0, 0.0), *((n, n / 10) for n in range(1, 9)))
    assert desk.batches == [[0], [1, 2, 3], [4, 5, 6], [7, 8]]


async def test_the_weight_is_bounded_and_nobody_is_overtaken(
    desk: Desk, serve: Serve, autojump_clock: MockClock
) -> None:
    batcher = serve(Limits(requests=100, weight=10, waiting=100), weigh=lambda question: question)
    await ask_all(desk, batcher, (1, 0.0), (6, 0.1), (4, 0.2), (5, 0.3), (7, 0.4), (2, 0.5), (99, 0.6), (3, 0.7))
    # 99 alone is more than a batch may weigh: it goes, by itself.
    assert desk.batches == [[1], [6, 4], [5], [7, 2], [99], [3]]


async def test_what_waits_is_bounded(desk: Desk, serve: Serve, autojump_clock: MockClock) -> None:
    batcher = serve(Limits(requests=100, weight=100, waiting=2))
    await ask_all(desk, batcher, (1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0))
    assert isinstance(desk.answers[4], StoreUnavailable)
    assert desk.answered_at[4] == 3.0
    assert desk.batches == [[1], [2, 3]]


async def test_how_many_wait(desk: Desk, serve: Serve, asking: trio.Nursery, autojump_clock: MockClock) -> None:
    batcher = serve()
    for n in range(4):
        asking.start_soon(desk.ask, batcher, n)
        await wait_all_tasks_blocked()
    assert batcher.waiting == 3
    await trio.sleep(TAKES + 1)
    assert batcher.waiting == 0


async def test_exclusive_ones_go_one_after_the_other(desk: Desk, serve: Serve, autojump_clock: MockClock) -> None:
    batcher = serve(exclusive=lambda question: [question % 10, f"tens {question // 10}"])
    await ask_all(desk, batcher, (0, 0.0), (11, 0.1), (21, 0.2), (22, 0.3), (33, 0.4), (13, 0.5))
    # 21 waits for 11 (ones); 22 for 21 (tens), which waits itself; 13 for 33.
    assert desk.batches == [[0], [11, 33], [21, 13], [22]]


async def test_equal_questions_are_asked_once(desk: Desk, serve: Serve, autojump_clock: MockClock) -> None:
    await ask_all(desk, serve(shared=True), (1, 0.0), (2, 1.0), (3, 1.5), (2, 2.0), (2, 3.0), (3, 4.0), (4, 5.0))
    assert desk.batches == [[1], [2, 3, 4]]
    assert desk.answers == {1: 10, 2: 20, 3: 30, 4: 40}


async def test_equal_questions_weigh_nothing(desk: Desk, serve: Serve, autojump_clock: MockClock) -> None:
    batcher = serve(Limits(requests=2, weight=10, waiting=100), weigh=lambda question: question, shared=True)
    await ask_all(desk, batcher, (1, 0.0), *((7, n / 10) for n in range(1, 20)), (3, 2.0), (7, 2.1), (3, 2.2))
    assert desk.batches == [[1], [7, 3], [7, 3]]
    assert list(desk.answered_at.values()) == [TAKES, 3 * TAKES, 3 * TAKES]


async def test_a_question_never_joins_a_batch_that_has_left(
    desk: Desk, serve: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(desk, serve(shared=True), (1, 0.0), (1, 5.0))
    assert desk.batches == [[1], [1]]
    assert desk.left_at == [0.0, TAKES]


async def test_without_sharing_equal_questions_are_all_asked(
    desk: Desk, serve: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(desk, serve(), (1, 0.0), (2, 1.0), (2, 2.0))
    assert desk.batches == [[1], [2, 2]]


async def test_whoever_is_late_leaves_and_is_not_asked_for(
    desk: Desk, serve: Serve, asking: trio.Nursery, autojump_clock: MockClock
) -> None:
    batcher = serve()
    asking.start_soon(lambda: desk.ask(batcher, 1, timeout=4.0))
    asking.start_soon(lambda: desk.ask(batcher, 2, at=1.0, timeout=5.0))
    asking.start_soon(lambda: desk.ask(batcher, 3, at=1.0, timeout=TAKES * 2))
    await trio.sleep(3 * TAKES)
    assert [type(desk.answers[n]) for n in (1, 2)] == [StoreUnavailable] * 2
    assert desk.answered_at == {1: 4.0, 2: 6.0, 3: 2 * TAKES}
    assert desk.batches == [[1], [3]]
    assert desk.answers[3] == 30


async def test_a_cancelled_waiter_leaves_alone(
    desk: Desk, serve: Serve, asking: trio.Nursery, autojump_clock: MockClock
) -> None:
    batcher = serve(shared=True)
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
    assert desk.batches == [[1], [2]]


async def test_an_error_among_the_answers_is_its_askers_alone(
    desk: Desk, serve: Serve, autojump_clock: MockClock
) -> None:
    await ask_all(desk, serve(), (1, 0.0), (2, 1.0), (-3, 1.0), (4, 1.0))
    assert isinstance(desk.answers.pop(-3), KeyError)
    assert desk.answers == {1: 10, 2: 20, 4: 40}


async def test_unavailable_is_every_askers_of_that_batch(
    desk: Desk, serve: Serve, autojump_clock: MockClock
) -> None:
    batcher = serve(shared=True)
    desk.error = StoreUnavailable("away")
    await ask_all(desk, batcher, (1, 0.0), (2, 1.0), (3, 1.0), (3, 2.0))
    assert list(desk.answers.values()) == [desk.error] * 3
    desk.error = None
    desk.answers.clear()
    await desk.ask(batcher, 4)
    assert desk.answers == {4: 40}


async def test_any_other_error_is_a_crash(desk: Desk, autojump_clock: MockClock) -> None:
    batcher: Batcher[int, int] = Batcher(desk.run, NO_LIMITS)
    desk.error = ZeroDivisionError("a bug")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.ask, batcher, 1)
        with pytest.RaisesGroup(ZeroDivisionError):
            await batcher.serve()
    # Whoever asked, or asks from now on, hears of it at once.
    await desk.ask(batcher, 2)
    assert [str(desk.answers[n]) for n in (1, 2)] == ["the store is closed"] * 2


async def test_none_is_an_answer() -> None:
    async def run(questions: Sequence[str]) -> Sequence[int | None]:
        return [None] * len(questions)

    batcher: Batcher[str, int | None] = Batcher(run, NO_LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.serve)
        assert await batcher.ask("anything?", 5.0) is None
        nursery.cancel_scope.cancel()


async def test_lanes_answer_side_by_side(desk: Desk, serve: Serve, autojump_clock: MockClock) -> None:
    batcher = serve(lanes=2)
    await ask_all(desk, batcher, (1, 0.0), (2, 4.0), (3, 5.0), (4, 6.0))
    assert desk.batches == [[1], [2], [3, 4]]
    assert desk.left_at == [0.0, 4.0, TAKES]


async def test_exclusive_ones_wait_for_other_lanes_too(
    desk: Desk, serve: Serve, autojump_clock: MockClock
) -> None:
    batcher = serve(lanes=3, exclusive=lambda question: [question % 10])
    await ask_all(desk, batcher, (1, 0.0), (11, 1.0), (2, 2.0), (21, 3.0), (12, 4.0))
    assert desk.batches == [[1], [2], [11], [12], [21]]
    assert desk.left_at == [0.0, 2.0, TAKES, TAKES + 2.0, 2 * TAKES]


class Held:
    """Answers all but those that are held, which it puts off; each batch takes a second."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.batches: list[list[int]] = []

    async def run(self, questions: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(questions))
        await trio.sleep(1.0)
        return [StoreUnavailable("held") if question in self.held else question * 10 for question in questions]


@pytest.mark.parametrize("lanes", [1, 2])
async def test_what_is_put_off_is_asked_again_and_holds_up_nobody(
    nursery: trio.Nursery, autojump_clock: MockClock, lanes: int
) -> None:
    held = Held()
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


async def test_who_is_put_off_and_leaves_or_is_late_makes_way(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    held = Held()
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


async def test_without_again_it_is_its_askers_error(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    held = Held()
    held.held = {3}
    batcher: Batcher[int, int] = Batcher(held.run, NO_LIMITS)
    nursery.start_soon(batcher.serve)
    with pytest.raises(StoreUnavailable, match="held"):
        await batcher.ask(3, 1e6)
