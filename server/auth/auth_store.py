"""What a store of credentials does: the protocol, and the values that go in and come out.

Owns the contract that `memory_auth_store` and `postgres_auth_store` both keep; the same tests run on both. A store
is given hashes and never a credential. It uses one clock for all processes, so lengths of time go in and the
seconds that are left come out. It must not know how a credential is presented, nor what is cached.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal, Protocol

from server.auth.credentials import Credential, Kind

Transport = Literal["sse", "websocket"]
SERVER_SECONDS = 5.0
"""A server that has shared its counts for so long no more does not run any more."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key as its operators see it.

    `last_used`: the day, in UTC. `limits`: its own, as they were written. `used`: today's sums, by meter.
    """

    id: str
    tenant: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used: date | None = None
    limits: str = ""
    used: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """The present state of a key, a session or a ticket.

    `seconds_left`: until it expires, not above zero when it has; None if it never does. `ended`: it was revoked or
    signed out, or what it was made from was. `stream`, `transport`, `uses`: of a ticket. `anonymous`: a ticket
    that was made while nobody had to sign in. `limits`: of the key that it is or comes from, as they were written.
    `signer`: the thumbprint of the key that signed the token which it comes from.
    """

    kind: Kind
    id: str
    tenant: str
    subject: str
    scopes: frozenset[str]
    conversations: frozenset[str] | None = None
    seconds_left: float | None = None
    expires_at: datetime | None = None
    ended: bool = False
    stream: str | None = None
    transport: Transport | None = None
    uses: int = 0
    anonymous: bool = False
    limits: str = ""
    signer: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to `look_up`. `any_key`: whether a key was ever made, revoked ones counted."""

    any_key: bool
    by_hash: Mapping[bytes, StoredCredential]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a session or a ticket was made from, and whose it is. `key`, `session`: hashes.

    `anonymous`: made while nobody had to sign in. `signer`: it comes from a token of an embedding app that a key
    with this thumbprint (RFC 7638) signed, and lasts no longer than that key is one that verifies tokens.
    """

    tenant: str
    subject: str
    scopes: frozenset[str]
    conversations: frozenset[str] | None = None
    key: bytes | None = field(default=None, repr=False)
    session: bytes | None = field(default=None, repr=False)
    anonymous: bool = False
    signer: str | None = None


@dataclass(frozen=True, slots=True)
class TicketUse:
    """A use of a ticket that was allowed. `number`: 1 for the first; each ends the streams of those before."""

    number: int
    ends_at: datetime
    seconds_left: float


Use = tuple[str, str]
"""What is counted: of which account (`key_…`, `user:acme/ada`, `tenant:acme`), by which meter (`tokens`)."""


@dataclass(frozen=True, slots=True)
class DayUse:
    """Today's sums of what was asked for. `seconds_left`: of the day, which is one in UTC."""

    sums: Mapping[Use, float]
    seconds_left: float


class AuthStore(Protocol):
    """Keys, sessions, tickets, sums of usage, and what servers tell each other of theirs.

    Every method raises `StoreUnavailable` if the database does not answer within the store's patience. Each may be
    called again after that: a credential is added once, a ticket used once.
    """

    def open(self) -> AbstractAsyncContextManager[None]:
        """Opens the store for as long as the context lasts. Raises `StoreUnavailable` or `DatabaseRefused`."""
        ...

    async def add_key(
        self,
        key: Credential,
        tenant: str,
        name: str,
        scopes: frozenset[str],
        seconds: float | None,
        limits: str = "",
    ) -> KeyRow:
        """Adds a key that expires after `seconds`, or never. Needs the owner's rights."""
        ...

    async def list_keys(self, tenant: str | None = None) -> Sequence[KeyRow]:
        """The keys of a tenant, or of all, the oldest first."""
        ...

    async def revoke_key(self, key_id: str) -> KeyRow | None:
        """Revokes a key; None if there is no such key. A second time changes nothing. Needs the owner's rights."""
        ...

    async def look_up(self, hashes: Sequence[bytes]) -> Found:
        """The state of each credential that is known, in one query however many they are."""
        ...

    async def find(self, hash: bytes) -> StoredCredential | None:
        """The state of one credential. Calls at the same time share a query."""
        ...

    async def add_session(self, session: Credential, origin: Origin, seconds: float) -> datetime:
        """Adds a session; returns when it expires."""
        ...

    async def end_session(self, hash: bytes) -> bool:
        """Ends a session, and with it its tickets. Returns whether there is such a session."""
        ...

    async def add_ticket(
        self,
        ticket: Credential,
        origin: Origin,
        stream: str,
        transport: Transport,
        connect_seconds: float,
        seconds: float,
    ) -> datetime:
        """Adds a ticket for one stream; returns until when its reader has to connect.

        `connect_seconds`: until the first use; `seconds`: until it ends in any case.
        """
        ...

    async def use_ticket(self, hash: bytes, reader: bytes, resumes: bool) -> TicketUse | None:
        """Takes a ticket for this reader, in one step for all processes.

        The first use binds it to `reader`. A later one is allowed to the same reader alone, and only if it
        `resumes` its stream. None: it is not allowed, or the ticket is unknown or has expired.
        """
        ...

    async def delete_expired(self, limit: int) -> int:
        """Deletes up to `limit` sessions and as many tickets that expired over an hour ago; returns how many."""
        ...

    async def add_usage(self, amounts: Mapping[Use, float]) -> Mapping[Use, float]:
        """Adds to today's sums, and returns the sums.

        A call that is repeated after a lost answer may count twice.
        """
        ...

    async def read_usage(self, uses: Sequence[Use]) -> DayUse:
        """Today's sums of all servers; 0 where nothing was counted."""
        ...

    async def share_counts(self, server: str, counts: Mapping[Use, int]) -> Mapping[Use, int]:
        """Tells the other servers how much this one has of what it limits; returns the sums of what they have.

        Of two servers that call this at the same time, at least one is told what the other has. Others that have
        not called it for `SERVER_SECONDS` are left out.
        """
        ...
