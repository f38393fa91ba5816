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
from eventstore.log import Log, Outcome
from eventstore.memory import MemoryLog
from server import events
from server.generation.pen import Pen

from .wrapped_log import Forgetful, Slow, Wrapped, events_of

C, G = "conv_1", "gen_1"
KEY = Key("decision", "call_1")


@asynccontextmanager
async def pens(log: Log, patience: float = 30.0) -> AsyncIterator[Pen]:
    """A pen whose generation has been requested."""
    async with EventStore(log, StoreOptions(patience=patience)).open() as store:
        asked = events.generation_requested(G, model="fake", parameters={}, by="anonymous")
        await store.append(Append(C, (asked,), writer=Writer(G, 1, 1)))
        yield Pen(store, C, G, 1, 1)


def told(log: MemoryLog) -> list[str]:
    """The texts in the log."""
    return [event.data[10:-2] for event in events_of(log, C) if event.type == "token"]


async def write(pen: Pen, text: str, *keys: Key) -> int:
    """One token; where it stands."""
    return (await pen.write([events.token(G, text)], keys=keys)).last


async def test_one_after_the_other(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with pens(log.process()) as pen:
        assert [await write(pen, text) for text in "abc"] == [2, 3, 4]
        assert pen.position == 4
        await pen.write([events.token(G, "d"), events.token(G, "e")], last=True)
        with pytest.raises(Fenced):
            await write(pen, "f")
    assert told(log) == list("abcde")
    assert log.streams[C].writers[G].closed


@pytest.mark.parametrize("keys", [(), (KEY,)])
@pytest.mark.parametrize("cut_at", [number / 8 for number in range(1, 9)])
@pytest.mark.parametrize("times", [1, 2])
async def test_one_that_is_cut_off_loses_no_other(
    cut_at: float, times: int, keys: tuple[Key, ...], autojump_clock: MockClock
) -> None:
    """On its way there or back; it may come later, but never behind what was written after it."""
    log = MemoryLog()
    async with pens(Slow(log.process(), 1.0)) as pen:
        await write(pen, "a")
        for _ in range(times):
            with trio.move_on_after(cut_at):
                await write(pen, "cut", *keys)
        await write(pen, "b")
        await write(pen, "c")
    assert told(log)[0] == "a"
    assert told(log)[-2:] == ["b", "c"]
    assert set(told(log)) <= {"a", "b", "c", "cut"}
    assert told(log).count("cut") <= (1 if keys else times)
    assert [event.position for event in events_of(log, C)] == list(range(1, len(told(log)) + 2))


@pytest.mark.parametrize("cut", [False, True])
async def test_somebody_else_has_the_key(cut: bool, autojump_clock: MockClock) -> None:
    """Nothing is appended then, and what comes next is."""
    log = MemoryLog()
    async with pens(Slow(log.process(), 1.0)) as pen:
        await pen.store.append(Append(C, (events.token("gen_2", "theirs"),), keys=(KEY,)))
        if cut:
            with trio.move_on_after(0.75):
                await write(pen, "mine", KEY)
        else:
            with pytest.raises(KeyReused):
                await write(pen, "mine", KEY)
        await write(pen, "next")
    assert told(log) == ["theirs", "next"]


async def test_a_log_that_was_away_for_too_long_may_be_written_to_again(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with pens(log.process(), patience=2.0) as pen:
        log.available = False
        with pytest.raises(StoreUnavailable):
            await write(pen, "a")
        log.available = True
        await write(pen, "b")
    assert told(log) == ["a", "b"]


async def test_the_same_events_again_are_the_same_write(autojump_clock: MockClock) -> None:
    """Of one whose answer never came: it is not made up for by a second one."""
    log = MemoryLog()
    view = Forgetful(log.process())
    async with pens(view, patience=2.0) as pen:
        view.losing = 1_000
        with pytest.raises(StoreUnavailable):
            await write(pen, "a")
        view.losing = 0
        assert await write(pen, "a") == 2
        assert await write(pen, "a") == 3
        await pen.store.append(Append(C, (events.token("gen_2", "theirs"),), keys=(KEY,)))
        view.losing = 1_000
        with trio.move_on_after(0):
            await write(pen, "mine", KEY)
        view.losing = 0
        with pytest.raises(KeyReused):
            await write(pen, "mine", KEY)
        assert not pen.closed
    assert told(log) == ["a", "a", "theirs"]


async def test_the_last_word_comes_behind_what_was_cut_off(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with pens(Slow(log.process(), 1.0)) as pen:
        with trio.move_on_after(0.75):
            await write(pen, "a")
        await pen.write([events.generation_completed(G, "stop", None, None)], last=True)
        assert pen.closed
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
    log = MemoryLog()
    async with pens(Refusing(log.process())) as pen:
        await write(pen, "a")
        with pytest.raises(StoreError, match="too large"):
            await write(pen, "bad")
        if again == "bad":
            with pytest.raises(StoreError, match="too large"):
                await write(pen, "bad")
        await write(pen, "next")
        await pen.write([events.generation_completed(G, "stop", None, None)], last=True)
        assert pen.closed
    assert told(log) == ["a", "next"]


async def test_the_place_of_one_that_may_stand_is_not_taken(autojump_clock: MockClock) -> None:
    """Its answer was lost, and its second sending refused unseen: another event in its place would be lost."""
    log = MemoryLog()
    view = Refusing(Forgetful(log.process()))
    inside = view._inside
    assert isinstance(inside, Forgetful)
    async with pens(view, patience=2.0) as pen:
        inside.losing = 1_000
        with pytest.raises(StoreUnavailable):
            await write(pen, "a")
        inside.losing = 0
        view.broken = True
        with pytest.raises(StoreError, match="too large"):
            await write(pen, "b")
        view.broken = False
        await write(pen, "b")
    assert told(log) == ["a", "b"]
