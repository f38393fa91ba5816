"""The credentials that one process knows to be good: found by their text, watched, and ended when they end.

Owns `LiveCredential`, the bounded table of them, and the timer of those that expire. `end` is a callback of a
stream: it must be synchronous, short and harmless when called twice. It must not know the database, nor what makes
a credential good.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from heapq import heapify, heappop, heappush
from itertools import count
from weakref import WeakValueDictionary

import trio

from server.auth.auth_store import Origin
from server.auth.principal import Principal
from server.problem import Problem

End = Callable[[], None]
Release = Callable[[], None]

MAX_CACHED = 10_000
"""Credentials that are kept because they were used lately; those of open streams are kept besides."""
IDLE_SECONDS = 60.0
"""A credential that nobody has used for so long is looked up again when it is used. So what one query of the watch
asks for is what is in use."""


class LiveCredential:
    """A credential that was good when it was last looked at.

    `hash`: SHA-256 of its text. `text`: as it was presented, for tokens that are verified again when keys change;
    empty for others. `seconds`: until it expires, None for never; `expires` is the same on trio's clock, and
    `expires_at` for people. `origin`: whom a session or a ticket that is made from it belongs to. `use`: the
    number of a ticket's use, or the version of the key set that a token was verified by. `limits`: of its key, as
    they were written. `ended`: why it is no
    longer good, as the client is told; None while it is.
    """

    __slots__ = (
        *("__weakref__", "_ends", "ended", "expires", "expires_at", "hash", "origin", "principal", "requests"),
        *("text", "use", "used"),
    )

    def __init__(
        self,
        hash: bytes,
        seconds: float | None,
        expires_at: datetime | None,
        origin: Origin,
        *,
        credential: str,
        stream: str | None = None,
        text: str = "",
        use: int = 0,
        limits: str = "",
    ) -> None:
        self.hash = hash
        self.text = text
        self.expires = math.inf if seconds is None else trio.current_time() + seconds
        self.expires_at = expires_at
        self.origin = origin
        self.use = use
        self.used = trio.current_time()
        self.requests = 0
        self.ended: Problem | None = None
        self.principal = Principal(
            origin.tenant, origin.subject, origin.scopes, credential, origin.conversations, stream, limits, self
        )
        self._ends: dict[int, End] = {}

    @property
    def held(self) -> bool:
        """Whether a stream is open with it."""
        return bool(self._ends)

    def is_good(self, now: float) -> bool:
        """Whether it has neither ended nor expired."""
        return self.ended is None and now < self.expires

    def touch(self) -> None:
        """It was used by a request."""
        self.used = trio.current_time()
        self.requests += 1

    def attach(self, number: int, end: End) -> None:
        """Has `end` called when the credential ends; at once if it has ended."""
        if self.ended is not None:
            end()
        else:
            self._ends[number] = end

    def detach(self, number: int) -> None:
        """The stream of that number is over."""
        self._ends.pop(number, None)

    def finish(self, why: Problem) -> None:
        """It is no longer good: ends its streams."""
        if self.ended is None:
            self.ended = why
            ends, self._ends = self._ends, {}
            for end in ends.values():
                end()


class LiveCredentials:
    """All of one process. `by_text` finds by what a request says, `by_hash` also those that only streams hold."""

    def __init__(self, max_cached: int = MAX_CACHED) -> None:
        self._max_cached = max_cached
        self._cached: OrderedDict[str, LiveCredential] = OrderedDict()
        # Weak: a credential whose text was forgotten is known for as long as a request or a stream has it.
        self._by_hash: WeakValueDictionary[bytes, LiveCredential] = WeakValueDictionary()
        self._held: set[LiveCredential] = set()
        self._expiring: list[tuple[float, int, LiveCredential]] = []
        self._changed = trio.Event()
        self._numbers = count()

    def __len__(self) -> int:
        """How many are found by their text."""
        return len(self._cached)

    def by_text(self, text: str) -> LiveCredential | None:
        """The credential that was presented in these words lately, if it is still good."""
        live = self._cached.get(text)
        if live is None:
            return None
        if not live.is_good(trio.current_time()):
            del self._cached[text]
            return None
        self._cached.move_to_end(text)
        live.touch()
        return live

    def by_hash(self, hash: bytes) -> LiveCredential | None:
        """The credential of that hash, good or not."""
        return self._by_hash.get(hash)

    def add(self, live: LiveCredential, text: str | None = None) -> None:
        """Knows it by its hash and, if `text` is given, by what requests say."""
        self._by_hash[live.hash] = live
        live.touch()
        if text is not None:
            self._cached[text] = live
            if len(self._cached) > self._max_cached:
                self._cached.popitem(last=False)

    def hold(self, live: LiveCredential, end: End) -> Release:
        """Has `end` called once, when the credential ends or expires, unless the returned function came first."""
        number = next(self._numbers)
        if live.ended is None and not live.held:
            self._held.add(live)
            if live.expires < math.inf:
                self._watch_expiry(live, number)
        live.attach(number, end)

        def release() -> None:
            live.detach(number)
            if not live.held:
                self._held.discard(live)

        return release

    def _watch_expiry(self, live: LiveCredential, number: int) -> None:
        heappush(self._expiring, (live.expires, number, live))
        # Tickets live for hours, and each reconnect has one more: those whose streams are over would add up.
        if len(self._expiring) > 2 * len(self._held) + 100:
            self._expiring = [(one.expires, next(self._numbers), one) for one in self._held]
            heapify(self._expiring)
        self._changed.set()

    def finish(self, live: LiveCredential, why: Problem) -> None:
        """Ends it and its streams."""
        self._held.discard(live)
        live.finish(why)

    def in_use(self) -> list[LiveCredential]:
        """Each that a request may use without a look at the database, or that a stream holds."""
        return list({*self._cached.values(), *self._held})

    def forget_idle(self) -> None:
        """Forgets the texts that nobody has used for `IDLE_SECONDS`, and those that are no longer good."""
        now = trio.current_time()
        for text, live in list(self._cached.items()):
            if not live.is_good(now) or (live.used < now - IDLE_SECONDS and not live.held):
                del self._cached[text]

    def take_requests(self) -> dict[str, float]:
        """How many requests each key has made since the last call, by its id."""
        counted: dict[str, float] = {}
        for live in self.in_use():
            if live.requests and live.principal.credential.startswith("key_"):
                counted[live.principal.credential] = counted.get(live.principal.credential, 0.0) + live.requests
            live.requests = 0
        return counted

    async def end_expired(self, why: Callable[[LiveCredential], Problem]) -> None:
        """Ends each held credential at the moment when it expires. Runs until it is cancelled."""
        while True:
            self._changed = trio.Event()
            with trio.move_on_at(self._expiring[0][0] if self._expiring else math.inf):
                await self._changed.wait()
            now = trio.current_time()
            while self._expiring and self._expiring[0][0] <= now:
                _, _, live = heappop(self._expiring)
                if live.held:
                    self.finish(live, why(live))
