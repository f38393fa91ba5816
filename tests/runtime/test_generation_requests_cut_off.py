"""Requests that are cut off between their append and their run: each still comes to an end in the log.

The client may disconnect at any moment, the log's answer may be lost, the log may be unavailable. What was
appended either runs or is ended, and no text is written twice.
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
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import Forgetful, Slow

from .runtime_process import ask, key, of, process, start
from .step_cancellation import CancelAfter


@pytest.mark.parametrize("name", [None, "k"])
@pytest.mark.parametrize("alone", [True, False])
async def test_client_may_disconnect_at_any_step(name: str | None, alone: bool, autojump_clock: MockClock) -> None:
    """What was appended by then runs to its end, as if the client had stayed."""
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
async def test_request_with_a_lost_append_answer_runs_once(
    name: str | None, alone: bool, times: int, autojump_clock: MockClock
) -> None:
    """The server appends again and finds the request there: that does not mean that another process runs it."""
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


class ForgetfulThenUnreadable(Forgetful):
    """A Forgetful log that cannot be read any more after it lost an answer."""

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        if self.forgot:
            raise StoreUnavailable("nor can it be read")
        return await super().read(queries)


async def test_request_of_unknown_author_is_not_run(autojump_clock: MockClock) -> None:
    """Appended twice, and unreadable since: the server rather runs none than two. Orphan recovery ends it."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    view = ForgetfulThenUnreadable(log.process())
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


async def test_slow_append_is_not_taken_for_an_orphan(autojump_clock: MockClock) -> None:
    """The request stands in the log for five recovery rounds before its process learns that it does."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    async with process(Slow(log.process(), 10.0), upstream) as here:
        run = await ask(here)
        await trio.sleep(60)
    assert upstream.opened == 1
    assert the_end(of(log, *run)).type == EventType.GENERATION_COMPLETED


async def test_request_that_never_started_is_ended_by_recovery(autojump_clock: MockClock) -> None:
    """Every answer is lost until the client gives up: the request stands in the log, unstarted."""
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
