"""Tells who makes a request: the principal of a key, a token, a session or a ticket.

`cached` is for every request: no await, no query, one look into a table. `authenticate` is for what that does not
know. What was found good stays in the table and is looked at again every `WATCH_SECONDS`, all together, by one
query; streams register with `hold`, and end when their credential does. While the database is away, what is in the
table stays good.

It must not know HTTP beyond the text of `Authorization` and the value of a cookie, nor conversations.
"""

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from typing import Final, NamedTuple

import trio

from eventstore import StoreError, StoreUnavailable
from server.auth import refusals
from server.auth.auth_store import AuthStore, Origin, StoredCredential, Transport
from server.auth.credentials import Credential, Kind, generate, parse
from server.auth.jwt_verifier import JwtVerifier
from server.auth.live_credentials import End, LiveCredential, LiveCredentials, Release
from server.auth.login_throttle import LoginThrottle
from server.auth.principal import ANONYMOUS, NO_CREDENTIAL, Principal
from server.observability import logs
from server.problem import Problem

log = logs.get("auth")

WATCH_SECONDS: Final = 2.0
"""Between two looks at what is in use. A stream ends within 5 seconds of the end of its credential."""
SESSION_SECONDS: Final = 43_200.0
TICKET_SECONDS: Final = 43_200.0
"""How long a ticket lasts at most, if its reader connects in time."""
CONNECT_SECONDS: Final = 60.0
"""How long a ticket waits for its reader."""
USAGE_SECONDS: Final = 10.0
LAST_WRITE_SECONDS: Final = 1.0
"""How long the end of a process waits to write what was counted since the last time."""
HOUSEKEEPING_SECONDS: Final = 60.0
DELETE_LIMIT: Final = 500
BATCH_SECONDS: Final = 0.2
"""Between two batches of housekeeping, so that what requests write comes in between."""
_COOKIE = "cookie "
_BEARER = "bearer"


class Reader(NamedTuple):
    """Who opens a stream with a ticket, and which one.

    `address`: of the client, through trusted proxies. `user_agent`, `origin`: of its headers, empty if absent.
    `stream`: the id of the conversation or generation. `resumes`: it says which event it saw last.
    """

    address: str
    user_agent: str = ""
    origin: str = ""
    stream: str = ""
    transport: Transport = "sse"
    resumes: bool = False

    @property
    def binding(self) -> bytes:
        """The same for the same client, and not to be turned back into its address."""
        return hashlib.sha256("\0".join(self[:3]).encode("utf-8", "surrogatepass")).digest()


class Presented(NamedTuple):
    """The credentials of a request: the whole `Authorization` header, the cookie's value, a ticket.

    Each is None if absent. `reader`: needed with a ticket; failures count for its address.
    """

    authorization: str | None = None
    cookie: str | None = None
    ticket: str | None = None
    reader: Reader | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A session or a ticket that was just made. `text` goes to its owner once. `seconds`: until it expires."""

    id: str
    text: str = field(repr=False)
    expires_at: datetime
    seconds: float


class Authenticator:
    """Recognises callers for one process.

    `jwt`: verifies tokens of embedding apps; None takes none. `require_keys`: ask for credentials although no key
    was ever made. `session_seconds`: how long a session lasts.
    """

    def __init__(
        self,
        store: AuthStore,
        *,
        jwt: JwtVerifier | None = None,
        require_keys: bool = False,
        session_seconds: float = SESSION_SECONDS,
    ) -> None:
        self._store = store
        self._jwt = jwt
        self._required = require_keys or jwt is not None
        self._session_seconds = session_seconds
        self._live = LiveCredentials()
        self._throttle = LoginThrottle()
        self._anonymous: dict[int, End] = {}
        self._numbers = count()
        self._watching = False

    @property
    def required(self) -> bool:
        """Whether callers have to present something. Once true it stays so, also when all keys are revoked."""
        return self._required

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Runs what watches the credentials. The store has to be open. Raises `StoreUnavailable`."""
        await self.look_again()
        self._watching = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                nursery.start_soon(self._live.end_expired, lambda live: refusals.expired(_name_of(live)))
                nursery.start_soon(self._count_usage)
                nursery.start_soon(self._delete_expired)
                if self._jwt is not None:
                    await nursery.start(self._jwt.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(LAST_WRITE_SECONDS, shield=True):
                await self._write_usage()

    # -- who calls

    def cached(self, presented: Presented) -> Principal | None:
        """The principal, if nothing has to be waited for; None sends the caller to `authenticate`."""
        if presented.ticket is not None:
            return None
        if not self._required:
            return ANONYMOUS
        text = presented.authorization
        if text is None:
            if presented.cookie is None:
                return None
            text = _COOKIE + presented.cookie
        live = self._live.by_text(text)
        return None if live is None else live.principal

    async def authenticate(self, presented: Presented) -> Principal:
        """The principal of a request.

        A ticket goes before `Authorization`, and that before the cookie. Raises `Problem`: 401 `unauthenticated`,
        `invalid_credential`, `expired_credential`, `revoked_credential` or `ticket_used`, 429 `too_many_attempts`;
        and `StoreUnavailable`.
        """
        if (principal := self.cached(presented)) is not None:
            return principal
        try:
            return (await self._recognise(presented)).principal
        except Problem as problem:
            if problem.code == "invalid_credential" and presented.reader is not None:
                self._throttle.failed(presented.reader.address)
            raise

    async def _recognise(self, presented: Presented) -> LiveCredential:
        if presented.ticket is not None:
            return await self._use_ticket(presented.ticket, presented.reader)
        token = _bearer_token(presented.authorization)
        if token is not None:
            text = f"Bearer {token}"
            return self._live.by_text(text) or await self._bearer(token, text)
        if presented.cookie is not None:
            # Not found by `cached` where the request also has an `Authorization` of another scheme.
            if (live := self._live.by_text(_COOKIE + presented.cookie)) is not None:
                return live
            credential = _parsed(presented.cookie, "ses")
            stored = self._checked(await self._store.find(credential.hash), "ses", credential.hash)
            return self._admit(credential.hash, stored, _COOKIE + presented.cookie)
        raise refusals.unauthenticated()

    async def _bearer(self, token: str, text: str) -> LiveCredential:
        if token.startswith("tt_"):
            credential = _parsed(token, "key")
            stored = self._checked(await self._store.find(credential.hash), "key", credential.hash)
            return self._admit(credential.hash, stored, text)
        if self._jwt is None:
            raise refusals.invalid("This is no API key: those begin with `tt_key_`.")
        live = await self._jwt.verify(token)
        self._live.add(live, text)
        return live

    def _checked(self, stored: StoredCredential | None, kind: str, hash: bytes) -> StoredCredential:
        """The credential, if it is good. Raises `Problem`, and ends what holds it, if it is not."""
        if stored is None:
            raise refusals.unknown(refusals.NAMES[kind])
        why = _why_bad(stored, kind, required=self._required) or self._why_untrusted(stored)
        if why is None:
            return stored
        if (live := self._live.by_hash(hash)) is not None:
            self._live.finish(live, why)
        raise why

    def _why_untrusted(self, stored: StoredCredential) -> Problem | None:
        """Why a session or ticket is no longer good although it has not ended: the key that signed the token it
        comes from was taken away. Otherwise whoever forged a token could go on with its session.

        Raises `Problem` 503 while no keys could be read.
        """
        if stored.signer is None or (self._jwt is not None and self._jwt.knows(stored.signer)):
            return None
        return refusals.revoked("token's key")

    def _admit(self, hash: bytes, stored: StoredCredential, text: str) -> LiveCredential:
        live = self._live.by_hash(hash)
        if live is None or not live.is_good(trio.current_time()):
            key, session = (hash, None) if stored.kind == "key" else (None, hash)
            origin = Origin(
                stored.tenant,
                stored.subject,
                stored.scopes,
                stored.conversations,
                key,
                session,
                signer=stored.signer,
            )
            times = (stored.seconds_left, stored.expires_at)
            live = LiveCredential(hash, *times, origin, credential=stored.id, limits=stored.limits)
        self._live.add(live, text)
        return live

    async def _use_ticket(self, text: str, reader: Reader | None) -> LiveCredential:
        credential = _parsed(text, "tick")
        stored = self._checked(await self._store.find(credential.hash), "tick", credential.hash)
        if reader is None or (stored.stream, stored.transport) != (reader.stream, reader.transport):
            raise refusals.invalid("This ticket is for another stream.")
        use = await self._store.use_ticket(credential.hash, reader.binding, reader.resumes)
        before = self._live.by_hash(credential.hash)
        if use is None or (before is not None and before.use > use.number):
            raise refusals.ticket_used()
        if before is not None:
            self._live.finish(before, refusals.ticket_used())
        origin = Origin(
            stored.tenant, stored.subject, stored.scopes, stored.conversations, anonymous=stored.anonymous
        )
        live = LiveCredential(
            credential.hash,
            use.seconds_left,
            use.ends_at,
            origin,
            credential=stored.id,
            stream=stored.stream,
            use=use.number,
            limits=stored.limits,
        )
        self._live.add(live)
        return live

    # -- streams

    def hold(self, principal: Principal, end: End) -> Release:
        """Has `end` called, once, when the principal's credential ends: the caller keeps a stream open with it.

        At the moment of expiry, and within 5 seconds of a revocation or a sign-out; at once if it has ended
        already. `end` must neither wait nor raise. Returns a function for when the stream is over.
        """
        if isinstance(principal.live, LiveCredential):
            return self._live.hold(principal.live, end)
        if principal.credential != NO_CREDENTIAL:
            return lambda: None
        if self._required:
            end()
            return lambda: None
        number = next(self._numbers)
        self._anonymous[number] = end
        return lambda: self._anonymous.pop(number, None) and None

    def why_ended(self, principal: Principal) -> Problem | None:
        """Why the principal's credential is no longer good, as a stream's client is told; None while it is."""
        live = principal.live
        if isinstance(live, LiveCredential):
            return live.ended
        return refusals.unauthenticated() if principal.credential == NO_CREDENTIAL and self._required else None

    # -- sessions and tickets

    def expires_at(self, principal: Principal) -> datetime | None:
        """When the principal's credential expires; None for never."""
        return principal.live.expires_at if isinstance(principal.live, LiveCredential) else None

    async def create_session(self, principal: Principal) -> Issued:
        """A session of whoever presented a key or a token; it lasts no longer than that.

        Raises `Problem` 401 for a principal of another kind, and `StoreUnavailable`.
        """
        live = principal.live
        if not isinstance(live, LiveCredential) or principal.credential.startswith(("ses_", "tick_")):
            raise refusals.invalid("A session is made with an API key or a token in `Authorization`.")
        session = generate("ses")
        seconds = _at_most(live, self._session_seconds)
        expires_at = await self._store.add_session(session, live.origin, seconds)
        return Issued(session.id, session.text, expires_at, seconds)

    async def end_session(self, principal: Principal) -> None:
        """Ends the session that the principal signed in with, its tickets and their streams; other credentials
        stay."""
        live = principal.live
        if isinstance(live, LiveCredential) and live.origin.session is not None:
            await self._store.end_session(live.origin.session)
            self._live.finish(live, refusals.revoked("session"))

    async def issue_ticket(
        self,
        principal: Principal,
        stream: str,
        transport: Transport = "sse",
        scopes: Iterable[str] | None = None,
    ) -> Issued:
        """A ticket for one stream: `stream` is the id of a conversation or generation.

        `scopes`: among the principal's; by default `read` for SSE, and all of them for a WebSocket. It ends with
        the principal's credential. `Issued.expires_at`: until when the reader has to connect. Raises `Problem` 403
        `scope_required`, 401 for a principal with a ticket, and `StoreUnavailable`.
        """
        if principal.stream is not None:
            raise refusals.invalid("A ticket makes no further tickets.")
        if scopes is None:
            scopes = principal.scopes if transport == "websocket" else ("read",)
        wanted = frozenset(scopes)
        for scope in sorted(wanted - principal.scopes):
            raise refusals.scope_required(scope)
        live = principal.live if isinstance(principal.live, LiveCredential) else None
        origin = Origin(
            principal.tenant,
            principal.subject,
            wanted,
            principal.conversations,
            live.origin.key if live else None,
            live.origin.session if live else None,
            anonymous=principal.credential == NO_CREDENTIAL,
            signer=live.origin.signer if live else None,
        )
        ticket = generate("tick")
        seconds = _at_most(live, TICKET_SECONDS)
        connect = min(CONNECT_SECONDS, seconds)
        expires_at = await self._store.add_ticket(ticket, origin, stream, transport, connect, seconds)
        return Issued(ticket.id, ticket.text, expires_at, connect)

    # -- looking again

    async def look_again(self) -> None:
        """Looks at all that is in use, by one query. Raises `StoreUnavailable`; then all stays as it is."""
        in_use = self._live.in_use()
        if self._jwt is not None:
            for live in in_use:
                if live.text and (why := self._jwt.why_no_longer(live)) is not None:
                    self._live.finish(live, why)
        stored = [live for live in in_use if not live.text]
        if stored or not self._required:
            found = await self._store.look_up([live.hash for live in stored])
            if found.any_key and not self._required:
                self._require()
            for live in stored:
                state = found.by_hash.get(live.hash)
                why = _why_bad(state, _kind_of(live), required=self._required)
                if why is None and state is not None:
                    with suppress(Problem):  # no keys could be read yet, so nobody can say
                        why = self._why_untrusted(state)
                if why is None and state is not None and state.uses > live.use:
                    why = refusals.ticket_used()  # its reader has connected again, to another process
                if why is not None:
                    self._live.finish(live, why)
        self._live.forget_idle()

    def _require(self) -> None:
        """The first key was made: from now on everybody has to present something."""
        self._required = True
        if self._watching:  # not at a start, when there is one already
            log.info("the first key was made: callers need one from now on")
        ends, self._anonymous = self._anonymous, {}
        for end in ends.values():
            end()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(WATCH_SECONDS)
            await self._try("watch", self.look_again)

    async def _count_usage(self) -> None:
        while True:
            await trio.sleep(USAGE_SECONDS)
            await self._write_usage()

    async def _write_usage(self) -> None:
        if requests := self._live.take_requests():
            amounts = {(key, "requests"): number for key, number in requests.items()}
            await self._try("usage", partial(self._store.add_usage, amounts))

    async def _delete_expired(self) -> None:
        while True:
            # Servers that started together do not all delete at once.
            await trio.sleep(HOUSEKEEPING_SECONDS * random.uniform(0.5, 1.5))
            await self._try("housekeeping", self._delete_batches)

    async def _delete_batches(self) -> None:
        # A full batch says that more may be there: tickets may expire faster than one batch a minute, and would
        # otherwise add up in the database for as long as they do.
        while True:
            if await self._store.delete_expired(DELETE_LIMIT) < DELETE_LIMIT:
                return
            await trio.sleep(BATCH_SECONDS)

    async def _try(self, what: str, call: Callable[[], Awaitable[object]]) -> None:
        """Makes a call that is made again soon in any case."""
        try:
            await call()
        except StoreUnavailable:
            pass  # the event store says so, for both: it is the same database
        except StoreError as error:
            log.warning("credentials cannot be looked after", what=what, why=str(error))


def _bearer_token(authorization: str | None) -> str | None:
    """The token of an `Authorization: Bearer` header (RFC 6750 section 2.1); None for other schemes, which may be
    a proxy's own."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == _BEARER else None


def _parsed(text: str, kind: Kind) -> Credential:
    """The credential of this kind that the text is by its form. Raises `Problem`."""
    credential = parse(text)
    if credential is None:
        raise refusals.invalid(f"This has not the form of a {refusals.NAMES[kind]}: it begins with `tt_{kind}_`.")
    if credential.kind != kind:
        raise refusals.invalid(
            f"This is a {refusals.NAMES[credential.kind]}, and a {refusals.NAMES[kind]} is needed here."
        )
    return credential


def _why_bad(stored: StoredCredential | None, kind: str, *, required: bool) -> Problem | None:
    """Why a credential that was known is no longer good; None while it is. It may have been deleted since."""
    what = refusals.NAMES[kind]
    if stored is None or stored.ended or (stored.anonymous and required):
        return refusals.revoked(what)
    if stored.seconds_left is not None and stored.seconds_left <= 0:
        return refusals.expired(what)
    return None


def _at_most(live: LiveCredential | None, seconds: float) -> float:
    """`seconds`, or until the credential expires that something is made from."""
    return seconds if live is None else min(seconds, max(live.expires - trio.current_time(), 0.0))


def _kind_of(live: LiveCredential) -> str:
    return live.principal.credential.partition("_")[0]


def _name_of(live: LiveCredential) -> str:
    return refusals.NAMES[_kind_of(live)]
