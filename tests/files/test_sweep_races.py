"""A message that begins to use a file while a sweep removes it, and the other calls that meet at one file.

Each race is run in its two orders, with real locks: one side holds them in an open transaction, and the other is
seen to wait, or to pass by.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.postgres.db_connection import ReconnectingConnection
from server.files.file_store import UPLOAD_SECONDS, FileUnknown
from server.files.memory_file_store import MemoryFileStore
from server.files.postgres_file_store import STATEMENTS
from tests.eventstore.connections import sessions, wait_until_blocked
from tests.files.conftest import TENANT, Files, digest_of, files_in_postgres
from tests.harness.databases import Postgres, TestDatabase

DATA = b"a file that is due"
DIGEST = digest_of(DATA)


@asynccontextmanager
async def due_file(
    postgres: Postgres, database: TestDatabase
) -> AsyncIterator[tuple[Files, ReconnectingConnection, ReconnectingConnection]]:
    """A file whose time is over, unless something uses it; a connection in a transaction, and another one."""
    files = files_in_postgres(postgres, database)
    async with (
        files.store.open(),
        sessions(database.app_url, "actor", "other") as (actor, other),
    ):
        await files.upload(DATA, seconds=1)
        files.age(2)
        files.begin("conv_1")
        await actor.fetch("BEGIN")
        yield files, actor, other


async def test_used_before_the_sweep_comes(postgres: Postgres, database: TestDatabase) -> None:
    """1. A message uses the file, and has not committed. 2. The sweep passes the file by. 3. It is committed."""
    async with due_file(postgres, database) as (files, actor, _):
        await actor.fetch(STATEMENTS["use"], TENANT, "conv_1", [DIGEST])
        assert await files.store.sweep(10) == 0
        await actor.fetch("COMMIT")
        assert await files.store.sweep(10) == 0
        assert await files.has(DATA)
        assert files.count() == (1, 0, 1, 1)


async def test_used_after_the_sweep_began(postgres: Postgres, database: TestDatabase) -> None:
    """1. The sweep has seen that nothing uses it. 2. A message begins to use it, and waits. 3. It is gone."""
    async with due_file(postgres, database) as (files, actor, other):
        assert (await actor.fetch(STATEMENTS["sweep"], 10, UPLOAD_SECONDS))[0]["removed"] == 1
        found: list[object] = []

        async def use() -> None:
            found.append(
                [row["digest"] for row in await other.fetch(STATEMENTS["use"], TENANT, "conv_1", [DIGEST])]
            )

        async with trio.open_nursery() as nursery, sessions(database.app_url, "watcher") as (watcher,):
            nursery.start_soon(use)
            await wait_until_blocked(watcher, "other")
            await actor.fetch("COMMIT")
        assert found == [[]]
        assert files.count() == (0, 0, 0, 0)


async def test_used_after_a_sweep_that_comes_to_nothing(postgres: Postgres, database: TestDatabase) -> None:
    """The sweep's transaction is lost: the message that waited has its file."""
    async with due_file(postgres, database) as (files, actor, other):
        await actor.fetch(STATEMENTS["sweep"], 10, UPLOAD_SECONDS)
        async with trio.open_nursery() as nursery, sessions(database.app_url, "watcher") as (watcher,):
            nursery.start_soon(other.fetch, STATEMENTS["use"], TENANT, "conv_1", [DIGEST])
            await wait_until_blocked(watcher, "other")
            await actor.fetch("ROLLBACK")
        assert await files.store.sweep(10) == 0
        assert await files.has(DATA)


async def test_uploaded_again_while_it_is_swept(postgres: Postgres, database: TestDatabase) -> None:
    """The upload waits for the sweep, and then its own bytes are the file's."""
    async with due_file(postgres, database) as (files, actor, other):
        await actor.fetch(STATEMENTS["sweep"], 10, UPLOAD_SECONDS)
        await files.store.add_chunk("again", 0, DATA)
        values = ("again", TENANT, DIGEST, "text/plain", len(DATA), 60.0)
        async with trio.open_nursery() as nursery, sessions(database.app_url, "watcher") as (watcher,):
            nursery.start_soon(other.fetch, STATEMENTS["finish_upload"], *values)
            await wait_until_blocked(watcher, "other")
            await actor.fetch("COMMIT")
        assert await files.has(DATA)
        assert files.count() == (1, 0, 1, 0)


async def test_uploaded_again_before_the_sweep_comes(postgres: Postgres, database: TestDatabase) -> None:
    async with due_file(postgres, database) as (files, actor, _):
        await files.store.add_chunk("again", 0, DATA)
        values = ("again", TENANT, DIGEST, "text/plain", len(DATA), 60.0)
        await actor.fetch(STATEMENTS["finish_upload"], *values)
        assert await files.store.sweep(10) == 0
        await actor.fetch("COMMIT")
        assert await files.store.sweep(10) == 0
        assert await files.has(DATA)
        assert files.count() == (1, 0, 1, 0)


async def test_a_chunk_that_comes_while_its_upload_is_swept(postgres: Postgres, database: TestDatabase) -> None:
    """It waits, and is then the only one of its upload, which makes no file."""
    async with due_file(postgres, database) as (files, actor, other):
        await files.store.add_chunk("slow", 0, DATA)
        files.age(UPLOAD_SECONDS + 1)
        await actor.fetch(STATEMENTS["sweep"], 10, UPLOAD_SECONDS)
        async with trio.open_nursery() as nursery, sessions(database.app_url, "watcher") as (watcher,):
            nursery.start_soon(other.fetch, STATEMENTS["add_chunk"], "slow", 1, DATA)
            await wait_until_blocked(watcher, "other")
            await actor.fetch("COMMIT")
        values = ("slow", TENANT, digest_of(DATA + DATA), "text/plain", 2 * len(DATA), 60.0)
        assert await other.fetch(STATEMENTS["finish_upload"], *values) == []
        assert files.count() == (0, 0, 0, 0)


@pytest.mark.parametrize("rounds", [15])
async def test_uses_releases_and_sweeps_at_once(postgres: Postgres, database: TestDatabase, rounds: int) -> None:
    """Whatever comes first: every use that was told of success has its file until its conversation is erased."""
    files = files_in_postgres(postgres, database)
    other = files_in_postgres(postgres, database)
    datas = [b"file %d" % number for number in range(4)]
    digests = [digest_of(data) for data in datas]
    async with files.store.open(), other.store.open():
        for number in range(rounds):
            for data in datas:
                await files.upload(data, seconds=0.001)
            kept = list[str]()

            async def use(name: str, store: Files, kept: list[str] = kept) -> None:
                try:
                    await store.store.use(TENANT, name, digests)
                except FileUnknown:
                    return
                kept.append(name)

            name = f"conv_{number}"
            files.begin(name)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(use, name, files)
                nursery.start_soon(other.store.sweep, 10)
                nursery.start_soon(other.store.release, [name])
            if kept:
                assert await files.store.sweep(10) == 0
                assert all([await files.has(data) for data in datas])
                files.erase(name)
                await files.store.release([name])
            while await files.store.sweep(10):
                pass
            assert files.count() == (0, 0, 0, 0), number


# -- any order of calls, on the store in memory: the contract tests hold both stores to the same rules


STEPS = st.sampled_from(["upload", "use a", "use b", "erase a", "erase b", "sweep", "age"])


@settings(max_examples=200)
@given(st.lists(STEPS, max_size=25))
def test_no_order_of_calls_takes_a_file_from_a_conversation(steps: list[str]) -> None:
    """A file is there while a living conversation uses it, or its last upload has time. Nothing stays for ever."""

    async def run() -> None:
        now = 0.0
        living: dict[str, bool] = {}
        store = MemoryFileStore(clock=lambda: now, exists=living.get)
        users = set[str]()
        promised = float("-inf")
        for step in steps:
            verb, _, name = step.partition(" ")
            there = DIGEST in await store.describe(TENANT, [DIGEST])
            if verb == "upload":
                await store.add_chunk(f"u{now}", 0, DATA)
                now += 0.001
                await store.finish_upload(f"u{now - 0.001}", TENANT, DIGEST, "text/plain", len(DATA), 10.0)
                promised = now + 9.0
            elif verb == "use" and living.get(name) is not False:
                living[name] = True
                try:
                    await store.use(TENANT, name, [DIGEST])
                except FileUnknown:
                    assert not there
                    continue
                assert there
                users.add(name)
                promised = float("-inf")  # from its first use on, it lives and dies with its conversations
            elif verb == "erase" and living.get(name):
                living[name] = False
                users.discard(name)
                await store.release([name])
            elif verb == "sweep":
                await store.sweep(10)
            elif verb == "age":
                now += 11.0
            if users or promised > now:
                assert DIGEST in await store.describe(TENANT, [DIGEST]), step
        for name in living:
            living[name] = False
        await store.release(list(living))
        now += 100.0
        for _ in range(2):
            await store.sweep(10)
        assert await store.describe(TENANT, [DIGEST]) == {}

    trio.run(run)
