"""The store of credentials in memory: for tests, in virtual time too.

Owns the same rules as the SQL of `postgres_auth_store`, as plain Python. Several authenticators on one store stand
for several processes. It must not know PostgreSQL.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

import trio

from eventstore import StoreUnavailable
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

KEEP = timedelta(hours=1)
"""How long sessions and tickets stay after their end."""
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Session:
    id: str
    origin: Origin
    expires_at: datetime
    ended: bool = False


@dataclass(slots=True)
class _Ticket:
    id: str
    origin: Origin
    stream: str
    transport: Transport
    expires_at: datetime
    ends_at: datetime
    reader: bytes | None = None
    uses: int = 0


@dataclass(slots=True)
class MemoryAuthStore:
    """As `AuthStore`. `clock`: seconds, as `trio.current_time`. `available`: False stands for a database that is
    away."""

    clock: Callable[[], float] = trio.current_time
    available: bool = True
    lookups: int = 0
    """How often credentials were looked up."""
    _keys: dict[bytes, KeyRow] = field(default_factory=dict)
    _sessions: dict[bytes, _Session] = field(default_factory=dict)
    _tickets: dict[bytes, _Ticket] = field(default_factory=dict)
    _usage: dict[tuple[str, str, date], float] = field(default_factory=dict)
    _servers: dict[str, tuple[float, Mapping[Use, int]]] = field(default_factory=dict)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """As `AuthStore.open`."""
        await self._answer()
        yield

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.available:
            raise StoreUnavailable("the database is away")

    @property
    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.clock())

    def _after(self, seconds: float) -> datetime:
        return self._now + timedelta(seconds=seconds)

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
        await self._answer()
        expires_at = None if seconds is None else self._after(seconds)
        row = KeyRow(key.id, tenant, name, scopes, self._now, expires_at, None, limits=limits)
        return self._keys.setdefault(key.hash, row)

    async def list_keys(self, tenant: str | None = None) -> Sequence[KeyRow]:
        """As `AuthStore.list_keys`."""
        await self._answer()
        return [self._shown(row) for row in self._keys.values() if tenant in (None, row.tenant)]

    async def revoke_key(self, key_id: str) -> KeyRow | None:
        """As `AuthStore.revoke_key`."""
        await self._answer()
        for hash, row in self._keys.items():
            if row.id == key_id:
                self._keys[hash] = replace(row, revoked_at=row.revoked_at or self._now)
                return self._shown(self._keys[hash])
        return None

    def _shown(self, row: KeyRow) -> KeyRow:
        days = [day for account, meter, day in self._usage if (account, meter) == (row.id, "requests")]
        today = self._now.date()
        used = {use[1]: sum_ for use, sum_ in self._usage.items() if (use[0], use[2]) == (row.id, today)}
        return replace(row, last_used=max(days, default=None), used=used)

    # -- what was presented

    async def look_up(self, hashes: Sequence[bytes]) -> Found:
        """As `AuthStore.look_up`."""
        await self._answer()
        self.lookups += 1
        states = {hash: self._state(hash) for hash in hashes}
        return Found(bool(self._keys), {hash: state for hash, state in states.items() if state is not None})

    async def find(self, hash: bytes) -> StoredCredential | None:
        """As `AuthStore.find`."""
        return (await self.look_up([hash])).by_hash.get(hash)

    def _state(self, hash: bytes) -> StoredCredential | None:
        if key := self._keys.get(hash):
            left, ends = self._until(key.expires_at)
            ended = key.revoked_at is not None
            whose = (key.tenant, key.id, key.scopes, None)
            return StoredCredential("key", key.id, *whose, left, ends, ended, limits=key.limits)
        if session := self._sessions.get(hash):
            ended, origin_ends = self._origin(session.origin)
            left, ends = self._until(session.expires_at, *origin_ends)
            return self._made(session.origin, "ses", session.id, left, ends, ended or session.ended)
        if ticket := self._tickets.get(hash):
            ended, origin_ends = self._origin(ticket.origin)
            left, ends = self._until(ticket.expires_at, *origin_ends)
            return replace(
                self._made(ticket.origin, "tick", ticket.id, left, ends, ended),
                stream=ticket.stream,
                transport=ticket.transport,
                uses=ticket.uses,
                anonymous=ticket.origin.anonymous,
            )
        return None

    def _made(
        self, origin: Origin, kind: str, name: str, left: float | None, ends: datetime | None, ended: bool
    ) -> StoredCredential:
        whose = (origin.tenant, origin.subject, origin.scopes, origin.conversations)
        limits = next((key.limits for key in self._keys.values() if key.id == origin.subject), "")
        return StoredCredential(kind, name, *whose, left, ends, ended, limits=limits, signer=origin.signer)  # type: ignore[arg-type]

    def _origin(self, origin: Origin) -> tuple[bool, list[datetime | None]]:
        """Whether what it was made from has ended, and when that expires."""
        ended, ends, key_hash = False, list[datetime | None](), origin.key
        if origin.session is not None:
            session = self._sessions.get(origin.session)
            if session is None:
                return True, []
            ended, key_hash = session.ended, key_hash or session.origin.key
            ends.append(session.expires_at)
        if key_hash is not None:
            key = self._keys[key_hash]
            ended = ended or key.revoked_at is not None
            ends.append(key.expires_at)
        return ended, ends

    def _until(self, *times: datetime | None) -> tuple[float | None, datetime | None]:
        first = min((time for time in times if time is not None), default=None)
        return (None if first is None else (first - self._now).total_seconds()), first

    # -- sessions and tickets

    async def add_session(self, session: Credential, origin: Origin, seconds: float) -> datetime:
        """As `AuthStore.add_session`."""
        await self._answer()
        row = self._sessions.setdefault(session.hash, _Session(session.id, origin, self._after(seconds)))
        return row.expires_at

    async def end_session(self, hash: bytes) -> bool:
        """As `AuthStore.end_session`."""
        await self._answer()
        if (session := self._sessions.get(hash)) is None:
            return False
        session.ended = True
        return True

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
        await self._answer()
        times = (self._after(min(connect_seconds, seconds)), self._after(seconds))
        row = self._tickets.setdefault(ticket.hash, _Ticket(ticket.id, origin, stream, transport, *times))
        return row.expires_at

    async def use_ticket(self, hash: bytes, reader: bytes, resumes: bool) -> TicketUse | None:
        """As `AuthStore.use_ticket`."""
        await self._answer()
        ticket = self._tickets.get(hash)
        if ticket is None or ticket.expires_at <= self._now:
            return None
        if ticket.reader is not None and not (ticket.reader == reader and resumes):
            return None
        ticket.reader, ticket.uses, ticket.expires_at = reader, ticket.uses + 1, ticket.ends_at
        return TicketUse(ticket.uses, ticket.ends_at, (ticket.ends_at - self._now).total_seconds())

    # -- housekeeping

    async def delete_expired(self, limit: int) -> int:
        """As `AuthStore.delete_expired`."""
        await self._answer()
        deleted = 0
        tables: tuple[dict[bytes, _Session] | dict[bytes, _Ticket], ...] = (self._sessions, self._tickets)
        for table in tables:
            old = [hash for hash, row in table.items() if row.expires_at < self._now - KEEP][:limit]
            for hash in old:
                del table[hash]
            deleted += len(old)
        return deleted

    async def add_usage(self, amounts: Mapping[Use, float]) -> Mapping[Use, float]:
        """As `AuthStore.add_usage`."""
        await self._answer()
        for (account, meter), amount in amounts.items():
            place = (account, meter, self._now.date())
            self._usage[place] = self._usage.get(place, 0.0) + amount
        return {key: self._usage[(*key, self._now.date())] for key in amounts}

    async def read_usage(self, uses: Sequence[Use]) -> DayUse:
        """As `AuthStore.read_usage`."""
        await self._answer()
        day = self._now.replace(hour=0, minute=0, second=0, microsecond=0)
        left = (day + timedelta(days=1) - self._now).total_seconds()
        return DayUse({use: self._usage.get((*use, day.date()), 0.0) for use in uses}, left)

    async def share_counts(self, server: str, counts: Mapping[Use, int]) -> Mapping[Use, int]:
        """As `AuthStore.share_counts`."""
        await self._answer()
        self._servers[server] = (self.clock(), dict(counts))
        sums: dict[Use, int] = {}
        for other, (at, theirs) in self._servers.items():
            if other != server and at > self.clock() - SERVER_SECONDS:
                for use, count in theirs.items():
                    sums[use] = sums.get(use, 0) + count
        return sums
