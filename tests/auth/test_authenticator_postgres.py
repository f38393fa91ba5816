"""The authenticator on the real store: a key that ends everywhere, a database that cuts everybody."""

import trio

from server.auth.auth_store import Origin
from server.auth.authenticator import Authenticator, Presented, Reader
from server.auth.credentials import generate
from server.auth.postgres_auth_store import PostgresAuthStore
from server.auth.principal import ALL_SCOPES
from tests.auth.test_authenticator import Stream, bearer, refusal
from tests.harness.databases import Postgres, TestDatabase

READER = Reader("192.0.2.1", "Firefox", "https://app.example", "conv_1")
CUT = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def until_ended(streams: list[Stream]) -> float:
    """How long it takes until all have been told to end."""
    begun = trio.current_time()
    with trio.fail_after(10):
        while not all(stream.times for stream in streams):
            await trio.sleep(0.01)
    return trio.current_time() - begun


async def test_the_end_of_a_key_reaches_all_processes(database: TestDatabase) -> None:
    owner = PostgresAuthStore(database.owner_url)
    here, there = PostgresAuthStore(database.app_url), PostgresAuthStore(database.app_url)
    async with owner.open(), here.open(), there.open():
        one, other = Authenticator(here), Authenticator(there)
        async with one.open(), other.open():
            key, spared = generate("key"), generate("key")
            for each in (key, spared):
                await owner.add_key(each, "acme", "", ALL_SCOPES, None)
            with trio.fail_after(5):
                while not (one.required and other.required):
                    await trio.sleep(0.01)
            principal = await one.authenticate(bearer(key))
            session = await one.create_session(principal)
            by_cookie = await other.authenticate(Presented(cookie=session.text))
            ticket = await other.issue_ticket(by_cookie, "conv_1")
            by_ticket = await one.authenticate(Presented(ticket=ticket.text, reader=READER))
            streams = [Stream(one, principal), Stream(other, by_cookie), Stream(one, by_ticket)]
            lasting = Stream(one, await one.authenticate(bearer(spared)))
            await owner.revoke_key(key.id)
            assert await until_ended(streams) < 5
            assert lasting.times == 0
            assert (await refusal(other, Presented(cookie=session.text))).code == "revoked_credential"


async def test_cut_connections_are_made_again_and_nobody_is_signed_out(
    postgres: Postgres, database: TestDatabase
) -> None:
    owner, app = PostgresAuthStore(database.owner_url), PostgresAuthStore(database.app_url)
    async with owner.open(), app.open():
        key, later = generate("key"), generate("key")
        await owner.add_key(key, "acme", "", ALL_SCOPES, None)
        authenticator = Authenticator(app)
        async with authenticator.open():
            stream = Stream(authenticator, await authenticator.authenticate(bearer(key)))
            for _ in range(3):
                postgres.sql(CUT, database.name)
                await authenticator.look_again()
                assert authenticator.cached(bearer(key)) is not None
                assert stream.times == 0
            postgres.sql(CUT, database.name)
            await owner.add_key(later, "acme", "", ALL_SCOPES, None)
            postgres.sql(CUT, database.name)
            assert (await authenticator.authenticate(bearer(later))).credential == later.id
            await owner.revoke_key(key.id)
            assert await until_ended([stream]) < 5


async def test_a_use_of_a_ticket_that_is_sent_again_after_a_lost_answer_is_the_same_use(
    database: TestDatabase,
) -> None:
    """Without its name the second one would look like another reader, who resumes nothing."""
    store = PostgresAuthStore(database.app_url)
    ticket, reader = generate("tick"), READER.binding
    async with store.open():
        await store.add_ticket(ticket, Origin("acme", "ada", ALL_SCOPES), "conv_1", "sse", 60, 600)
        answers = [
            await store._fetch(store._writes, "use_ticket", ticket.hash, reader, False, name)
            for name in (b"first", b"first", b"second")
        ]
    assert [[row["uses"] for row in rows] for rows in answers] == [[1], [1], []]
