"""Notifications between processes: how names are gathered into payloads, what is sent, and when peers are
known.
"""

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
def test_payloads_hold_every_name_once(drawn: list[str], copies: int) -> None:
    names = list(dict.fromkeys([*drawn, *(f"{name}{n}" for n in range(copies) for name in drawn[:3])]))
    parts = list(payloads(names))
    assert [name for part in parts for name in msgspec.json.decode(part, type=list[str])] == names
    assert all(len(part.encode()) <= PAYLOAD_BYTES for part in parts)


@pytest.mark.parametrize("letter", ["a", "漢", "😀", '"', "\x01"])
def test_payloads_are_filled(letter: str) -> None:
    names = [letter * 50 + str(n) for n in range(500)]
    parts = [part.encode() for part in payloads(names)]
    longest = max(len(msgspec.json.encode(name)) for name in names)
    assert len(parts) > 3
    assert all(PAYLOAD_BYTES - longest - 1 <= len(part) <= PAYLOAD_BYTES for part in parts[:-1])


@pytest.mark.parametrize("length", range(PAYLOAD_BYTES - 8, PAYLOAD_BYTES + 2))
def test_too_long_name_notifies_of_all_streams(length: int) -> None:
    parts = list(payloads(["before", "x" * length, "after"]))
    assert all(len(part.encode()) <= PAYLOAD_BYTES for part in parts)
    sent_names = [msgspec.json.decode(part) for part in parts]
    if length + len('[""]') <= PAYLOAD_BYTES:
        assert [name for part in sent_names for name in part] == ["before", "x" * length, "after"]
    else:
        assert None in sent_names
        assert [name for part in sent_names if part for name in part] == ["before", "after"]


class RecordingConnection:
    """A connection that only keeps what is sent; `down` makes it unavailable."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[str]]] = []
        self.sent_at: list[float] = []
        self.down = False

    async def connected(self) -> "RecordingConnection":
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


def sent_names(connection: RecordingConnection) -> list[list[str]]:
    return [
        name for channel, parts in connection.sent if channel == NEWER for name in map(msgspec.json.decode, parts)
    ]


async def run_notifier(
    act: Callable[[Notifier, RecordingConnection], Awaitable[None]], peers: Peers | None = None
) -> RecordingConnection:
    connection = RecordingConnection()
    notifier = Notifier(connection, peers or Peers())  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.serve)
        await act(notifier, connection)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    return connection


async def test_names_are_gathered_into_one_notification(autojump_clock: MockClock) -> None:
    async def act(notifier: Notifier, connection: RecordingConnection) -> None:
        notifier.newer(["a", "b"])
        notifier.newer(["b", "c"])
        notifier.closed()
        notifier.closed()
        await trio.sleep(1)
        notifier.newer(["a"])

    connection = await run_notifier(act)
    assert sent_names(connection) == [["a", "b", "c"], ["a"]]
    assert [parts for channel, parts in connection.sent if channel != NEWER] == [[""]]


async def test_notifications_are_paced_and_complete(autojump_clock: MockClock) -> None:
    async def act(notifier: Notifier, connection: RecordingConnection) -> None:
        for n in range(1000):
            notifier.newer([f"s{n}"])
            await trio.sleep(0.001)

    connection = await run_notifier(act)
    assert [name for names in sent_names(connection) for name in names] == [f"s{n}" for n in range(1000)]
    assert len(connection.sent) <= 200


async def test_notifications_during_an_outage_are_dropped(autojump_clock: MockClock) -> None:
    async def act(notifier: Notifier, connection: RecordingConnection) -> None:
        connection.down = True
        notifier.newer(["lost"])
        notifier.closed()
        await trio.sleep(30)
        connection.down = False
        notifier.newer(["told"])

    assert sent_names(await run_notifier(act)) == [["told"]]


async def test_no_names_send_nothing(autojump_clock: MockClock) -> None:
    async def act(notifier: Notifier, connection: RecordingConnection) -> None:
        none: Iterable[str] = ()
        notifier.newer(none)

    assert (await run_notifier(act)).sent == []


async def test_process_without_peers_sends_nothing(autojump_clock: MockClock) -> None:
    peers = Peers()

    async def act(notifier: Notifier, connection: RecordingConnection) -> None:
        peers.counted(0)
        notifier.newer(["unheard"])
        notifier.closed()
        await trio.sleep(1)
        assert peers.heard()
        notifier.anything()  # the newcomer looks everywhere
        await trio.sleep(1)
        notifier.newer(["heard"])

    connection = await run_notifier(act, peers)
    assert [names for _, names in connection.sent] == [[""], ["null"], ['["heard"]']]


async def test_peers_are_assumed_in_doubt(autojump_clock: MockClock) -> None:
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


class ListeningConnection:
    """A connection to listen on: `say` delivers a notification, `others` is the number of living peers."""

    def __init__(self, others: int) -> None:
        self.others = others
        self.say: dict[str, Callable[[str], None]] = {}
        self.ended = trio.Event()

    async def connected(self) -> "ListeningConnection":
        return self

    def mark_own(self) -> None:
        pass

    async def listen(self, channel: str, hear: Callable[[str], None]) -> None:
        self.say[channel] = hear

    async def fetch(self, sql: str, *values: object) -> Sequence[Any]:
        return [(self.others,)]


@pytest.mark.parametrize("alone", [True, False])
async def test_new_peer_is_always_answered(autojump_clock: MockClock, alone: bool) -> None:
    """It may not see us: after a restart of the database the liveness locks come back one by one."""
    connection, listening, peers = RecordingConnection(), ListeningConnection(0 if alone else 1), Peers()
    notifier = Notifier(connection, peers)  # type: ignore[arg-type]
    hear = Listener(newer=lambda _: None, closed=lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.serve)
        await nursery.start(listen_there, listening, hear, notifier, peers)
        assert peers.none is alone
        listening.say[HERE]("")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [names for channel, names in connection.sent if channel == NEWER] == [["null"]]
    assert [names for channel, names in connection.sent if channel != NEWER] == [[""]]


@pytest.mark.parametrize("how", ["heard", "counted"])
async def test_overlooked_peer_is_told_to_look(autojump_clock: MockClock, how: str) -> None:
    connection, listening, peers = RecordingConnection(), ListeningConnection(0), Peers()
    notifier = Notifier(connection, peers)  # type: ignore[arg-type]
    hear = Listener(newer=lambda _: None, closed=lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.serve)
        await nursery.start(listen_there, listening, hear, notifier, peers)
        notifier.newer(["untold"])
        if how == "heard":
            listening.say[NEWER]('["theirs"]')
        else:
            listening.others = 1
        await trio.sleep(PING_SECONDS + 1)
        nursery.cancel_scope.cancel()
    assert [names for channel, names in connection.sent if channel == NEWER] == [["null"]]


async def listen_there(
    listening: ListeningConnection,
    hear: Listener,
    notifier: Notifier,
    peers: Peers,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    await listen(listening, hear, notifier, peers, 1, task_status)  # type: ignore[arg-type]
