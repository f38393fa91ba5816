"""Who calls, on the store in memory and in virtual time: keys, the table of live ones, and their ends."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreUnavailable
from server.auth import authenticator as authenticator_module
from server.auth.auth_store import Origin
from server.auth.authenticator import Authenticator, Presented, Reader
from server.auth.credentials import NewCredential, generate
from server.auth.live_credentials import IDLE_SECONDS, LiveCredentials
from server.auth.memory_auth_store import MemoryAuthStore
from server.auth.principal import ALL_SCOPES, ANONYMOUS, Principal
from server.problem import Problem

READ = frozenset({"read"})


def bearer(key: NewCredential) -> Presented:
    return Presented(authorization=f"Bearer {key.text}", reader=Reader("192.0.2.1"))


async def add_key(
    store: MemoryAuthStore, seconds: float | None = None, scopes: frozenset[str] = ALL_SCOPES
) -> NewCredential:
    key = generate("key")
    await store.add_key(key, "acme", "", scopes, seconds)
    return key


@asynccontextmanager
async def opened(store: MemoryAuthStore) -> AsyncIterator[Authenticator]:
    authenticator = Authenticator(store)
    async with authenticator.open():
        yield authenticator


async def refusal(authenticator: Authenticator, presented: Presented) -> Problem:
    with pytest.raises(Problem) as caught:
        await authenticator.authenticate(presented)
    return caught.value


class Stream:
    """What a stream does with its principal; `ended` is when it was told to end."""

    def __init__(self, authenticator: Authenticator, principal: Principal) -> None:
        self.ended = math.inf
        self.times = 0
        self.release = authenticator.hold(principal, self._end)

    def _end(self) -> None:
        self.ended = trio.current_time()
        self.times += 1


async def test_without_any_key_everybody_is_anonymous(autojump_clock: MockClock) -> None:
    async with opened(MemoryAuthStore()) as authenticator:
        assert not authenticator.required
        for presented in (Presented(), Presented("Bearer tt_key_x"), Presented("Basic x"), Presented(cookie="x")):
            assert authenticator.cached(presented) is ANONYMOUS
            assert await authenticator.authenticate(presented) is ANONYMOUS


async def test_a_key_is_recognised_and_then_found_without_waiting(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key = await add_key(store, scopes=READ)
    async with opened(store) as authenticator:
        assert authenticator.required
        assert authenticator.cached(bearer(key)) is None
        principal = await authenticator.authenticate(bearer(key))
        assert principal == Principal("acme", key.id, READ, key.id)
        lookups = store.lookups
        assert authenticator.cached(bearer(key)) is principal
        assert await authenticator.authenticate(bearer(key)) is principal
        # However the scheme is written.
        assert await authenticator.authenticate(Presented(f"bEARER   {key.text} ")) is principal
        assert store.lookups == lookups


async def test_required_although_no_key_was_made(autojump_clock: MockClock) -> None:
    authenticator = Authenticator(MemoryAuthStore(), require_keys=True)
    async with authenticator.open():
        assert (await refusal(authenticator, Presented())).code == "unauthenticated"


async def test_what_is_refused_and_in_which_words(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    old, gone, good = await add_key(store, 10.0), await add_key(store), await add_key(store)
    await store.revoke_key(gone.id)
    session, ticket = generate("ses"), generate("tick")
    await trio.sleep(11)
    table: list[tuple[Presented, str]] = [
        (Presented(), "unauthenticated"),
        (Presented("Basic dXNlcjpwYXNz"), "unauthenticated"),
        (Presented(""), "unauthenticated"),
        (Presented("Bearer"), "invalid_credential"),
        (Presented("Bearer x"), "invalid_credential"),
        (Presented("Bearer " + "x" * 100_000), "invalid_credential"),
        (Presented(f"Bearer {good.text[:-1]}"), "invalid_credential"),
        (Presented(f"Bearer {generate('key').text}"), "invalid_credential"),
        (Presented(f"Bearer {session.text}"), "invalid_credential"),
        (Presented(f"Bearer {ticket.text}"), "invalid_credential"),
        (Presented(f"Bearer {old.text}"), "expired_credential"),
        (Presented(f"Bearer {gone.text}"), "revoked_credential"),
        (Presented(cookie=good.text), "invalid_credential"),
        (Presented(cookie=session.text), "invalid_credential"),
        (Presented(cookie=""), "invalid_credential"),
        (Presented(ticket=good.text), "invalid_credential"),
        (Presented(ticket=ticket.text), "invalid_credential"),
        (Presented(f"Bearer {good.text}", ticket=ticket.text), "invalid_credential"),
        (Presented(f"Bearer {gone.text}", cookie=session.text), "revoked_credential"),
    ]
    async with opened(store) as authenticator:
        for presented, code in table:
            problem = await refusal(authenticator, presented)
            assert (problem.status, problem.code) == (401, code), presented
            for text in (*presented[:3],):
                assert not text or text.removeprefix("Bearer ") not in problem.detail or len(text) < 9


async def test_the_first_key_counts_soon_and_ends_anonymous_streams(
    autojump_clock: MockClock,
) -> None:
    store = MemoryAuthStore()
    async with opened(store) as authenticator:
        open_stream, closed_stream = (Stream(authenticator, ANONYMOUS) for _ in range(2))
        closed_stream.release()
        await trio.sleep(30)
        key = await add_key(store)
        made = trio.current_time()
        while not authenticator.required:
            await trio.sleep(0.1)
        assert trio.current_time() <= made + 2.2
        assert open_stream.ended <= made + 2.2
        assert closed_stream.times == 0
        assert (await refusal(authenticator, Presented())).code == "unauthenticated"
        assert (await authenticator.authenticate(bearer(key))).tenant == "acme"
        late = Stream(authenticator, ANONYMOUS)
        assert late.times == 1
        # Revoking the last one opens nothing again.
        await store.revoke_key(key.id)
        await trio.sleep(10)
        assert authenticator.required


async def test_a_revoked_key_ends_its_streams_and_no_others(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key, other = await add_key(store), await add_key(store)
    async with opened(store) as authenticator:
        principal = await authenticator.authenticate(bearer(key))
        streams = [Stream(authenticator, principal) for _ in range(4)]
        spared = Stream(authenticator, await authenticator.authenticate(bearer(other)))
        over = Stream(authenticator, principal)
        over.release()
        over.release()
        await trio.sleep(100)
        await store.revoke_key(key.id)
        revoked = trio.current_time()
        await trio.sleep(10)
        assert [stream.times for stream in (*streams, spared, over)] == [1, 1, 1, 1, 0, 0]
        assert all(stream.ended <= revoked + 5 for stream in streams)
        assert authenticator.cached(bearer(key)) is None
        assert (await refusal(authenticator, bearer(key))).code == "revoked_credential"
        ended = authenticator.why_ended(principal)
        assert ended is not None
        assert ended.code == "revoked_credential"
        late = Stream(authenticator, principal)  # a request that was under way
        assert late.times == 1


async def test_a_key_expires_at_its_time_and_not_at_the_next_look(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key = await add_key(store, 33.3)
    async with opened(store) as authenticator:
        stream = Stream(authenticator, await authenticator.authenticate(bearer(key)))
        begun = trio.current_time()
        await trio.sleep(33)
        assert authenticator.cached(bearer(key)) is not None
        store.available = False  # expiry needs no database
        await trio.sleep(1)
        assert stream.ended == pytest.approx(begun + 33.3)
        assert authenticator.cached(bearer(key)) is None
        store.available = True
        assert (await refusal(authenticator, bearer(key))).code == "expired_credential"


async def test_many_expire_in_any_order(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    async with opened(store) as authenticator:
        begun, streams = trio.current_time(), []
        for seconds in (50.0, 10.0, 30.0, 20.0, 40.0):
            key = await add_key(store, seconds)
            authenticator._required = True
            streams.append((seconds, Stream(authenticator, await authenticator.authenticate(bearer(key)))))
        await trio.sleep(60)
        assert [stream.ended - begun for _, stream in streams] == pytest.approx(
            [at for at, _ in streams], abs=0.001
        )


async def test_one_query_for_all_that_is_in_use_and_none_for_what_is_not(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    keys = [await add_key(store) for _ in range(50)]
    async with opened(store) as authenticator:
        for key in keys:
            await authenticator.authenticate(bearer(key))
        before = store.lookups
        await trio.sleep(20.5)
        assert store.lookups - before == 10
        stream = Stream(authenticator, await authenticator.authenticate(bearer(keys[0])))
        await trio.sleep(2 * IDLE_SECONDS)
        assert len(authenticator._live.in_use()) == 1
        stream.release()
        await trio.sleep(2 * IDLE_SECONDS)
        assert authenticator._live.in_use() == []
        before = store.lookups
        await trio.sleep(100)
        assert store.lookups == before


async def test_while_the_database_is_away_what_is_known_stays_good(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    known, unknown = await add_key(store), await add_key(store)
    async with opened(store) as authenticator:
        stream = Stream(authenticator, await authenticator.authenticate(bearer(known)))
        store.available = False
        await trio.sleep(600)
        assert authenticator.cached(bearer(known)) is not None
        with pytest.raises(StoreUnavailable):
            await authenticator.authenticate(bearer(unknown))
        assert stream.times == 0
        await trio.sleep(1)
        store.available = True
        await store.revoke_key(known.id)
        await trio.sleep(5)
        assert stream.times == 1


async def test_the_table_is_bounded_and_what_streams_hold_is_watched_besides(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    async with opened(store) as authenticator:
        authenticator._live = LiveCredentials(max_cached=3)
        keys = [await add_key(store) for _ in range(10)]
        authenticator._required = True
        first = Stream(authenticator, await authenticator.authenticate(bearer(keys[0])))
        for key in keys:
            await authenticator.authenticate(bearer(key))
        assert len(authenticator._live) == 3
        assert authenticator.cached(bearer(keys[0])) is None
        await store.revoke_key(keys[0].id)
        await trio.sleep(5)
        assert first.times == 1


async def test_a_stream_that_ends_while_its_credential_does_is_told_once(autojump_clock: MockClock) -> None:
    """`end` of one stream may release others, and itself."""
    store = MemoryAuthStore()
    key = await add_key(store)
    async with opened(store) as authenticator:
        principal = await authenticator.authenticate(bearer(key))
        releases: list[Callable[[], None]] = []
        ends: list[int] = []

        def end(number: int) -> None:
            ends.append(number)
            for release in releases:
                release()

        releases += [authenticator.hold(principal, partial(end, number)) for number in range(3)]
        await store.revoke_key(key.id)
        await trio.sleep(5)
        assert sorted(ends) == [0, 1, 2]


async def test_the_day_a_key_was_used_is_kept(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    used, unused = await add_key(store), await add_key(store)
    async with opened(store) as authenticator:
        for _ in range(3):
            await authenticator.authenticate(bearer(used))
        await trio.sleep(11)
        rows = {row.id: row for row in await store.list_keys()}
        assert rows[used.id].last_used is not None
        assert rows[unused.id].last_used is None
        assert await store.add_usage({(used.id, "requests"): 0.0}) == {(used.id, "requests"): 3.0}
        await authenticator.authenticate(bearer(used))
    # What was counted since is written when the process ends.
    assert await store.add_usage({(used.id, "requests"): 0.0}) == {(used.id, "requests"): 4.0}


async def test_expired_rows_are_deleted_by_and_by(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key = await add_key(store)
    async with opened(store) as authenticator:
        principal = await authenticator.authenticate(bearer(key))
        for _ in range(20):
            await authenticator.issue_ticket(principal, "conv_1")
        await trio.sleep(2 * 3600)
        assert store._tickets == {}


async def test_guessing_is_slowed_and_a_good_key_passes(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key, gone = await add_key(store), await add_key(store)
    await store.revoke_key(gone.id)
    async with opened(store) as authenticator:

        def wrong(address: str) -> Presented:
            return Presented(f"Bearer {generate('key').text}", reader=Reader(address))

        for address in ("192.0.2.7", "127.0.0.1", "2001:db8::1"):
            for _ in range(10):
                assert (await refusal(authenticator, wrong(address))).status == 401
            problem = await refusal(authenticator, wrong(address))
            assert (problem.status, problem.code) == (429, "too_many_attempts")
            assert problem.retry_after is not None
            assert 0 < problem.retry_after <= 60
            good = Presented(f"Bearer {key.text}", reader=Reader(address))
            assert (await authenticator.authenticate(good)).credential == key.id
            # Who had a key is not guessing.
            ended = Presented(f"Bearer {gone.text}", reader=Reader(address))
            assert (await refusal(authenticator, ended)).code == "revoked_credential"
        assert (await refusal(authenticator, wrong("2001:db8::2"))).status == 429  # the same host
        assert (await refusal(authenticator, wrong("2001:db8:0:1::1"))).status == 401
        assert (await refusal(authenticator, wrong("192.0.2.8"))).status == 401
        await trio.sleep(60)
        assert (await refusal(authenticator, wrong("192.0.2.7"))).status == 401


async def test_only_a_bounded_number_of_addresses_is_remembered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.auth import login_throttle

    monkeypatch.setattr(login_throttle, "MAX_ADDRESSES", 50)
    throttle = login_throttle.LoginThrottle()
    for number in range(200):
        throttle.failed(f"192.0.2.{number}")
    throttle.failed("no address at all " * 100)
    assert len(throttle) == 50


async def test_housekeeping_keeps_up_with_however_many_were_made(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What expired faster than one batch a minute would add up for ever."""
    monkeypatch.setattr(authenticator_module, "DELETE_LIMIT", 10)
    store = MemoryAuthStore(clock=trio.current_time)
    for _ in range(95):
        await store.add_ticket(generate("tick"), Origin("acme", "ada", READ), "conv_1", "sse", 60.0, 60.0)
    async with opened(store):
        await trio.sleep(3_600 + 60 + 2 * authenticator_module.HOUSEKEEPING_SECONDS)
        assert await store.delete_expired(1) == 0
