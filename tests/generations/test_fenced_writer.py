"""A writer's sequence: what was cut off in the middle is in the log once or not at all, and loses nothing else."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from eventstore import (
    Append,
    EventStore,
    Fenced,
    Key,
    KeyReused,
    StoreError,
    StoreOptions,
    StoreUnavailable,
    Writer,
)
from eventstore.backend import Backend, Outcome
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.generations.run_log import FencedWriter

from .wrapped_log import Forgetful, Slow, Wrapped, events_of

C, G = "conv_1", "gen_1"
KEY = Key("decision", "call_1")


@asynccontextmanager
async def writers(log: Backend, patience: float = 30.0) -> AsyncIterator[FencedWriter]:
    """A pen whose generation has been requested."""
    async with EventStore(log, StoreOptions(call_timeout=patience)).open() as store:
        asked = event_types.generation_requested(G, model="fake", parameters={}, by="anonymous")
        await store.append(Append(C, (asked,), writer=Writer(G, 1, 1)))
        yield FencedWriter(store, C, G, 1, 1)


def told(log: MemoryBackend) -> list[str]:
    """The texts in the log."""
    return [event.data[10:-2] for event in events_of(log, C) if event.type == "token"]


async def write(writer: FencedWriter, text: str, *keys: Key) -> int:
    """One token; where it stands."""
    return (await writer.write([event_types.token(G, text)], keys=keys)).last


async def test_one_after_the_other(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with writers(log.process()) as writer:
        assert [await write(writer, text) for text in "abc"] == [2, 3, 4]
        assert writer.position == 4
        await writer.write([event_types.token(G, "d"), event_types.token(G, "e")], last=True)
        with pytest.raises(Fenced):
            await write(writer, "f")
    assert told(log) == list("abcde")
    assert log.streams[C].writers[G].closed


@pytest.mark.parametrize("keys", [(), (KEY,)])
@pytest.mark.parametrize("cut_at", [number / 8 for number in range(1, 9)])
@pytest.mark.parametrize("times", [1, 2])
async def test_one_that_is_cut_off_loses_no_other(
    cut_at: float, times: int, keys: tuple[Key, ...], autojump_clock: MockClock
) -> None:
    """On its way there or back; it may come later, but never behind what was written after it."""
    log = MemoryBackend()
    async with writers(Slow(log.process(), 1.0)) as writer:
        await write(writer, "a")
        for _ in range(times):
            with trio.move_on_after(cut_at):
                await write(writer, "cut", *keys)
        await write(writer, "b")
        await write(writer, "c")
    assert told(log)[0] == "a"
    assert told(log)[-2:] == ["b", "c"]
    assert set(told(log)) <= {"a", "b", "c", "cut"}
    assert told(log).count("cut") <= (1 if keys else times)
    assert [event.position for event in events_of(log, C)] == list(range(1, len(told(log)) + 2))


@pytest.mark.parametrize("cut", [False, True])
async def test_somebody_else_has_the_key(cut: bool, autojump_clock: MockClock) -> None:
    """Nothing is appended then, and what comes next is."""
    log = MemoryBackend()
    async with writers(Slow(log.process(), 1.0)) as writer:
        await writer.store.append(Append(C, (event_types.token("gen_2", "theirs"),), keys=(KEY,)))
        if cut:
            with trio.move_on_after(0.75):
                await write(writer, "mine", KEY)
        else:
            with pytest.raises(KeyReused):
                await write(writer, "mine", KEY)
        await write(writer, "next")
    assert told(log) == ["theirs", "next"]


async def test_a_log_that_was_away_for_too_long_may_be_written_to_again(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with writers(log.process(), patience=2.0) as writer:
        log.available = False
        with pytest.raises(StoreUnavailable):
            await write(writer, "a")
        log.available = True
        await write(writer, "b")
    assert told(log) == ["a", "b"]


async def test_the_same_events_again_are_the_same_write(autojump_clock: MockClock) -> None:
    """Of one whose answer never came: it is not made up for by a second one."""
    log = MemoryBackend()
    view = Forgetful(log.process())
    async with writers(view, patience=2.0) as writer:
        view.losing = 1_000
        with pytest.raises(StoreUnavailable):
            await write(writer, "a")
        view.losing = 0
        assert await write(writer, "a") == 2
        assert await write(writer, "a") == 3
        await writer.store.append(Append(C, (event_types.token("gen_2", "theirs"),), keys=(KEY,)))
        view.losing = 1_000
        with trio.move_on_after(0):
            await write(writer, "mine", KEY)
        view.losing = 0
        with pytest.raises(KeyReused):
            await write(writer, "mine", KEY)
        assert not writer.closed
    assert told(log) == ["a", "a", "theirs"]


async def test_the_last_word_comes_behind_what_was_cut_off(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with writers(Slow(log.process(), 1.0)) as writer:
        with trio.move_on_after(0.75):
            await write(writer, "a")
        await writer.write([event_types.generation_completed(G, "stop", None, None)], last=True)
        assert writer.closed
    assert [event.type for event in events_of(log, C)] == ["generation.requested", "token", "generation.completed"]


class Refusing(Wrapped):
    """A database that does not take one text, nor come to judge anything while it is `broken`."""

    broken = False

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        if self.broken or any("bad" in event.data for one in batch for event in one.events):
            return [StoreError("54000: too large") for _ in batch]
        return await super().append(batch)


@pytest.mark.parametrize("again", ["bad", "next"])
async def test_one_that_is_refused_stands_in_front_of_nothing(again: str, autojump_clock: MockClock) -> None:
    """Nothing was appended: its place in the sequence is free, also for the event that ends the run."""
    log = MemoryBackend()
    async with writers(Refusing(log.process())) as writer:
        await write(writer, "a")
        with pytest.raises(StoreError, match="too large"):
            await write(writer, "bad")
        if again == "bad":
            with pytest.raises(StoreError, match="too large"):
                await write(writer, "bad")
        await write(writer, "next")
        await writer.write([event_types.generation_completed(G, "stop", None, None)], last=True)
        assert writer.closed
    assert told(log) == ["a", "next"]


async def test_the_place_of_one_that_may_stand_is_not_taken(autojump_clock: MockClock) -> None:
    """Its answer was lost, and its second sending refused unseen: another event in its place would be lost."""
    log = MemoryBackend()
    view = Refusing(Forgetful(log.process()))
    inside = view._inside
    assert isinstance(inside, Forgetful)
    async with writers(view, patience=2.0) as writer:
        inside.losing = 1_000
        with pytest.raises(StoreUnavailable):
            await write(writer, "a")
        inside.losing = 0
        view.broken = True
        with pytest.raises(StoreError, match="too large"):
            await write(writer, "b")
        view.broken = False
        await write(writer, "b")
    assert told(log) == ["a", "b"]
