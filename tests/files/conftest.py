"""The stores that every contract test of files runs on: in memory, and on the embedded PostgreSQL."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass

import pytest

from server.files.file_store import CHUNK_BYTES, FileStore, FinishedUpload
from server.files.memory_file_store import MemoryFileStore
from server.files.postgres_file_store import PostgresFileStore
from tests.harness.databases import Postgres, TestDatabase

DAY = 86_400.0
TENANT = "acme"
EMPTY = """
TRUNCATE tokentape_files.files, tokentape_files.uploads, tokentape_files.chunks, tokentape_files.uses;
TRUNCATE eventstore.streams
"""
AGE = """
UPDATE tokentape_files.files
   SET expires_at = expires_at - interval '{0} s', sweep_at = sweep_at - interval '{0} s';
UPDATE tokentape_files.uploads SET touched_at = touched_at - interval '{0} s';
UPDATE tokentape_files.uses SET at = at - interval '{0} s'
"""
BEGIN = """
INSERT INTO eventstore.streams (name, category, head, last_at) VALUES ('{0}', 'conversation', 1, clock_timestamp())
"""
ERASE = "UPDATE eventstore.streams SET earliest = head + 1, category = '', last_at = 'infinity' WHERE name = '{0}'"
COUNTS = """
SELECT (SELECT count(*) FROM tokentape_files.files) || ' ' || (SELECT count(*) FROM tokentape_files.uploads) || ' '
       || (SELECT count(*) FROM tokentape_files.chunks) || ' ' || (SELECT count(*) FROM tokentape_files.uses)
"""


def digest_of(data: bytes) -> str:
    """The name of a file with these bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class Files:
    """A store, and what happens around it: time passes, conversations begin and are erased.

    `count` returns how many files, uploads, chunks and uses are in it.
    """

    store: FileStore
    age: Callable[[float], object]
    begin: Callable[[str], object]
    erase: Callable[[str], object]
    count: Callable[[], tuple[int, ...]]

    async def upload(
        self, data: bytes, tenant: str = TENANT, *, media_type: str = "text/plain", seconds: float = DAY
    ) -> FinishedUpload:
        """Uploads a file as a server does."""
        name = secrets.token_hex(16)
        for number, start in enumerate(range(0, len(data), CHUNK_BYTES)):
            await self.store.add_chunk(name, number, data[start : start + CHUNK_BYTES])
        return await self.store.finish_upload(name, tenant, digest_of(data), media_type, len(data), seconds)

    async def used(self, conversation: str, digests: Collection[str], tenant: str = TENANT) -> None:
        """A conversation that is there uses files."""
        self.begin(conversation)
        await self.store.use(tenant, conversation, digests)

    async def has(self, data: bytes, tenant: str = TENANT) -> bool:
        """Whether the tenant has a file with these bytes; if so, its bytes are right."""
        digest = digest_of(data)
        found = digest in await self.store.describe(tenant, [digest])
        if found:
            assert await self.store.read(tenant, digest) == data
        return found


def files_in_memory() -> Files:
    """On a store in memory."""
    now = 0.0
    conversations: dict[str, bool] = {}
    store = MemoryFileStore(clock=lambda: now, exists=conversations.get)

    def age(seconds: float) -> None:
        nonlocal now
        now += seconds

    def count() -> tuple[int, ...]:
        chunks = sum(-(-len(file.data) // CHUNK_BYTES) for file in store._files.values())
        chunks += sum(len(upload.chunks) for upload in store._uploads.values())
        return len(store._files), len(store._uploads), chunks, len(store._uses)

    return Files(
        store,
        age,
        lambda name: conversations.__setitem__(name, True),
        lambda name: conversations.__setitem__(name, False),
        count,
    )


def files_in_postgres(postgres: Postgres, database: TestDatabase) -> Files:
    """On PostgreSQL, as the role that serves."""

    def run(sql: str) -> str:
        return postgres.sql(sql, database.name)

    return Files(
        PostgresFileStore(database.app_url),
        lambda seconds: run(AGE.format(seconds)),
        lambda name: run(BEGIN.format(name)),
        lambda name: run(ERASE.format(name)),
        lambda: tuple(map(int, run(COUNTS).split())),
    )


@pytest.fixture(scope="session")
def files_database(postgres: Postgres) -> Iterator[TestDatabase]:
    """Migrated once."""
    with postgres.clone() as database:
        yield database


@pytest.fixture
def database(postgres: Postgres, files_database: TestDatabase) -> TestDatabase:
    """The same, without files and conversations."""
    postgres.sql(EMPTY, files_database.name)
    return files_database


@pytest.fixture(params=["memory", "postgres"])
def closed_files(request: pytest.FixtureRequest) -> Files:
    """Not open yet."""
    if request.param == "memory":
        return files_in_memory()
    return files_in_postgres(request.getfixturevalue("postgres"), request.getfixturevalue("database"))


@pytest.fixture
async def files(closed_files: Files) -> AsyncIterator[Files]:
    """Open."""
    async with closed_files.store.open():
        yield closed_files
