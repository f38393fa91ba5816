"""What every store of credentials does: in memory and in Postgres, as the role that serves and as the owner."""

from datetime import UTC, datetime, timedelta

import pytest
import trio

from server.auth.auth_store import SERVER_SECONDS, Origin
from server.auth.credentials import Credential, NewCredential, generate
from server.auth.principal import ALL_SCOPES
from tests.auth.conftest import Stores

READ = frozenset({"read"})
ADA = Origin("acme", "ada", READ)
READER, OTHER = b"r" * 32, b"o" * 32


async def key_in(stores: Stores, seconds: float | None = None, tenant: str = "acme") -> NewCredential:
    key = generate("key")
    await stores.owner.add_key(key, tenant, "ci", READ, seconds)
    return key


async def test_an_empty_store(stores: Stores) -> None:
    found = await stores.app.look_up([b"x" * 32])
    assert (found.any_key, found.by_hash) == (False, {})
    assert await stores.app.find(b"x" * 32) is None
    assert list(await stores.owner.list_keys()) == []
    assert await stores.owner.revoke_key("key_unheard") is None
    assert not await stores.app.end_session(b"x" * 32)
    assert await stores.app.use_ticket(b"x" * 32, READER, False) is None
    assert await stores.app.delete_expired(10) == 0


async def test_a_key_from_first_to_last(stores: Stores) -> None:
    key = generate("key")
    made = await stores.owner.add_key(key, "acme", "the CI", ALL_SCOPES, None)
    assert (made.id, made.tenant, made.name, made.scopes) == (key.id, "acme", "the CI", ALL_SCOPES)
    assert (made.expires_at, made.revoked_at, made.last_used) == (None, None, None)
    assert await stores.owner.add_key(key, "acme", "the CI", ALL_SCOPES, None) == made  # a lost answer
    found = await stores.app.find(key.hash)
    assert found is not None
    assert (found.kind, found.id, found.tenant, found.subject) == ("key", key.id, "acme", key.id)
    assert (found.scopes, found.conversations, found.ended) == (ALL_SCOPES, None, False)
    assert (found.seconds_left, found.expires_at) == (None, None)
    revoked = await stores.owner.revoke_key(key.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert await stores.owner.revoke_key(key.id) == revoked
    ended = await stores.app.look_up([key.hash])
    assert ended.any_key  # revoked keys still count
    assert ended.by_hash[key.hash].ended


async def test_keys_are_listed_by_tenant_the_oldest_first(stores: Stores) -> None:
    one, two, other = (await key_in(stores), await key_in(stores), await key_in(stores, tenant="other"))
    assert [row.id for row in await stores.owner.list_keys("acme")] == [one.id, two.id]
    assert [row.id for row in await stores.owner.list_keys("other")] == [other.id]
    assert [row.id for row in await stores.owner.list_keys("nobody")] == []
    assert len(await stores.owner.list_keys()) == 3


async def test_a_key_expires(stores: Stores) -> None:
    key = await key_in(stores, 100.0)
    found = await stores.app.find(key.hash)
    assert found is not None
    assert found.seconds_left is not None
    assert 90 < found.seconds_left <= 100
    stores.age(101)
    found = await stores.app.find(key.hash)
    assert found is not None
    assert found.seconds_left is not None
    assert found.seconds_left <= 0
    assert not found.ended


async def test_many_are_looked_up_at_once(stores: Stores) -> None:
    keys = [await key_in(stores) for _ in range(5)]
    session = generate("ses")
    await stores.app.add_session(session, ADA, 60)
    hashes = [b"x" * 32, session.hash, *(key.hash for key in keys)]
    found = await stores.app.look_up(hashes)
    assert set(found.by_hash) == set(hashes[1:])
    async with trio.open_nursery() as nursery:  # and each by itself, at the same time
        for hash in hashes * 3:
            nursery.start_soon(stores.app.find, hash)


async def test_sessions_and_tickets_of_a_token_know_its_signer(stores: Stores) -> None:
    origin = Origin("acme", "ada", READ, signer="a thumbprint")
    session, ticket, other = generate("ses"), generate("tick"), generate("ses")
    await stores.app.add_session(session, origin, 60)
    await stores.app.add_ticket(ticket, origin, "conv_1", "sse", 60, 60)
    await stores.app.add_session(other, ADA, 60)
    found = (await stores.app.look_up([session.hash, ticket.hash, other.hash])).by_hash
    assert [found[made.hash].signer for made in (session, ticket, other)] == ["a thumbprint", "a thumbprint", None]


async def test_a_session_of_a_key(stores: Stores) -> None:
    key = await key_in(stores)
    session = generate("ses")
    origin = Origin("acme", key.id, READ, key=key.hash)
    expires_at = await stores.app.add_session(session, origin, 3600)
    assert await stores.app.add_session(session, origin, 3600) == expires_at  # a lost answer
    found = await stores.app.find(session.hash)
    assert found is not None
    assert (found.kind, found.id, found.subject, found.ended) == ("ses", session.id, key.id, False)
    assert found.expires_at == expires_at
    await stores.owner.revoke_key(key.id)
    found = await stores.app.find(session.hash)
    assert found is not None
    assert found.ended


async def test_a_session_lasts_no_longer_than_its_key(stores: Stores) -> None:
    key = await key_in(stores, 10.0)
    session = generate("ses")
    await stores.app.add_session(session, Origin("acme", key.id, READ, key=key.hash), 3600)
    found = await stores.app.find(session.hash)
    assert found is not None
    assert found.seconds_left is not None
    assert found.seconds_left <= 10


async def test_a_session_of_a_user_keeps_what_the_token_said(stores: Stores) -> None:
    session = generate("ses")
    only = frozenset({"conv_1", "conv_2"})
    await stores.app.add_session(session, Origin("acme", "Ada Lovelace", READ, only), 3600)
    found = await stores.app.find(session.hash)
    assert found is not None
    assert (found.subject, found.conversations, found.ended) == ("Ada Lovelace", only, False)
    nothing = generate("ses")
    await stores.app.add_session(nothing, Origin("acme", "ada", READ, frozenset()), 3600)
    found = await stores.app.find(nothing.hash)
    assert found is not None
    assert found.conversations == frozenset()


async def test_a_session_is_ended_once_for_all(stores: Stores) -> None:
    session = generate("ses")
    await stores.app.add_session(session, ADA, 3600)
    for _ in range(2):
        assert await stores.app.end_session(session.hash)
    found = await stores.app.find(session.hash)
    assert found is not None
    assert found.ended


async def ticket_in(
    stores: Stores, origin: Origin = ADA, connect: float = 60, seconds: float = 3600
) -> Credential:
    ticket = generate("tick")
    await stores.app.add_ticket(ticket, origin, "conv_1", "sse", connect, seconds)
    return ticket


async def test_a_ticket_says_what_it_is_for(stores: Stores) -> None:
    ticket = generate("tick")
    before = await stores.app.add_ticket(ticket, ADA, "gen_1", "websocket", 60, 3600)
    assert await stores.app.add_ticket(ticket, ADA, "gen_1", "websocket", 60, 3600) == before
    found = await stores.app.find(ticket.hash)
    assert found is not None
    assert (found.kind, found.id, found.stream, found.transport) == ("tick", ticket.id, "gen_1", "websocket")
    assert (found.uses, found.anonymous, found.expires_at) == (0, False, before)


@pytest.mark.parametrize("resumes", [False, True])
async def test_the_first_use_binds_it_to_a_reader(stores: Stores, resumes: bool) -> None:
    ticket = await ticket_in(stores)
    first = await stores.app.use_ticket(ticket.hash, READER, resumes)
    assert first is not None
    assert first.number == 1
    assert 3500 < first.seconds_left <= 3600
    assert await stores.app.use_ticket(ticket.hash, OTHER, True) is None
    assert await stores.app.use_ticket(ticket.hash, READER, False) is None
    again = await stores.app.use_ticket(ticket.hash, READER, True)
    assert again is not None
    assert again.number == 2
    found = await stores.app.find(ticket.hash)
    assert found is not None
    assert (found.uses, found.expires_at) == (2, again.ends_at)


async def test_of_many_first_uses_at_once_one_wins(stores: Stores) -> None:
    ticket = await ticket_in(stores)
    won = []

    async def use(store: object, reader: bytes) -> None:
        if await stores.app.use_ticket(ticket.hash, reader, True):
            won.append(reader)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(use, stores, bytes([number]) * 32)
    assert len(won) == 1


async def test_a_ticket_has_to_be_used_soon(stores: Stores) -> None:
    late, soon = await ticket_in(stores), await ticket_in(stores)
    assert await stores.app.use_ticket(soon.hash, READER, False)
    stores.age(61)
    assert await stores.app.use_ticket(late.hash, READER, False) is None
    assert await stores.app.use_ticket(soon.hash, READER, True)
    stores.age(3600)
    assert await stores.app.use_ticket(soon.hash, READER, True) is None


async def test_a_ticket_never_outlives_its_end_by_connecting(stores: Stores) -> None:
    ticket = await ticket_in(stores, connect=60, seconds=20)
    stores.age(21)
    assert await stores.app.use_ticket(ticket.hash, READER, False) is None


@pytest.mark.parametrize("end", ["key revoked", "session ended", "session gone", "nothing"])
async def test_a_ticket_ends_with_what_it_was_made_from(stores: Stores, end: str) -> None:
    key, session = await key_in(stores), generate("ses")
    await stores.app.add_session(session, Origin("acme", key.id, READ, key=key.hash), 60)
    ticket = await ticket_in(stores, Origin("acme", key.id, READ, session=session.hash), seconds=40_000)
    assert await stores.app.use_ticket(ticket.hash, READER, False)
    if end == "key revoked":
        await stores.owner.revoke_key(key.id)
    elif end == "session ended":
        await stores.app.end_session(session.hash)
    elif end == "session gone":
        stores.age(3600 + 61)
        assert await stores.app.delete_expired(10) == 1
    found = await stores.app.find(ticket.hash)
    assert found is not None
    assert found.ended is (end != "nothing")
    if end != "session gone":
        assert found.seconds_left is not None
        assert found.seconds_left <= 60


async def test_a_ticket_of_a_time_without_keys_says_so(stores: Stores) -> None:
    ticket = await ticket_in(stores, Origin("default", "anonymous", ALL_SCOPES, anonymous=True))
    found = await stores.app.find(ticket.hash)
    assert found is not None
    assert found.anonymous


async def test_the_old_are_deleted_in_pieces_and_an_hour_late(stores: Stores) -> None:
    for _ in range(3):
        await stores.app.add_session(generate("ses"), ADA, 60)
        await ticket_in(stores)
    lasting = generate("ses")
    await stores.app.add_session(lasting, ADA, 80_000)
    stores.age(3600)
    assert await stores.app.delete_expired(10) == 0
    stores.age(61)
    assert [await stores.app.delete_expired(2) for _ in range(3)] == [4, 2, 0]
    assert await stores.app.find(lasting.hash) is not None


async def test_usage_is_added_up_by_the_day(stores: Stores) -> None:
    key = await key_in(stores)
    assert await stores.app.add_usage({(key.id, "requests"): 2.0, ("acme", "tokens"): 10.0}) == {
        (key.id, "requests"): 2.0,
        ("acme", "tokens"): 10.0,
    }
    assert await stores.app.add_usage({(key.id, "requests"): 3.0}) == {(key.id, "requests"): 5.0}
    assert await stores.app.add_usage({}) == {}
    (row,) = await stores.owner.list_keys()
    assert row.last_used is not None
    if row.last_used.year < 2030:  # by the database's clock
        assert abs(row.last_used - datetime.now(UTC).date()) <= timedelta(days=1)


async def test_the_use_of_the_day_is_read_back(stores: Stores) -> None:
    key = await key_in(stores)
    uses = [(key.id, "tokens"), ("user:acme/ada of acme", "tokens"), (key.id, "cost")]
    empty = await stores.app.read_usage(uses)
    assert empty.sums == dict.fromkeys(uses, 0.0)
    assert 0 < empty.seconds_left <= 86_400
    await stores.app.add_usage({(key.id, "tokens"): 7.0, (key.id, "cost"): 0.25})
    assert (await stores.app.read_usage(uses)).sums == {uses[0]: 7.0, uses[1]: 0.0, uses[2]: 0.25}
    (row,) = await stores.owner.list_keys()
    assert row.used == {"tokens": 7.0, "cost": 0.25}
    assert (await stores.app.read_usage([])).sums == {}


async def test_a_key_and_what_is_made_of_it_have_the_keys_limits(stores: Stores) -> None:
    key, session = generate("key"), generate("ses")
    made = await stores.owner.add_key(key, "acme", "", READ, None, "requests=5/s, runs=1")
    assert made.limits == "requests=5/s, runs=1"
    origin = Origin("acme", key.id, READ, key=key.hash)
    await stores.app.add_session(session, origin, 60)
    tickets = [
        await ticket_in(stores, origin),
        await ticket_in(stores, Origin("acme", key.id, READ, session=session.hash)),
    ]
    found = await stores.app.look_up([one.hash for one in (key, session, *tickets)])
    assert {one.limits for one in found.by_hash.values()} == {"requests=5/s, runs=1"}
    (row,) = await stores.owner.list_keys()
    assert (row.limits, row.used) == ("requests=5/s, runs=1", {})
    alone = await ticket_in(stores, ADA)
    stored = await stores.app.find(alone.hash)
    assert stored is not None
    assert stored.limits == ""


async def test_servers_are_told_what_the_others_have(stores: Stores) -> None:
    ada, acme = ("user:acme/ada of acme", "runs"), ("tenant:acme", "readers")
    assert await stores.app.share_counts("one", {ada: 2, acme: 5}) == {}
    assert await stores.app.share_counts("two", {ada: 1}) == {ada: 2, acme: 5}
    assert await stores.app.share_counts("three", {}) == {ada: 3, acme: 5}
    assert await stores.app.share_counts("one", {}) == {ada: 1}
    stores.age(SERVER_SECONDS)
    assert await stores.app.share_counts("three", {}) == {}


async def test_of_two_servers_that_tell_at_once_one_is_told(stores: Stores) -> None:
    use, told = ("tenant:acme", "runs"), list[int]()

    async def share(server: str) -> None:
        told.append((await stores.app.share_counts(server, {use: 1})).get(use, 0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(share, "one")
        nursery.start_soon(share, "two")
    assert 1 in told
