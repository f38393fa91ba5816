"""Cancelling a generation through any process, any number of times, and what the client is told."""

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, Writer
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.generations.executors import FIRST_EPOCH
from server.ids import new_id
from server.problem import Problem
from server.runtime.command_handlers import CANCEL_SECONDS
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.generations.run_owner import the_end
from tests.generations.unreliable_logs import Mute, Slow, events_of

from .runtime_process import ask, cancel, key, of, process, start, thought_dead


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.5, 2.5])
async def test_cancel_returns_after_the_upstream_is_closed(
    here: bool, at: float, autojump_clock: MockClock
) -> None:
    """Whichever process is asked, and whether the upstream is connecting, streaming or silent."""
    log, upstream = MemoryBackend(), FakeUpstream(1.0, ("a",), FOREVER, opening=1.0, closing=0.5)
    async with process(log.process(), upstream) as owner, process(log.process()) as other:
        run = await ask(owner)
        await trio.sleep(at)
        start_ = trio.current_time()
        assert await cancel(owner if here else other, *run) is True
        assert upstream.open_now == 0
        assert trio.current_time() - start_ < 1
        assert the_end(of(log, *run)).type == "generation.cancelled"
        await trio.sleep(60)
    the_end(of(log, *run))


async def test_repeated_cancel_is_one_cancellation(autojump_clock: MockClock) -> None:
    """With the same key, another or none, through both processes, one after the other and all at once."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process(), upstream) as here, process(log.process()) as there:
        run = await ask(here)
        await trio.sleep(1)
        answers: list[bool] = []

        async def attempt(number: int) -> None:
            name = [None, key("k"), key(f"k{number}")][number % 3]
            answers.append(await cancel(there if number % 2 else here, *run, name))

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(attempt, number)
        for number in range(6):
            await attempt(number)
    assert answers == [True] * 18
    the_end(of(log, *run))


async def test_cancel_with_a_key_of_another_body_is_refused(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process(), upstream) as here:
        run = await ask(here)
        await cancel(here, *run, key("k"))
        with pytest.raises(Problem) as caught:
            await cancel(here, *run, key("k", b"other"))
        assert caught.value.code == "key_reused"


async def test_cancel_changes_nothing_of_an_ended_generation(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    async with process(log.process(), upstream) as here, process(log.process()) as there:
        run = await ask(here)
        await trio.sleep(1)
        before = of(log, *run)
        assert await cancel(here, *run)
        assert await cancel(there, *run)
    assert of(log, *run) == before
    assert the_end(before).type == "generation.completed"


async def test_cancel_of_an_unknown_generation_is_not_found(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        conversation = await start(here)
        with pytest.raises(Problem) as caught:
            await cancel(here, conversation, new_id("gen"))
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    assert len(events_of(log, conversation)) == 1


@pytest.mark.parametrize("lost", [False, True])
async def test_cancel_reports_an_upstream_that_closes_too_slowly(lost: bool, autojump_clock: MockClock) -> None:
    """Closing takes longer than the wait.

    The answer says that it is not closed. A lost owner holds nothing open.
    """
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER, closing=2.5 * CANCEL_SECONDS)
    async with process(log.process(), upstream) as owner, process(log.process()) as other:
        run = await ask(owner)
        await trio.sleep(1)
        begun = trio.current_time()
        if lost:
            with thought_dead(log, owner):
                assert await cancel(other, *run) is True
            assert trio.current_time() - begun < 1
        else:
            assert await cancel(other, *run) is False
            assert trio.current_time() - begun == pytest.approx(CANCEL_SECONDS, abs=0.2)
            assert await cancel(owner, *run) is False
            assert upstream.open_now == 1
            await trio.sleep(CANCEL_SECONDS)
            assert await cancel(owner, *run) is True
            assert await cancel(other, *run) is True
            assert upstream.open_now == 0
    assert the_end(of(log, *run)).type == "generation.cancelled"


@pytest.mark.parametrize("pause", [number / 4 for number in range(10)])
async def test_cancel_before_the_run_begins(pause: float, autojump_clock: MockClock) -> None:
    """Another process is asked, for example between the commit of the request and the owner learning of it."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(Slow(log.process(), 2.0), upstream) as owner, process(Mute(log.process())) as other:
        conversation = await start(other)
        runs: list[tuple[str, str]] = []

        async def attempt() -> None:
            runs.append(await ask(owner, conversation))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt)
            await trio.sleep(1.1 + pause)
            (generation,) = (await other.conversation(conversation)).generations
            assert await cancel(other, conversation, generation.id) is True
            assert upstream.open_now == 0
        await trio.sleep(60)
        assert upstream.open_now == 0
    assert the_end(of(log, *runs[0])).type == "generation.cancelled"


@pytest.mark.parametrize("owner_first", [True, False])
async def test_cancel_of_a_request_that_no_process_runs(owner_first: bool, autojump_clock: MockClock) -> None:
    """The owner lives but does not know of the request: it answers that nothing is open, asked or not."""
    log = MemoryBackend()
    async with process(log.process()) as owner, process(Mute(log.process())) as other:
        conversation = await start(owner)
        generation = new_id("gen")
        asked = event_types.generation_requested(generation, model="fake", parameters={}, by="anonymous")
        await owner.store.append(Append(conversation, (asked,), writer=Writer(generation, FIRST_EPOCH, 1)))
        for runtime in (owner, other) if owner_first else (other, owner):
            assert await cancel(runtime, conversation, generation) is True
    assert the_end(of(log, conversation, generation)).type == "generation.cancelled"


async def test_cancel_through_two_processes_without_a_notification(autojump_clock: MockClock) -> None:
    """The other process cancels first, and the owner learns of it only when it is asked to cancel, too."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process(), upstream) as owner, process(Mute(log.process())) as other:
        run = await ask(owner)
        await trio.sleep(10.1)
        event = event_types.generation_cancelled(run[1], None, "anonymous")
        assert await other.supervisor.end(*run, event)
        assert await cancel(owner, *run) is True
        assert upstream.open_now == 0
        assert await cancel(other, *run) is True
    the_end(of(log, *run))
