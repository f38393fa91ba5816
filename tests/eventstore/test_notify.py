"""Hints between processes: what is gathered into one payload, what is told, and what an end of a hearing means."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock

from eventstore import StoreUnavailable
from eventstore.backend import Listener
from eventstore.postgres.notify import HERE, NEWER, PAYLOAD_BYTES, PING_SECONDS, Notifier, Peers, listen
from eventstore.postgres.notify import _payloads as payloads


@given(st.lists(st.text(max_size=40), unique=True, max_size=60), st.integers(0, 300))
@example(["漢" * 40] * 3, 250)
@example(['\x00\x1f"\\' * 10], 300)
@example([], 0)
def test_payloads_hold_every_name_once_and_in_order(drawn: list[str], copies: int) -> None:
    names = list(dict.fromkeys([*drawn, *(f"{name}{n}" for n in range(copies) for name in drawn[:3])]))
    parts = list(payloads(names))
    assert [name for part in parts for name in msgspec.json.decode(part, type=list[str])] == names
    assert all(len(part.encode()) <= PAYLOAD_BYTES for part in parts)


@pytest.mark.parametrize("letter", ["a", "漢", "😀", '"', "\x01"])
def test_payloads_are_full_before_the_next_begins(letter: str) -> None:
    names = [letter * 50 + str(n) for n in range(500)]
    parts = [part.encode() for part in payloads(names)]
    longest = max(len(msgspec.json.encode(name)) for name in names)
    assert len(parts) > 3
    assert all(PAYLOAD_BYTES - longest - 1 <= len(part) <= PAYLOAD_BYTES for part in parts[:-1])


@pytest.mark.parametrize("length", range(PAYLOAD_BYTES - 8, PAYLOAD_BYTES + 2))
def test_a_name_too_long_to_be_told_means_any(length: int) -> None:
    parts = list(payloads(["before", "x" * length, "after"]))
    assert all(len(part.encode()) <= PAYLOAD_BYTES for part in parts)
    told = [msgspec.json.decode(part) for part in parts]
    if length + len('[""]') <= PAYLOAD_BYTES:
        assert [name for part in told for name in part] == ["before", "x" * length, "after"]
    else:
        assert None in told
        assert [name for part in told if part for name in part] == ["before", "after"]


class Wire:
    """A session that only keeps what is sent; `down` makes it unavailable."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[str]]] = []
        self.sent_at: list[float] = []
        self.down = False

    async def connected(self) -> "Wire":
        return self

    def mark_own(self) -> None:
        pass

    async def fetch(self, sql: str, channel: str, parts: list[str]) -> Sequence[Any]:
        await trio.sleep(0.001)
        if self.down:
            raise StoreUnavailable("down")
        self.sent.append((channel, parts))
        self.sent_at.append(trio.current_time())
        return []


def told(wire: Wire) -> list[list[str]]:
    return [name for channel, parts in wire.sent if channel == NEWER for name in map(msgspec.json.decode, parts)]


async def notifying(act: Callable[[Notifier, Wire], Awaitable[None]], peers: Peers | None = None) -> Wire:
    wire = Wire()
    notifier = Notifier(wire, peers or Peers())  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.serve)
        await act(notifier, wire)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    return wire


async def test_what_comes_together_is_told_together(autojump_clock: MockClock) -> None:
    async def act(notifier: Notifier, wire: Wire) -> None:
        notifier.newer(["a", "b"])
        notifier.newer(["b", "c"])
        notifier.closed()
        notifier.closed()
        await trio.sleep(1)
        notifier.newer(["a"])

    wire = await notifying(act)
    assert told(wire) == [["a", "b", "c"], ["a"]]
    assert [parts for channel, parts in wire.sent if channel != NEWER] == [[""]]


async def test_a_busy_process_is_paced_and_forgets_none(autojump_clock: MockClock) -> None:
    async def act(notifier: Notifier, wire: Wire) -> None:
        for n in range(1000):
            notifier.newer([f"s{n}"])
            await trio.sleep(0.001)

    wire = await notifying(act)
    assert [name for names in told(wire) for name in names] == [f"s{n}" for n in range(1000)]
    assert len(wire.sent) <= 200


async def test_what_cannot_be_told_is_dropped(autojump_clock: MockClock) -> None:
    async def act(notifier: Notifier, wire: Wire) -> None:
        wire.down = True
        notifier.newer(["lost"])
        notifier.closed()
        await trio.sleep(30)
        wire.down = False
        notifier.newer(["told"])

    assert told(await notifying(act)) == [["told"]]


async def test_nothing_is_told_of_nothing(autojump_clock: MockClock) -> None:
    async def act(notifier: Notifier, wire: Wire) -> None:
        none: Iterable[str] = ()
        notifier.newer(none)

    assert (await notifying(act)).sent == []


async def test_with_nobody_there_nothing_is_told(autojump_clock: MockClock) -> None:
    peers = Peers()

    async def act(notifier: Notifier, wire: Wire) -> None:
        peers.counted(0)
        notifier.newer(["unheard"])
        notifier.closed()
        await trio.sleep(1)
        assert peers.heard()
        notifier.anything()  # the newcomer looks everywhere
        await trio.sleep(1)
        notifier.newer(["heard"])

    wire = await notifying(act, peers)
    assert [names for _, names in wire.sent] == [[""], ["null"], ['["heard"]']]


async def test_in_doubt_somebody_is_there(autojump_clock: MockClock) -> None:
    peers = Peers()
    states = [peers.none]
    assert not peers.heard()
    peers.counted(0)
    states.append(peers.none)  # heard a moment ago, seen no more: it may just have lost its lock
    await trio.sleep(2 * PING_SECONDS + 1)
    for others in (0, 1, 0):
        peers.counted(others)
        states.append(peers.none)
    peers.unknown()
    states.append(peers.none)
    assert states == [False, False, True, False, True, False]


class Heard:
    """A connection to listen on: `say` is a notification; `others` how many show a sign of life."""

    def __init__(self, others: int) -> None:
        self.others = others
        self.say: dict[str, Callable[[str], None]] = {}
        self.ended = trio.Event()

    async def connected(self) -> "Heard":
        return self

    def mark_own(self) -> None:
        pass

    async def listen(self, channel: str, hear: Callable[[str], None]) -> None:
        self.say[channel] = hear

    async def fetch(self, sql: str, *values: object) -> Sequence[Any]:
        return [(self.others,)]


@pytest.mark.parametrize("alone", [True, False])
async def test_who_comes_is_always_answered(autojump_clock: MockClock, alone: bool) -> None:
    """It may not see us: after a restart of the database signs of life come back one by one."""
    wire, heard, peers = Wire(), Heard(0 if alone else 1), Peers()
    notifier = Notifier(wire, peers)  # type: ignore[arg-type]
    hear = Listener(newer=lambda _: None, closed=lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.serve)
        await nursery.start(listen_there, heard, hear, notifier, peers)
        assert peers.none is alone
        heard.say[HERE]("")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [names for channel, names in wire.sent if channel == NEWER] == [["null"]]
    assert [names for channel, names in wire.sent if channel != NEWER] == [[""]]


@pytest.mark.parametrize("how", ["heard", "counted"])
async def test_who_was_overlooked_is_told_to_look(autojump_clock: MockClock, how: str) -> None:
    wire, heard, peers = Wire(), Heard(0), Peers()
    notifier = Notifier(wire, peers)  # type: ignore[arg-type]
    hear = Listener(newer=lambda _: None, closed=lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.serve)
        await nursery.start(listen_there, heard, hear, notifier, peers)
        notifier.newer(["untold"])
        if how == "heard":
            heard.say[NEWER]('["theirs"]')
        else:
            heard.others = 1
        await trio.sleep(PING_SECONDS + 1)
        nursery.cancel_scope.cancel()
    assert [names for channel, names in wire.sent if channel == NEWER] == [["null"]]


async def listen_there(
    heard: Heard, hear: Listener, notifier: Notifier, peers: Peers, *, task_status: trio.TaskStatus[None]
) -> None:
    await listen(heard, hear, notifier, peers, 1, task_status)  # type: ignore[arg-type]
