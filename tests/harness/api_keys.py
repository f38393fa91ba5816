"""Keys for tests: made and revoked in a test's database, as `tokentape keys` does, without starting a program."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.auth.credentials import NewCredential, generate
from server.auth.postgres_auth_store import PostgresAuthStore
from server.auth.principal import ALL_SCOPES, parse_scopes
from tests.harness.databases import TestDatabase


async def make_key(
    database: TestDatabase, scopes: str = "", *, tenant: str = "default", seconds: float | None = None
) -> NewCredential:
    """A new key. `scopes`: all of them if it is empty. `seconds`: until it expires, None for never."""
    key = generate("key")
    async with _store(database) as store:
        await store.add_key(key, tenant, "test", parse_scopes(scopes) if scopes else ALL_SCOPES, seconds)
    return key


async def revoke_key(database: TestDatabase, key: NewCredential) -> None:
    """Ends a key and what was made from it; servers notice within seconds."""
    async with _store(database) as store:
        assert await store.revoke_key(key.id) is not None


@asynccontextmanager
async def _store(database: TestDatabase) -> AsyncIterator[PostgresAuthStore]:
    store = PostgresAuthStore(database.owner_url)
    async with store.open():
        yield store
