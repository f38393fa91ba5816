"""Who is let in, and who has to go: the table, the bucket and the budget, with the time in the test's hand."""

import ipaddress
import itertools

import pytest

from server.http.connection_limits import ROOM_SECONDS, ByteBudget, ConnectionTable, TokenBucket


class Fake:
    """A connection that knows whether it was ended."""

    def __init__(self, *, lasting: bool = False) -> None:
        self.counted_address: str | None = None
        self.ended = False
        self.lasting = lasting

    def close_idle(self) -> None:
        """One that is `lasting` has bytes to send still, and has no end of itself."""
        self.ended = not self.lasting

    def client_gone(self) -> None:
        self.ended = True


def admitted(table: ConnectionTable, host: str, now: float = 0.0, *, busy: bool = False) -> Fake:
    fake = Fake()
    assert table.admit(fake, host, now)
    if busy:
        table.busy(fake)
    return fake


def test_the_oldest_idle_one_makes_room() -> None:
    table = ConnectionTable(3, 100)
    busy, first, second = (admitted(table, f"192.0.2.{n}", busy=True) for n in range(3))
    table.idle(second, 1.0)
    table.idle(first, 2.0)
    newest = admitted(table, "192.0.2.9", 3.0)
    assert [busy.ended, first.ended, second.ended, newest.ended] == [False, False, True, False]
    assert len(table.connections) == 3


def test_where_nothing_is_idle_the_new_one_is_refused() -> None:
    table = ConnectionTable(2, 100)
    old = [admitted(table, "192.0.2.1", busy=True) for _ in range(2)]
    new = Fake()
    assert not table.admit(new, "192.0.2.2", 1.0)
    assert not any(one.ended for one in old)
    assert table.refused == 1
    table.forget(old[0])
    assert table.admit(new, "192.0.2.2", 1.0)


def test_one_that_has_asked_nothing_for_a_while_makes_room() -> None:
    """Else slow heads would keep everybody out for as long as a head may take."""
    table = ConnectionTable(1, 100)
    slow = admitted(table, "192.0.2.1", 0.0)
    assert not table.admit(Fake(), "192.0.2.2", ROOM_SECONDS - 0.1)
    assert table.admit(Fake(), "192.0.2.2", ROOM_SECONDS + 0.1)
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
def test_one_address_has_its_share(host: str, counted: bool) -> None:
    """Not counted: this machine, and the proxies that bring everybody."""
    table = ConnectionTable(100, 2, [ipaddress.ip_network("10.0.0.0/8")])
    ours = [admitted(table, host, busy=True) for _ in range(2)]
    assert table.admit(Fake(), host, 1.0) is not counted
    assert table.admit(Fake(), "192.0.2.77", 1.0)
    if counted:
        table.idle(ours[1], 2.0)
        others = admitted(table, "192.0.2.88", 3.0)
        table.idle(others, 3.0)
        assert table.admit(Fake(), host, 4.0)
        assert (ours[1].ended, others.ended) == (True, False)
        table.forget(ours[0])
        assert table.admit(Fake(), host, 5.0)


def test_addresses_of_one_network_are_one() -> None:
    """A customer has 2^64 of them."""
    table = ConnectionTable(100, 1)
    admitted(table, "2001:db8::1", busy=True)
    assert not table.admit(Fake(), "2001:db8::2", 1.0)
    assert table.admit(Fake(), "2001:db8:0:1::2", 1.0)


def test_the_overdue_are_ended() -> None:
    table = ConnectionTable(100, 100)
    silent, asking, idle, busy = (admitted(table, "192.0.2.1", 0.0) for _ in range(4))
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


def test_forgetting_twice_counts_once() -> None:
    table = ConnectionTable(100, 1)
    one = admitted(table, "192.0.2.1")
    table.forget(one)
    table.forget(one)
    admitted(table, "192.0.2.1")
    assert not table.admit(Fake(), "192.0.2.1", 1.0)


def test_a_connection_is_in_one_state() -> None:
    """Whatever is said of it, in whatever order; and in none when it is forgotten, whatever is said then."""
    table = ConnectionTable(100, 100)
    one = admitted(table, "192.0.2.1")
    assert table.state(one) == "asking"
    for first, second in itertools.product(["idle", "asking", "busy"], repeat=2):
        for state in (first, second):
            say(table, one, state)
            assert table.state(one) == state
    table.forget(one)
    for state in ("idle", "asking", "busy"):
        say(table, one, state)
        assert table.state(one) is None
    table.end_overdue(1_000.0, keep_alive=75, head_seconds=20)
    assert not one.ended


def say(table: ConnectionTable, one: Fake, state: str) -> None:
    if state == "busy":
        table.busy(one)
    else:
        (table.idle if state == "idle" else table.asking)(one, 1.0)


@pytest.mark.parametrize("state", ["idle", "asking"])
def test_room_is_made_by_one_that_ends(state: str) -> None:
    """Also one whose answer has not all been taken: it lived on, and nobody counted it."""
    table = ConnectionTable(1, 1)
    old = Fake(lasting=True)
    assert table.admit(old, "192.0.2.1", 0.0)
    say(table, old, state)
    assert table.admit(Fake(), "192.0.2.1", 1.0 + ROOM_SECONDS)
    assert old.ended
    assert len(table.connections) == 1


def test_one_that_needs_a_moment_to_end_can_still_make_room() -> None:
    table = ConnectionTable(1, 1)
    old = Fake(lasting=True)
    assert table.admit(old, "192.0.2.1", 0.0)
    table.end_overdue(20.0, keep_alive=75, head_seconds=20)
    table.end_waiting()
    assert not old.ended
    assert table.admit(Fake(), "192.0.2.1", 21.0)
    assert old.ended


def test_a_bucket_fills_again() -> None:
    bucket = TokenBucket(3, 2.0)
    assert [bucket.spend(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.spend(now) for now in (100.4, 100.5, 100.6, 101.0)] == [False, True, False, True]


def test_a_budget() -> None:
    """What is larger than all of it goes alone."""
    budget = ByteBudget(100)
    assert budget.take(1_000)
    assert not budget.take(1)
    budget.give(1_000)
    assert budget.take(60)
    assert not budget.take(41)
    assert budget.take(40)
    budget.add(500)
    assert budget.held == 600
