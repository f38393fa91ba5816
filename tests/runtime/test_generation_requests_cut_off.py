"""Requests that are cut somewhere between their append and their run: each still comes to an end in the log.

The asker may go at any moment, the log's answer may be lost, the log may be away: whatever was appended either
runs or is ended, and nothing is said twice.
"""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreError, StoreUnavailable
from eventstore.backend import ReadQuery
from eventstore.memory_backend import MemoryBackend
from eventstore.model import Slice
from server.event_types import EventType
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.owning import fields, the_end
from tests.generations.wrapped_log import Forgetful, Slow

from .cutting import CancelAfter
from .world import ask, key, of, process, start


@pytest.mark.parametrize("name", [None, "k"])
@pytest.mark.parametrize("alone", [True, False])
async def test_the_asker_may_go_at_any_step(name: str | None, alone: bool, autojump_clock: MockClock) -> None:
    """Whatever was appended by then runs to its end, as if the asker had stayed."""
    ends: list[int] = []
    steps, answered = 0, False
    while not answered:
        steps += 1
        log, upstream = MemoryBackend(), FakeUpstream(("a",), 5.0, ("b",))
        async with process(log.process(), upstream) as here:
            conversation = None if alone else await start(here)
            with trio.CancelScope() as scope:
                instrument = CancelAfter(steps, scope)
                trio.lowlevel.add_instrument(instrument)
                await ask(here, conversation, key(name) if name else None)
                answered = True
            trio.lowlevel.remove_instrument(instrument)
            await trio.sleep(30)
        assert upstream.open_now == 0
        asked = [
            (stream, event.tag)
            for stream, found in log.streams.items()
            for event in found.events
            if event.type == EventType.GENERATION_REQUESTED
        ]
        ends.append(len(asked))
        for stream, generation in asked:
            assert the_end(of(log, stream, generation or "")).type == EventType.GENERATION_COMPLETED, steps
    # It was gone before the append (with a conversation to look for first), and between that and the answer.
    assert ends[0] == alone
    assert ends.count(1) > 2
    assert ends == sorted(ends)


@pytest.mark.parametrize("name", [None, "k"])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_request_whose_answer_is_lost_runs_once(
    name: str | None, alone: bool, times: int, autojump_clock: MockClock
) -> None:
    """It is sent again, and found to be there: that it was repeated does not mean that somebody else runs it."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    view = Forgetful(log.process())
    async with process(view, upstream) as here:
        conversation = None if alone else await start(here)
        view.losing = times
        run = await ask(here, conversation, key(name) if name else None)
        await trio.sleep(10)
    assert upstream.opened == 1
    assert the_end(of(log, *run)).type == "generation.completed"
    assert len(log.streams) == 1


class Halved(Forgetful):
    """Forgetful, and once it has forgotten something it cannot be read either."""

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        if self.forgot:
            raise StoreUnavailable("nor can it be read")
        return await super().read(queries)


async def test_a_request_that_may_be_ours_and_may_not_is_not_run(autojump_clock: MockClock) -> None:
    """Sent twice, it stands, by whom cannot be read: rather none than two. The sweep ends it."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    view = Halved(log.process())
    async with process(view, upstream, patience=3.0) as here:
        conversation = await start(here)
        view.losing = 1
        with pytest.raises(StoreUnavailable):
            await ask(here, conversation)
        view.forgot = False
        await trio.sleep(10)
        (generation,) = (await here.conversation(conversation)).generations
    assert upstream.opened == 0
    assert fields(the_end(of(log, conversation, generation.id)))["error"]["code"] == "store_unavailable"


async def test_a_request_whose_answer_takes_long_is_not_given_up(autojump_clock: MockClock) -> None:
    """It stands in the log for five looks of the sweep before its process knows that it does."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    async with process(Slow(log.process(), 10.0), upstream) as here:
        run = await ask(here)
        await trio.sleep(60)
    assert upstream.opened == 1
    assert the_end(of(log, *run)).type == EventType.GENERATION_COMPLETED


async def test_a_request_that_nobody_could_answer_is_ended(autojump_clock: MockClock) -> None:
    """Every answer is lost until the asker gives up: the request stands, unstarted, and is swept up."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    view = Forgetful(log.process())
    async with process(view, upstream, patience=3.0) as here:
        conversation = await start(here)
        view.losing = 10_000
        with pytest.raises(StoreUnavailable):
            await ask(here, conversation)
        view.losing = 0
        await trio.sleep(10)
        (generation,) = (await here.conversation(conversation)).generations
    assert upstream.opened == 0
    assert fields(the_end(of(log, conversation, generation.id)))["error"]["code"] == "store_unavailable"
