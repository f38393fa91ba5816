"""Sessions and tickets, in virtual time, by one process and by two on one store."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from server.auth import authenticator
from server.auth.authenticator import SESSION_SECONDS, Authenticator, Issued, Presented, Reader
from server.auth.credentials import NewCredential, generate
from server.auth.memory_auth_store import MemoryAuthStore
from server.auth.principal import ALL_SCOPES, ANONYMOUS, Principal
from server.problem import Problem
from tests.auth.test_authenticator import Stream, add_key, bearer, refusal

CONV, GEN = "conv_1", "gen_1"
ADA = Reader("192.0.2.1", "Firefox", "https://app.example", CONV)


@asynccontextmanager
async def two_processes(
    store: MemoryAuthStore, session_seconds: float = SESSION_SECONDS
) -> AsyncIterator[tuple[Authenticator, Authenticator]]:
    one, other = (Authenticator(store, session_seconds=session_seconds) for _ in range(2))
    async with one.open(), other.open():
        yield one, other


async def signed_in(authenticator: Authenticator, key: NewCredential) -> tuple[Issued, Principal]:
    session = await authenticator.create_session(await authenticator.authenticate(bearer(key)))
    return session, await authenticator.authenticate(Presented(cookie=session.text))


async def test_a_session_is_the_same_person_on_every_process(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key = await add_key(store, scopes=frozenset({"read", "write"}))
    async with two_processes(store) as (one, other):
        session, principal = await signed_in(one, key)
        assert session.seconds == 43_200
        assert principal == Principal("acme", key.id, frozenset({"read", "write"}), session.id)
        assert principal.caller == (await one.authenticate(bearer(key))).caller
        presented = Presented(cookie=session.text)
        assert one.cached(presented) is principal
        assert await other.authenticate(presented) == principal
        assert one.expires_at(principal) == session.expires_at
        # A header goes before a cookie, good or bad; a scheme of somebody else's does not count.
        assert (await one.authenticate(Presented(bearer(key).authorization, session.text))).credential == key.id
        assert (await refusal(one, Presented("Bearer x", session.text))).code == "invalid_credential"
        lookups = store.lookups
        assert await one.authenticate(Presented("Basic dTpw", session.text)) == principal
        assert store.lookups == lookups
        # The token of a session is good as a cookie alone: as a header it would get around the checks of cookies.
        assert (await refusal(one, Presented(f"Bearer {session.text}"))).code == "invalid_credential"


async def test_signing_out_ends_streams_everywhere_and_the_key_goes_on(
    autojump_clock: MockClock,
) -> None:
    store = MemoryAuthStore()
    key = await add_key(store)
    async with two_processes(store) as (one, other):
        session, principal = await signed_in(one, key)
        here, there = (
            Stream(one, principal),
            Stream(other, await other.authenticate(Presented(cookie=session.text))),
        )
        ticket = await one.issue_ticket(principal, CONV)
        with_ticket = Stream(other, await other.authenticate(Presented(ticket=ticket.text, reader=ADA)))
        by_key = Stream(one, await one.authenticate(bearer(key)))
        begun = trio.current_time()
        await one.end_session(principal)
        assert here.ended == begun
        await trio.sleep(5)
        assert there.ended < begun + 5
        assert with_ticket.ended < begun + 5
        assert by_key.times == 0
        for process in (one, other):
            assert (await refusal(process, Presented(cookie=session.text))).code == "revoked_credential"
        await one.end_session(await one.authenticate(bearer(key)))  # no session: nothing happens
        assert by_key.times == 0
        await one.end_session(ANONYMOUS)


async def test_a_session_ends_with_its_key_and_by_itself(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    short, revoked, lasting = await add_key(store, 100.0), await add_key(store), await add_key(store)
    async with two_processes(store, session_seconds=300.0) as (one, _):
        begun = trio.current_time()
        streams = {}
        for key in (short, revoked, lasting):
            _, principal = await signed_in(one, key)
            streams[key.id] = Stream(one, principal)
        assert (await one.create_session(await one.authenticate(bearer(short)))).seconds == pytest.approx(
            100, abs=1
        )
        await store.revoke_key(revoked.id)
        await trio.sleep(310)
        assert streams[revoked.id].ended <= begun + 5
        assert streams[short.id].ended == pytest.approx(begun + 100, abs=0.01)
        assert streams[lasting.id].ended == pytest.approx(begun + 300, abs=0.01)


@pytest.mark.parametrize("what", ["session", "ticket", "anonymous"])
async def test_a_session_is_made_of_a_key_alone(autojump_clock: MockClock, what: str) -> None:
    store = MemoryAuthStore()
    key = await add_key(store)
    async with two_processes(store) as (one, _):
        _, principal = await signed_in(one, key)
        if what == "ticket":
            ticket = await one.issue_ticket(principal, CONV)
            principal = await one.authenticate(Presented(ticket=ticket.text, reader=ADA))
        with pytest.raises(Problem) as caught:
            await one.create_session(ANONYMOUS if what == "anonymous" else principal)
        assert caught.value.status == 401


async def test_a_ticket_is_for_one_stream_and_one_reader(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key = await add_key(store)
    async with two_processes(store) as (one, other):
        maker = await one.authenticate(bearer(key))
        ticket = await one.issue_ticket(maker, CONV)
        assert ticket.seconds == 60
        for stranger in (ADA._replace(stream=GEN), ADA._replace(transport="websocket"), ADA._replace(stream="")):
            problem = await refusal(other, Presented(ticket=ticket.text, reader=stranger))
            assert problem.code == "invalid_credential"  # and it is not used up by that
        principal = await other.authenticate(Presented(ticket=ticket.text, reader=ADA))
        assert (principal.tenant, principal.subject, principal.stream) == ("acme", key.id, CONV)
        assert principal.scopes == {"read"}
        assert principal.credential == ticket.id
        stream = Stream(other, principal)
        resumed = ADA._replace(resumes=True)
        thieves = [
            *(ADA, resumed._replace(address="192.0.2.2"), resumed._replace(user_agent="curl")),
            *(resumed._replace(origin="https://evil.example"), resumed._replace(origin="")),
        ]
        for process in (one, other):
            for thief in thieves:
                problem = await refusal(process, Presented(ticket=ticket.text, reader=thief))
                assert problem.code == "ticket_used"
        assert stream.times == 0


async def test_a_reconnect_ends_the_stream_of_before(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key = await add_key(store)
    async with two_processes(store) as (one, other):
        ticket = await one.issue_ticket(await one.authenticate(bearer(key)), CONV)
        first = Presented(ticket=ticket.text, reader=ADA)
        again = Presented(ticket=ticket.text, reader=ADA._replace(resumes=True))
        unheld = await one.authenticate(first)
        begun = trio.current_time()
        second = Stream(one, await one.authenticate(again))
        assert Stream(one, unheld).times == 1  # overtaken before it began
        third = Stream(one, await one.authenticate(again))
        assert (second.ended, third.ended) == (begun, math.inf)
        fourth = Stream(other, await other.authenticate(again))
        await trio.sleep(5)
        assert third.ended < begun + 5
        assert fourth.times == 0
        await trio.sleep(100)
        assert fourth.times == 0


async def test_of_two_uses_at_once_one_has_it(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key = await add_key(store)
    async with two_processes(store) as processes:
        ticket = await processes[0].issue_ticket(await processes[0].authenticate(bearer(key)), CONV)
        got: list[str] = []

        async def use(number: int) -> None:
            reader = ADA._replace(address=f"192.0.2.{number}")
            try:
                await processes[number % 2].authenticate(Presented(ticket=ticket.text, reader=reader))
            except Problem as problem:
                got.append(problem.code)
            else:
                got.append("in")

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(use, number)
        assert sorted(got) == ["in", *["ticket_used"] * 19]


async def test_a_ticket_waits_a_minute_and_lasts_its_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        authenticator, "TICKET_SECONDS", 600.0
    )  # not half a day: it is looked at every two seconds
    store = MemoryAuthStore()
    key = await add_key(store)
    async with two_processes(store) as (one, _):
        maker = await one.authenticate(bearer(key))
        late, used = await one.issue_ticket(maker, CONV), await one.issue_ticket(maker, CONV)
        begun = trio.current_time()
        stream = Stream(one, await one.authenticate(Presented(ticket=used.text, reader=ADA)))
        await trio.sleep(61)
        assert (await refusal(one, Presented(ticket=late.text, reader=ADA))).code == "expired_credential"
        await trio.sleep(600)
        assert stream.ended == pytest.approx(begun + 600, abs=0.01)


async def test_a_ticket_ends_with_the_key_of_its_session(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    key, short = await add_key(store), await add_key(store, 90.0)
    async with two_processes(store) as (one, other):
        streams = []
        for made in (key, short):
            _, principal = await signed_in(one, made)
            ticket = await one.issue_ticket(principal, CONV)
            streams.append(Stream(other, await other.authenticate(Presented(ticket=ticket.text, reader=ADA))))
        begun = trio.current_time()
        await store.revoke_key(key.id)
        await trio.sleep(100)
        assert streams[0].ended < begun + 5
        assert streams[1].ended == pytest.approx(begun + 90, abs=1)


@pytest.mark.parametrize(
    ("transport", "asked", "given"),
    [
        ("sse", None, {"read"}),
        ("websocket", None, {"read", "write"}),
        ("websocket", ["read"], {"read"}),
        ("sse", ["read", "write"], {"read", "write"}),
    ],
)
async def test_a_ticket_has_at_most_its_makers_scopes(
    autojump_clock: MockClock, transport: str, asked: list[str] | None, given: set[str]
) -> None:
    store = MemoryAuthStore()
    key = await add_key(store, scopes=frozenset({"read", "write"}))
    async with two_processes(store) as (one, _):
        maker = await one.authenticate(bearer(key))
        ticket = await one.issue_ticket(maker, CONV, transport, asked)  # type: ignore[arg-type]
        reader = ADA._replace(transport=transport)  # type: ignore[arg-type]
        principal = await one.authenticate(Presented(ticket=ticket.text, reader=reader))
        assert principal.scopes == given
        for scope in ALL_SCOPES - {"read", "write"}:
            with pytest.raises(Problem) as caught:
                await one.issue_ticket(maker, CONV, "sse", ["read", scope])
            assert (caught.value.status, caught.value.code) == (403, "scope_required")
            assert scope in caught.value.detail
        with pytest.raises(Problem):
            await one.issue_ticket(principal, CONV)


async def test_without_keys_a_ticket_works_too_until_there_is_one(autojump_clock: MockClock) -> None:
    store = MemoryAuthStore()
    async with two_processes(store) as (one, other):
        ticket, unused = await one.issue_ticket(ANONYMOUS, CONV), await one.issue_ticket(ANONYMOUS, CONV)
        stream = Stream(other, await other.authenticate(Presented(ticket=ticket.text, reader=ADA)))
        wrong = Presented(ticket=generate("tick").text, reader=ADA)
        assert (await refusal(other, wrong)).code == "invalid_credential"
        await add_key(store)
        begun = trio.current_time()
        await trio.sleep(5)
        assert stream.ended < begun + 5
        for one_ticket in (ticket, unused):
            presented = Presented(ticket=one_ticket.text, reader=ADA._replace(resumes=True))
            assert (await refusal(other, presented)).code == "revoked_credential"


async def test_streams_come_and_go_and_nothing_stays(autojump_clock: MockClock) -> None:
    """Each reconnect of a ticket is one more timer until the ticket's end, half a day later."""
    store = MemoryAuthStore()
    key = await add_key(store)
    async with two_processes(store) as (one, _):
        ticket = await one.issue_ticket(await one.authenticate(bearer(key)), CONV)
        for number in range(1_000):
            reader = ADA._replace(resumes=number > 0)
            Stream(one, await one.authenticate(Presented(ticket=ticket.text, reader=reader))).release()
        assert len(one._live._expiring) <= 200
        assert one._live._held == set()
