"""Properties of the batcher for requests at any time: none is lost, sent twice, overtaken or answered
wrongly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from eventstore import StoreUnavailable
from eventstore.batcher import Batcher, Limits


@dataclass(frozen=True)
class Question:
    """`at` is when it is asked, `patience` how long its caller waits."""

    n: int
    at: float
    patience: float
    names: frozenset[int]
    weight: int


LIMITS = Limits(requests=4, weight=10, waiting=1000)

question = st.tuples(
    st.floats(0, 30).map(lambda at: round(at, 2)),
    st.sampled_from([3.0, 15.0, 1e6]),
    st.frozensets(st.integers(0, 5), min_size=1, max_size=3),
    st.integers(0, 14),
)


@given(st.lists(question, max_size=40), st.integers(1, 3))
def test_any_requests(drawn: list[tuple[float, float, frozenset[int], int]], lanes: int) -> None:
    asked = [Question(n, *values) for n, values in enumerate(drawn)]
    batches: list[list[Question]] = []
    left: dict[int, float] = {}
    order: list[int] = []
    answers: dict[int, int] = {}
    late: set[int] = set()
    under_way: set[int] = set()

    async def run(questions: Sequence[Question]) -> Sequence[int]:
        batches.append(list(questions))
        left.update({one.n: trio.current_time() for one in questions})
        names = [name for one in questions for name in one.names]
        assert not under_way & set(names)
        under_way.update(names)
        await trio.sleep(4.0)
        under_way.difference_update(names)
        return [-one.n for one in questions]

    async def ask(one: Question) -> None:
        await trio.sleep(one.at)
        order.append(one.n)
        try:
            answers[one.n] = await batcher.ask(one, one.patience)
        except StoreUnavailable:
            late.add(one.n)

    batcher: Batcher[Question, int] = Batcher(
        run, LIMITS, exclusive=lambda one: one.names, weigh=lambda one: one.weight, lanes=lanes
    )

    async def main() -> None:
        async with trio.open_nursery() as serving:
            serving.start_soon(batcher.serve)
            async with trio.open_nursery() as asking:
                for one in asked:
                    asking.start_soon(ask, one)
            serving.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))

    assert answers == {n: -n for n in answers}
    assert set(answers) | late == {one.n for one in asked}
    assert not set(answers) & late
    sent = [one.n for batch in batches for one in batch]
    assert len(sent) == len(set(sent))
    assert set(answers) <= set(sent)
    for batch in batches:
        assert len(batch) <= LIMITS.requests
        assert sum(one.weight for one in batch) <= LIMITS.weight or len(batch) == 1
        assert sum(len(one.names) for one in batch) == len(frozenset().union(*(one.names for one in batch)))
    came = {n: place for place, n in enumerate(order)}
    for name in range(6):
        mine = [n for n in sent if name in asked[n].names]
        assert mine == sorted(mine, key=came.__getitem__)
