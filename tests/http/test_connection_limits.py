"""Limits of open connections: `ConnectionTable`, `TokenBucket` and `ByteBudget`.

The table decides which connection is closed when a new one arrives, and which are overdue. Every test passes
the time as an argument; there is no socket and no clock.
"""

import ipaddress
import itertools

import pytest

from server.http.connection_limits import ROOM_SECONDS, ByteBudget, ConnectionTable, TokenBucket


class FakeConnection:
    """A connection that records whether the table has closed it."""

    def __init__(self, *, lasting: bool = False) -> None:
        self.counted_address: str | None = None
        self.ended = False
        self.lasting = lasting

    def close_idle(self) -> None:
        """One that is `lasting` has bytes to send still, and has no end of itself."""
        self.ended = not self.lasting

    def client_gone(self) -> None:
        self.ended = True


def admit(table: ConnectionTable, host: str, now: float = 0.0, *, busy: bool = False) -> FakeConnection:
    """Adds a new connection to the table. It counts as busy if `busy` is set."""
    fake = FakeConnection()
    assert table.admit(fake, host, now)
    if busy:
        table.busy(fake)
    return fake


def test_new_connection_closes_the_oldest_idle_one() -> None:
    table = ConnectionTable(3, 100)
    busy, first, second = (admit(table, f"192.0.2.{n}", busy=True) for n in range(3))
    table.idle(second, 1.0)
    table.idle(first, 2.0)
    newest = admit(table, "192.0.2.9", 3.0)
    assert [busy.ended, first.ended, second.ended, newest.ended] == [False, False, True, False]
    assert len(table.connections) == 3


def test_new_connection_is_refused_when_all_are_busy() -> None:
    table = ConnectionTable(2, 100)
    old = [admit(table, "192.0.2.1", busy=True) for _ in range(2)]
    new = FakeConnection()
    assert not table.admit(new, "192.0.2.2", 1.0)
    assert not any(one.ended for one in old)
    assert table.refused == 1
    table.forget(old[0])
    assert table.admit(new, "192.0.2.2", 1.0)


def test_new_connection_closes_one_whose_request_head_is_slow() -> None:
    """Without this, clients that send their request head slowly would keep everybody else out."""
    table = ConnectionTable(1, 100)
    slow = admit(table, "192.0.2.1", 0.0)
    assert not table.admit(FakeConnection(), "192.0.2.2", ROOM_SECONDS - 0.1)
    assert table.admit(FakeConnection(), "192.0.2.2", ROOM_SECONDS + 0.1)
    assert slow.ended


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", True),
        ("::ffff:192.0.2.1", True),
        ("2001:db8::1", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("10.1.2.3", False),
        ("::ffff:10.1.2.3", False),
    ],
)
def test_connections_per_address_are_limited(host: str, counted: bool) -> None:
    """Loopback addresses and trusted proxies are exempt: many users share them."""
    table = ConnectionTable(100, 2, [ipaddress.ip_network("10.0.0.0/8")])
    ours = [admit(table, host, busy=True) for _ in range(2)]
    assert table.admit(FakeConnection(), host, 1.0) is not counted
    assert table.admit(FakeConnection(), "192.0.2.77", 1.0)
    if counted:
        table.idle(ours[1], 2.0)
        others = admit(table, "192.0.2.88", 3.0)
        table.idle(others, 3.0)
        assert table.admit(FakeConnection(), host, 4.0)
        assert (ours[1].ended, others.ended) == (True, False)
        table.forget(ours[0])
        assert table.admit(FakeConnection(), host, 5.0)


def test_ipv6_addresses_of_one_64_network_share_a_limit() -> None:
    """One customer usually owns a whole /64 network, which is 2^64 addresses."""
    table = ConnectionTable(100, 1)
    admit(table, "2001:db8::1", busy=True)
    assert not table.admit(FakeConnection(), "2001:db8::2", 1.0)
    assert table.admit(FakeConnection(), "2001:db8:0:1::2", 1.0)


def test_end_overdue_closes_slow_heads_then_idle_connections() -> None:
    """A request head has 20 s, an idle connection 75 s; a busy connection is never overdue."""
    table = ConnectionTable(100, 100)
    silent, asking, idle, busy = (admit(table, "192.0.2.1", 0.0) for _ in range(4))
    table.idle(idle, 0.0)
    table.busy(busy)
    table.idle(asking, 0.0)
    table.asking(asking, 15.0)
    table.end_overdue(19.0, keep_alive=75, head_seconds=20)
    assert not any(one.ended for one in (silent, asking, idle, busy))
    table.end_overdue(20.0, keep_alive=75, head_seconds=20)
    assert [one.ended for one in (silent, asking, idle, busy)] == [True, False, False, False]
    table.end_overdue(75.0, keep_alive=75, head_seconds=20)
    assert [one.ended for one in (asking, idle, busy)] == [True, True, False]


def test_forgetting_a_connection_twice_frees_one_place_only() -> None:
    table = ConnectionTable(100, 1)
    one = admit(table, "192.0.2.1")
    table.forget(one)
    table.forget(one)
    admit(table, "192.0.2.1")
    assert not table.admit(FakeConnection(), "192.0.2.1", 1.0)


def test_connection_has_exactly_one_state() -> None:
    """Any order of state changes leaves one state. A forgotten connection has none and is never closed again."""
    table = ConnectionTable(100, 100)
    one = admit(table, "192.0.2.1")
    assert table.state(one) == "asking"
    for first, second in itertools.product(["idle", "asking", "busy"], repeat=2):
        for state in (first, second):
            set_state(table, one, state)
            assert table.state(one) == state
    table.forget(one)
    for state in ("idle", "asking", "busy"):
        set_state(table, one, state)
        assert table.state(one) is None
    table.end_overdue(1_000.0, keep_alive=75, head_seconds=20)
    assert not one.ended


def set_state(table: ConnectionTable, one: FakeConnection, state: str) -> None:
    """Tells the table that the connection is now in this state."""
    if state == "busy":
        table.busy(one)
    else:
        (table.idle if state == "idle" else table.asking)(one, 1.0)


@pytest.mark.parametrize("state", ["idle", "asking"])
def test_making_room_closes_a_connection_with_unsent_bytes(state: str) -> None:
    """A connection whose client has not taken its whole response is closed too, or it would live on uncounted."""
    table = ConnectionTable(1, 1)
    old = FakeConnection(lasting=True)
    assert table.admit(old, "192.0.2.1", 0.0)
    set_state(table, old, state)
    assert table.admit(FakeConnection(), "192.0.2.1", 1.0 + ROOM_SECONDS)
    assert old.ended
    assert len(table.connections) == 1


def test_overdue_connection_with_unsent_bytes_can_still_be_closed_for_room() -> None:
    table = ConnectionTable(1, 1)
    old = FakeConnection(lasting=True)
    assert table.admit(old, "192.0.2.1", 0.0)
    table.end_overdue(20.0, keep_alive=75, head_seconds=20)
    table.end_waiting()
    assert not old.ended
    assert table.admit(FakeConnection(), "192.0.2.1", 21.0)
    assert old.ended


def test_token_bucket_refills_over_time() -> None:
    bucket = TokenBucket(3, 2.0)
    assert [bucket.spend(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.spend(now) for now in (100.4, 100.5, 100.6, 101.0)] == [False, True, False, True]


def test_byte_budget_limits_the_sum() -> None:
    """A single item larger than the whole budget is accepted when nothing else is held."""
    budget = ByteBudget(100)
    share = budget.of(None)
    assert share.take(1_000)
    assert not share.take(1)
    share.give(1_000)
    assert share.take(60)
    assert not share.take(41)
    assert share.take(40)
    share.add(500)
    assert budget.held == 600


def test_one_address_takes_a_quarter_of_the_byte_budget() -> None:
    """Over all its connections; whoever comes from elsewhere, or is not counted, has the rest."""
    budget = ByteBudget(100)
    reads_nothing, again, other = budget.of("192.0.2.1"), budget.of("192.0.2.1"), budget.of("192.0.2.2")
    assert reads_nothing.take(20)
    assert again.take(5)
    assert not again.take(1)
    assert other.take(25)
    assert budget.of(None).take(50)
    assert not budget.of(None).take(1)
    for share in (reads_nothing, other):
        share.give(25)
    assert other.take(40), "larger than the share, and the only one"
    assert not other.take(1)
    again.add(30)
    other.give(40)
    again.give(30)
    assert (budget.held, budget.held_of) == (50, {})
