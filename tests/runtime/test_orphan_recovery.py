"""Orphan recovery ends runs that no process drives, after a while and not before, and leaves
all other runs alone."""

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
from tests.generations.run_owner import the_end
from tests.generations.unreliable_logs import Slow

from .runtime_process import ask, of, process, say, start, thought_dead


def failure_code(log: MemoryBackend, conversation: str, generation: str) -> str:
    """The error code that a generation failed with."""
    end = the_end(of(log, conversation, generation))
    assert end.type == "generation.failed"
    data = json.loads(end.data)
    assert data["retryable"] is True
    return str(data["error"]["code"])


def count_open_runs(log: MemoryBackend) -> int:
    """The number of generations without an end."""
    return sum(not row.closed for stream in log.streams.values() for row in stream.writers.values())


async def append_unknown_request(runtime: ConversationService, generation: str) -> str:
    """Appends a request that its process does not learn of, so nobody starts it."""
    conversation = await start(runtime)
    asked = event_types.generation_requested(generation, model="fake", parameters={}, by="anonymous")
    await runtime.store.append(Append(conversation, (asked,), writer=Writer(generation, FIRST_EPOCH, 1)))
    return conversation


async def test_run_of_a_dead_process_is_ended(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process()):
        await trio.sleep(LOOK_SECONDS / 2)
        async with process(log.process(), upstream) as lost:
            conversation, generation = await ask(lost)
            await trio.sleep(10.25 * LOOK_SECONDS)
        # Killed a quarter of a look before the next one, which begins to suspect.
        await trio.sleep(SUSPECT_SECONDS)
        assert count_open_runs(log) == 1
        await trio.sleep(1.5 * LOOK_SECONDS)
        assert count_open_runs(log) == 0
    assert failure_code(log, conversation, generation) == "worker_lost"


async def test_unstarted_run_of_a_dead_process_is_ended(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        async with process(log.process()) as lost:
            conversation = await append_unknown_request(lost, "gen_1")
        await trio.sleep(SUSPECT_SECONDS + 2 * LOOK_SECONDS)
        assert failure_code(log, conversation, "gen_1") == "worker_lost"
        await say(here, conversation, "still there?")


async def test_unknown_run_of_the_own_process_is_ended(autojump_clock: MockClock) -> None:
    """Its append was given up but stands all the same.

    A run that this process left knowingly is recovered at once.
    """
    log = MemoryBackend()
    async with process(log.process()) as here:
        await trio.sleep(0.5)
        conversation = await append_unknown_request(here, "gen_1")
        await trio.sleep(OWN_SECONDS - 2 * LOOK_SECONDS)
        assert count_open_runs(log) == 1
        await trio.sleep(3 * LOOK_SECONDS)
        assert count_open_runs(log) == 0
        assert failure_code(log, conversation, "gen_1") == "store_unavailable"


async def test_run_of_a_living_process_is_left_alone(autojump_clock: MockClock) -> None:
    """Also one that its owner has not started yet."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 500.0, ("b",))
    async with process(log.process()), process(log.process(), upstream) as there, process(log.process()):
        conversation, generation = await ask(there)
        await trio.sleep(1000)
        assert the_end(of(log, conversation, generation)).type == "generation.completed"
        assert len(of(log, conversation, generation)) == 5


async def test_moment_without_liveness_lock_ends_nothing(autojump_clock: MockClock) -> None:
    """As when a database restarts: all locks are free for a moment."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), 100.0, ("b",))
    async with process(log.process()), process(log.process(), upstream) as there:
        conversation, generation = await ask(there)
        for _ in range(10):
            await trio.sleep(1.6 * LOOK_SECONDS)
            with thought_dead(log, there):
                await trio.sleep(SUSPECT_SECONDS - 0.6 * LOOK_SECONDS)
        await trio.sleep(200)
    assert the_end(of(log, conversation, generation)).type == "generation.completed"


async def test_suspicion_starts_over_after_an_outage(autojump_clock: MockClock) -> None:
    """The log was unavailable between two looks, so the first look no longer counts."""
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


async def test_three_processes_end_an_orphan_once(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process()), process(log.process()), process(log.process()):
        async with process(log.process(), upstream) as lost:
            runs = [await ask(lost) for _ in range(5)]
            await trio.sleep(1)
        await trio.sleep(60)
    assert [failure_code(log, *run) for run in runs] == ["worker_lost"] * 5


async def test_orphan_ended_by_another_process_is_not_put_aside(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """All processes look at once on a slow log: each finds most runs already ended."""
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
    assert [failure_code(log, *run) for run in runs] == ["worker_lost"] * 30
    assert put_aside == 0
    assert "put aside" not in capsys.readouterr().err


async def test_process_taken_for_dead_cannot_write_after_the_end(autojump_clock: MockClock) -> None:
    """The owner lives after all and goes on writing: its appends are refused."""
    log, upstream = MemoryBackend(), FakeUpstream(*[("a",)] * 5, 10.0, *[("b",)] * 5)
    async with process(log.process()), process(log.process(), upstream) as old_process:
        conversation, generation = await ask(old_process)
        await trio.sleep(1)
        with thought_dead(log, old_process):
            await trio.sleep(60)
    assert upstream.open_now == 0
    assert failure_code(log, conversation, generation) == "worker_lost"


async def test_recovery_survives_an_outage(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process(), patience=2.0):
        async with process(log.process(), upstream) as lost:
            run = await ask(lost)
            await trio.sleep(1)
        log.available = False
        await trio.sleep(100)
        log.available = True
        await trio.sleep(10)
        assert failure_code(log, *run) == "worker_lost"


async def test_expired_idempotency_keys_are_deleted(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        conversation = await start(here)
        await say(here, conversation, "hi", Key("scope", "short", b"x", 60.0))
        await say(here, conversation, "hi", Key("scope", "long", b"x", 1e9))
        await trio.sleep(EXPIRY_SECONDS + 2)
        assert ("scope", "short") not in log.keys
        assert ("scope", "long") in log.keys
