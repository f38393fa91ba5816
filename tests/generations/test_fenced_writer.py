"""The fenced writer: an append that was cut off is in the log once or not at all, and no other append is
lost with it.
"""

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
from server.generations.run.run_log import FencedWriter

from .unreliable_logs import Forgetful, Slow, Wrapped, events_of

C, G = "conv_1", "gen_1"
KEY = Key("decision", "call_1")


@asynccontextmanager
async def open_writer(log: Backend, patience: float = 30.0) -> AsyncIterator[FencedWriter]:
    """A writer whose generation has been requested."""
    async with EventStore(log, StoreOptions(call_timeout=patience)).open() as store:
        asked = event_types.generation_requested(G, model="fake", parameters={}, by="anonymous")
        await store.append(Append(C, (asked,), writer=Writer(G, 1, 1)))
        yield FencedWriter(store, C, G, 1, 1)


def logged_texts(log: MemoryBackend) -> list[str]:
    """The texts in the log."""
    return [event.data[10:-2] for event in events_of(log, C) if event.type == "token"]


async def write_token(writer: FencedWriter, text: str, *keys: Key) -> int:
    """Writes one token and returns its position."""
    return (await writer.write([event_types.token(G, text)], keys=keys)).last


async def test_writes_are_appended_in_order(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_writer(log.process()) as writer:
        assert [await write_token(writer, text) for text in "abc"] == [2, 3, 4]
        assert writer.position == 4
        await writer.write([event_types.token(G, "d"), event_types.token(G, "e")], last=True)
        with pytest.raises(Fenced):
            await write_token(writer, "f")
    assert logged_texts(log) == list("abcde")
    assert log.streams[C].writers[G].closed


@pytest.mark.parametrize("keys", [(), (KEY,)])
@pytest.mark.parametrize("cut_at", [number / 8 for number in range(1, 9)])
@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_write_loses_no_other(
    cut_at: float, times: int, keys: tuple[Key, ...], autojump_clock: MockClock
) -> None:
    """Cancelled on its way there or back, it may arrive late, but never after what was written after it."""
    log = MemoryBackend()
    async with open_writer(Slow(log.process(), 1.0)) as writer:
        await write_token(writer, "a")
        for _ in range(times):
            with trio.move_on_after(cut_at):
                await write_token(writer, "cut", *keys)
        await write_token(writer, "b")
        await write_token(writer, "c")
    assert logged_texts(log)[0] == "a"
    assert logged_texts(log)[-2:] == ["b", "c"]
    assert set(logged_texts(log)) <= {"a", "b", "c", "cut"}
    assert logged_texts(log).count("cut") <= (1 if keys else times)
    assert [event.position for event in events_of(log, C)] == list(range(1, len(logged_texts(log)) + 2))


@pytest.mark.parametrize("cut", [False, True])
async def test_write_with_a_claimed_key_appends_nothing(cut: bool, autojump_clock: MockClock) -> None:
    """The next write is appended."""
    log = MemoryBackend()
    async with open_writer(Slow(log.process(), 1.0)) as writer:
        await writer.store.append(Append(C, (event_types.token("gen_2", "theirs"),), keys=(KEY,)))
        if cut:
            with trio.move_on_after(0.75):
                await write_token(writer, "mine", KEY)
        else:
            with pytest.raises(KeyReused):
                await write_token(writer, "mine", KEY)
        await write_token(writer, "next")
    assert logged_texts(log) == ["theirs", "next"]


async def test_writer_can_write_again_after_an_outage(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_writer(log.process(), patience=2.0) as writer:
        log.available = False
        with pytest.raises(StoreUnavailable):
            await write_token(writer, "a")
        log.available = True
        await write_token(writer, "b")
    assert logged_texts(log) == ["a", "b"]


async def test_repeated_write_of_the_same_events_is_one_append(autojump_clock: MockClock) -> None:
    """The first answer never came: the second attempt does not append again."""
    log = MemoryBackend()
    view = Forgetful(log.process())
    async with open_writer(view, patience=2.0) as writer:
        view.losing = 1_000
        with pytest.raises(StoreUnavailable):
            await write_token(writer, "a")
        view.losing = 0
        assert await write_token(writer, "a") == 2
        assert await write_token(writer, "a") == 3
        await writer.store.append(Append(C, (event_types.token("gen_2", "theirs"),), keys=(KEY,)))
        view.losing = 1_000
        with trio.move_on_after(0):
            await write_token(writer, "mine", KEY)
        view.losing = 0
        with pytest.raises(KeyReused):
            await write_token(writer, "mine", KEY)
        assert not writer.closed
    assert logged_texts(log) == ["a", "a", "theirs"]


async def test_terminal_event_comes_after_a_cancelled_write(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with open_writer(Slow(log.process(), 1.0)) as writer:
        with trio.move_on_after(0.75):
            await write_token(writer, "a")
        await writer.write([event_types.generation_completed(G, "stop", None, None)], last=True)
        assert writer.closed
    assert [event.type for event in events_of(log, C)] == ["generation.requested", "token", "generation.completed"]


class RefusingBackend(Wrapped):
    """A database that refuses one text, and decides on no append while it is `broken`."""

    broken = False

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        if self.broken or any("bad" in event.data for one in batch for event in one.events):
            return [StoreError("54000: too large") for _ in batch]
        return await super().append(batch)


@pytest.mark.parametrize("again", ["bad", "next"])
async def test_refused_write_frees_its_sequence_number(again: str, autojump_clock: MockClock) -> None:
    """Nothing was appended, so the next write, also the terminal event, takes its number."""
    log = MemoryBackend()
    async with open_writer(RefusingBackend(log.process())) as writer:
        await write_token(writer, "a")
        with pytest.raises(StoreError, match="too large"):
            await write_token(writer, "bad")
        if again == "bad":
            with pytest.raises(StoreError, match="too large"):
                await write_token(writer, "bad")
        await write_token(writer, "next")
        await writer.write([event_types.generation_completed(G, "stop", None, None)], last=True)
        assert writer.closed
    assert logged_texts(log) == ["a", "next"]


async def test_sequence_number_of_an_uncertain_write_is_not_reused(autojump_clock: MockClock) -> None:
    """Its answer was lost and its second sending failed: another event with the same number would be lost."""
    log = MemoryBackend()
    view = RefusingBackend(Forgetful(log.process()))
    inside = view._inside
    assert isinstance(inside, Forgetful)
    async with open_writer(view, patience=2.0) as writer:
        inside.losing = 1_000
        with pytest.raises(StoreUnavailable):
            await write_token(writer, "a")
        inside.losing = 0
        view.broken = True
        with pytest.raises(StoreError, match="too large"):
            await write_token(writer, "b")
        view.broken = False
        await write_token(writer, "b")
    assert logged_texts(log) == ["a", "b"]
