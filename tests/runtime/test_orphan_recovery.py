"""The sweep: runs nobody drives are ended, after a while and not before; all others are left alone."""

import json

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, Key, Writer
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.generations.executors import FIRST_EPOCH
from server.runtime.conversation_service import ConversationService
from server.runtime.orphan_recovery import LOOK_SECONDS, OWN_SECONDS, SUSPECT_SECONDS
from server.runtime.retention import EXPIRY_SECONDS
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.generations.owning import the_end
from tests.generations.wrapped_log import Slow

from .world import ask, of, process, say, start, thought_dead


def code(log: MemoryBackend, conversation: str, generation: str) -> str:
    """How a generation failed."""
    end = the_end(of(log, conversation, generation))
    assert end.type == "generation.failed"
    data = json.loads(end.data)
    assert data["retryable"] is True
    return str(data["error"]["code"])


def open_runs(log: MemoryBackend) -> int:
    """How many generations have no end."""
    return sum(not row.closed for stream in log.streams.values() for row in stream.writers.values())


async def forget(runtime: ConversationService, generation: str) -> str:
    """A request whose commit never became known: it stands in the log, and nobody starts it."""
    conversation = await start(runtime)
    asked = event_types.generation_requested(generation, model="fake", parameters={}, by="anonymous")
    await runtime.store.append(Append(conversation, (asked,), writer=Writer(generation, FIRST_EPOCH, 1)))
    return conversation


async def test_a_lost_owners_run_is_ended_after_a_while(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process()):
        await trio.sleep(LOOK_SECONDS / 2)
        async with process(log.process(), upstream) as lost:
            conversation, generation = await ask(lost)
            await trio.sleep(10.25 * LOOK_SECONDS)
        # Killed a quarter of a look before the next one, which begins to suspect.
        await trio.sleep(SUSPECT_SECONDS)
        assert open_runs(log) == 1
        await trio.sleep(1.5 * LOOK_SECONDS)
        assert open_runs(log) == 0
    assert code(log, conversation, generation) == "worker_lost"


async def test_a_lost_owners_run_that_never_started(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        async with process(log.process()) as lost:
            conversation = await forget(lost, "gen_1")
        await trio.sleep(SUSPECT_SECONDS + 2 * LOOK_SECONDS)
        assert code(log, conversation, "gen_1") == "worker_lost"
        await say(here, conversation, "still there?")


async def test_a_run_of_our_own_that_we_do_not_know_of(autojump_clock: MockClock) -> None:
    """Its append was given up, and stands all the same. What this process left knowingly is seen to at once."""
    log = MemoryBackend()
    async with process(log.process()) as here:
        await trio.sleep(0.5)
        conversation = await forget(here, "gen_1")
        await trio.sleep(OWN_SECONDS - 2 * LOOK_SECONDS)
        assert open_runs(log) == 1
        await trio.sleep(3 * LOOK_SECONDS)
        assert open_runs(log) == 0
        assert code(log, conversation, "gen_1") == "store_unavailable"


async def test_a_living_owners_run_is_left_alone(autojump_clock: MockClock) -> None:
    """Its own, and one that it has not started yet: that is its owner's to end."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 500.0, ("b",))
    async with process(log.process()), process(log.process(), upstream) as there, process(log.process()):
        conversation, generation = await ask(there)
        await trio.sleep(1000)
        assert the_end(of(log, conversation, generation)).type == "generation.completed"
        assert len(of(log, conversation, generation)) == 5


async def test_a_sign_of_life_that_is_gone_for_a_moment_ends_nothing(autojump_clock: MockClock) -> None:
    """As when a database is restarted: all locks are free for a moment."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 100.0, ("b",))
    async with process(log.process()), process(log.process(), upstream) as there:
        conversation, generation = await ask(there)
        for _ in range(10):
            await trio.sleep(1.6 * LOOK_SECONDS)
            with thought_dead(log, there):
                await trio.sleep(SUSPECT_SECONDS - 0.6 * LOOK_SECONDS)
        await trio.sleep(200)
    assert the_end(of(log, conversation, generation)).type == "generation.completed"


async def test_looks_that_are_not_in_a_row_end_nothing(autojump_clock: MockClock) -> None:
    """The log was away in between: what was suspected before that is not known any more."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 100.0, ("b",))
    async with process(log.process(), patience=0.3), process(log.process(), upstream) as there:
        conversation, generation = await ask(there)
        await trio.sleep(0.5)
        with thought_dead(log, there):
            await trio.sleep(SUSPECT_SECONDS - LOOK_SECONDS)
            log.available = False
            await trio.sleep(3 * LOOK_SECONDS)
            log.available = True
            await trio.sleep(SUSPECT_SECONDS - LOOK_SECONDS)  # the first of these looks begins anew
        await trio.sleep(200)
    assert the_end(of(log, conversation, generation)).type == "generation.completed"


async def test_many_sweepers_end_it_once(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process()), process(log.process()), process(log.process()):
        async with process(log.process(), upstream) as lost:
            runs = [await ask(lost) for _ in range(5)]
            await trio.sleep(1)
        await trio.sleep(60)
    assert [code(log, *run) for run in runs] == ["worker_lost"] * 5


async def test_one_that_another_process_ended_meanwhile_is_not_put_aside(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """All look at once, and the log takes its time: each finds most of the runs ended when it comes to them."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)

    def view() -> Slow:
        return Slow(log.process(), 0.02, ("append", "read", "heads", "open_writers"))

    async with process(view()) as one, process(view()) as two, process(view()) as three:
        async with process(log.process(), upstream) as lost:
            runs = [await ask(lost) for _ in range(30)]
            await trio.sleep(1)
        put_aside = 0
        for _ in range(100):
            await trio.sleep(0.1)
            put_aside += sum(here.supervisor.metrics.put_aside for here in (one, two, three))
    assert [code(log, *run) for run in runs] == ["worker_lost"] * 30
    assert put_aside == 0
    assert "put aside" not in capsys.readouterr().err


async def test_a_ghost_is_fenced_off(autojump_clock: MockClock) -> None:
    """Its owner lives after all, and goes on writing: nothing of it comes behind the end."""
    log, upstream = MemoryBackend(), FakeUpstream(*[("a",)] * 5, 10.0, *[("b",)] * 5)
    async with process(log.process()), process(log.process(), upstream) as ghost:
        conversation, generation = await ask(ghost)
        await trio.sleep(1)
        with thought_dead(log, ghost):
            await trio.sleep(60)
    assert upstream.open_now == 0
    assert code(log, conversation, generation) == "worker_lost"


async def test_the_log_may_be_away_while_it_sweeps(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process(), patience=2.0):
        async with process(log.process(), upstream) as lost:
            run = await ask(lost)
            await trio.sleep(1)
        log.available = False
        await trio.sleep(100)
        log.available = True
        await trio.sleep(10)
        assert code(log, *run) == "worker_lost"


async def test_old_keys_are_thrown_away(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        conversation = await start(here)
        await say(here, conversation, "hi", Key("scope", "short", b"x", 60.0))
        await say(here, conversation, "hi", Key("scope", "long", b"x", 1e9))
        await trio.sleep(EXPIRY_SECONDS + 2)
        assert ("scope", "short") not in log.keys
        assert ("scope", "long") in log.keys
