"""The store of credentials in Postgres: one statement a call, in `auth.sql`.

Owns two connections: one for what requests wait for, one for what is written. Lookups at the same time go in one
statement. Like the event store it repeats a call while the database is away, within a bound, and then raises
`StoreUnavailable`. It must not know what a credential allows, nor how long an answer may be kept.
"""

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import trio

from eventstore.batcher import Batcher, Limits
from eventstore.db_retry import retry_within
from eventstore.postgres.asyncpg_trio import Driver, Row, open_driver
from eventstore.postgres.db_connection import (
    COMMAND_TIMEOUT,
    ReconnectingConnection,
    database_url,
    load_statements,
)
from server.auth.auth_store import (
    SERVER_SECONDS,
    DayUse,
    Found,
    KeyRow,
    Origin,
    StoredCredential,
    TicketUse,
    Transport,
    Use,
)
from server.auth.credentials import Credential

STATEMENTS: Final = load_statements(__package__, "auth.sql")
LOOKUP_LIMITS: Final = Limits(requests=1_000, weight=1_000, waiting=10_000)
"""Most credentials that one lookup asks for, and most that wait for one."""


class PostgresAuthStore:
    """As `AuthStore`. `url`: of the role that serves, or of the owner for a caller that makes and revokes keys.

    `call_timeout`: in seconds, for each call with its repetitions. `program`: how the connections' name begins in
    pg_stat_activity.
    """

    def __init__(self, url: str, *, call_timeout: float = 30.0, program: str = "tokentape") -> None:
        self._url = url
        self._call_timeout = call_timeout
        self._program = program
        self._reads: ReconnectingConnection
        self._writes: ReconnectingConnection
        self._lookups: Batcher[bytes, StoredCredential | None] = Batcher(
            self._find_together, LOOKUP_LIMITS, shared=True
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """As `AuthStore.open`."""
        async with open_driver() as driver:
            self._reads, self._writes = self._connection(driver), self._connection(driver)
            try:
                # So that a wrong address, or a schema without these tables, is reported now.
                await self._fetch(self._reads, "look_up", [])
                self._reads.established = self._writes.established = True
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._lookups.serve)
                    yield
                    nursery.cancel_scope.cancel()
            finally:
                self._reads.disconnect()
                self._writes.disconnect()

    def _connection(self, driver: Driver) -> ReconnectingConnection:
        program = database_url(self._url).program or self._program
        return ReconnectingConnection(
            driver, self._url, f"{program} auth", command_timeout=min(COMMAND_TIMEOUT, self._call_timeout)
        )

    async def _fetch(self, connection: ReconnectingConnection, name: str, *values: Any) -> Sequence[Row]:
        return await retry_within(lambda: connection.fetch(STATEMENTS[name], *values), self._call_timeout, name)

    # -- keys

    async def add_key(
        self,
        key: Credential,
        tenant: str,
        name: str,
        scopes: frozenset[str],
        seconds: float | None,
        limits: str = "",
    ) -> KeyRow:
        """As `AuthStore.add_key`."""
        values = (key.hash, key.id, tenant, name, sorted(scopes), seconds, limits)
        ((*row,),) = await self._fetch(self._writes, "add_key", *values)
        return _key_row(*row)

    async def list_keys(self, tenant: str | None = None) -> Sequence[KeyRow]:
        """As `AuthStore.list_keys`."""
        return [_key_row(*row) for row in await self._fetch(self._writes, "list_keys", tenant)]

    async def revoke_key(self, key_id: str) -> KeyRow | None:
        """As `AuthStore.revoke_key`."""
        rows = await self._fetch(self._writes, "revoke_key", key_id)
        return _key_row(*rows[0]) if rows else None

    # -- what was presented

    async def look_up(self, hashes: Sequence[bytes]) -> Found:
        """As `AuthStore.look_up`."""
        rows = await self._fetch(self._reads, "look_up", list(hashes))
        known = {row["hash"]: _stored(row) for row in rows if row["hash"] is not None}
        return Found(rows[0]["any_key"], known)

    async def find(self, hash: bytes) -> StoredCredential | None:
        """As `AuthStore.find`."""
        return await self._lookups.ask(hash, self._call_timeout)

    async def _find_together(self, hashes: Sequence[bytes]) -> Sequence[StoredCredential | None]:
        found = await self.look_up(hashes)
        return [found.by_hash.get(hash) for hash in hashes]

    # -- sessions and tickets

    async def add_session(self, session: Credential, origin: Origin, seconds: float) -> datetime:
        """As `AuthStore.add_session`."""
        rows = await self._fetch(
            self._writes,
            "add_session",
            session.hash,
            session.id,
            origin.key,
            origin.signer,
            *_whose(origin),
            seconds,
        )
        expires_at: datetime = rows[0]["expires_at"]
        return expires_at

    async def end_session(self, hash: bytes) -> bool:
        """As `AuthStore.end_session`."""
        return bool(await self._fetch(self._writes, "end_session", hash))

    async def add_ticket(
        self,
        ticket: Credential,
        origin: Origin,
        stream: str,
        transport: Transport,
        connect_seconds: float,
        seconds: float,
    ) -> datetime:
        """As `AuthStore.add_ticket`."""
        rows = await self._fetch(
            self._writes,
            "add_ticket",
            *(
                ticket.hash,
                ticket.id,
                origin.key,
                origin.session,
                origin.signer,
                origin.anonymous,
                *_whose(origin),
            ),
            *(stream, transport, min(connect_seconds, seconds), seconds),
        )
        expires_at: datetime = rows[0]["expires_at"]
        return expires_at

    async def use_ticket(self, hash: bytes, reader: bytes, resumes: bool) -> TicketUse | None:
        """As `AuthStore.use_ticket`."""
        use = secrets.token_bytes(16)
        rows = await self._fetch(self._writes, "use_ticket", hash, reader, resumes, use)
        return TicketUse(*rows[0]) if rows else None

    # -- housekeeping

    async def delete_expired(self, limit: int) -> int:
        """As `AuthStore.delete_expired`."""
        deleted: int = (await self._fetch(self._writes, "delete_expired", limit))[0]["deleted"]
        return deleted

    async def add_usage(self, amounts: Mapping[Use, float]) -> Mapping[Use, float]:
        """As `AuthStore.add_usage`."""
        accounts, meters = [key[0] for key in amounts], [key[1] for key in amounts]
        rows = await self._fetch(self._writes, "add_usage", accounts, meters, list(amounts.values()))
        return {(row["account"], row["meter"]): row["amount"] for row in rows}

    async def read_usage(self, uses: Sequence[Use]) -> DayUse:
        """As `AuthStore.read_usage`."""
        accounts, meters = [use[0] for use in uses], [use[1] for use in uses]
        rows = await self._fetch(self._reads, "read_usage", accounts, meters)
        sums = {(row["account"], row["meter"]): row["amount"] for row in rows}
        return DayUse(sums, rows[0]["seconds_left"] if rows else 0.0)

    async def share_counts(self, server: str, counts: Mapping[Use, int]) -> Mapping[Use, int]:
        """As `AuthStore.share_counts`."""
        own = json.dumps({f"{meter} {account}": count for (account, meter), count in counts.items()})
        await self._fetch(self._writes, "publish_counts", server, own)
        rows = await self._fetch(self._writes, "others_counts", server, SERVER_SECONDS)
        parts = [(*row["what"].partition(" "), row["amount"]) for row in rows]
        return {(account, meter): amount for meter, _, account, amount in parts}


def _whose(origin: Origin) -> tuple[Any, ...]:
    conversations = None if origin.conversations is None else sorted(origin.conversations)
    return origin.tenant, origin.subject, sorted(origin.scopes), conversations


def _key_row(key_id: str, tenant: str, name: str, scopes: Sequence[str], *rest: Any) -> KeyRow:
    created_at, expires_at, revoked_at, last_used, limits, used = rest
    times = (created_at, expires_at, revoked_at, last_used)
    return KeyRow(key_id, tenant, name, frozenset(scopes), *times, limits, json.loads(used))


def _stored(row: Row) -> StoredCredential:
    conversations = row["conversations"]
    return StoredCredential(
        kind=row["kind"],
        id=row["id"],
        tenant=row["tenant"],
        subject=row["subject"],
        scopes=frozenset(row["scopes"]),
        conversations=None if conversations is None else frozenset(conversations),
        seconds_left=row["seconds_left"],
        expires_at=row["expires_at"],
        ended=row["ended"],
        stream=row["stream"],
        transport=row["transport"],
        uses=row["uses"],
        anonymous=row["anonymous"],
        limits=row["limits"],
        signer=row["signer"],
    )
