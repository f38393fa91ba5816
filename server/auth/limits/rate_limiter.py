"""Holds callers to their limits, in one process and, for what adds up, together with the other servers.

- Requests are counted here alone: each server lets the limit pass.
- Readers and runs at once are counted here and shared every `SHARE_SECONDS` with the servers on the same database.
  A run waits for a round of this before it starts: of two servers that start one at the same moment, at least one
  sees the other's. Readers do not wait: within two seconds, two servers may
  let in one each.
- Tokens, cost and uploaded bytes of the day are sums in the database. A run that is under way when they reach the
  limit goes on to its end; the next one is refused. An upload that would pass it is refused (`upload_count`).

Where a caller has no limits, nothing is looked up and nothing is counted. It must not know HTTP, nor how a run
goes.
"""

import math
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakValueDictionary

import trio

from eventstore import StoreError, StoreUnavailable
from server.auth.auth_store import AuthStore, Use
from server.auth.limits.limit_list import (
    AT_ONCE,
    DAILY,
    OF_RUNS,
    Level,
    Limit,
    LimitList,
    Meter,
    Room,
    parse_key_limits,
)
from server.auth.limits.request_window import RequestWindow
from server.auth.principal import Principal
from server.ids import is_valid_id
from server.observability import logs
from server.problem import Problem

log = logs.get("limits")

SHARE_SECONDS: Final = 1.0
FLUSH_SECONDS: Final = 1.0
"""Between two writings of what was used; each is one statement."""
LAST_FLUSH_SECONDS: Final = 2.0
"""How long the last of them may take when the server stops."""
IDLE_SECONDS: Final = 120.0
"""A caller who was quiet for so long is forgotten: longer than any window of requests."""
MAX_CALLERS: Final = 100_000
AT_ONCE_RETRY: Final = 5.0
"""Seconds after which somebody with too many readers or runs may look again: nobody knows when one ends."""
MAX_WAITING_RATIO: Final = 20
"""Runs that only wait, in a queue or for people, for each that may work: as for a whole server."""
_WHAT: Final[Mapping[Meter, str]] = {
    "requests": "requests",
    "readers": "open streams and held requests",
    "runs": "running generations",
    "tokens": "tokens",
    "cost": "cost",
    "upload": "uploaded bytes",
}
_WHOSE: Final[Mapping[Level, str]] = {"key": "This key", "user": "This user", "tenant": "This tenant"}

Release = Callable[[], None]


class RunView(Protocol):
    """What has to be known of a run: whose it is, where, and whether it works just now."""

    @property
    def generation(self) -> str: ...

    @property
    def conversation(self) -> str: ...

    @property
    def tenant(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def waits(self) -> bool: ...


@dataclass(eq=False)
class _Account:
    """One key, user or tenant, as this server knows it: its windows of requests, and how many readers it has."""

    name: str
    windows: tuple[RequestWindow, ...] = ()
    readers: int = 0
    uploaded: float = 0.0  # bytes, as long as it lasts

    def windows_of(self, limits: Sequence[Limit]) -> tuple[RequestWindow, ...]:
        """Its windows, for these limits of requests: those that it has, or new ones where the limits differ."""
        if [(window.limit, window.seconds) for window in self.windows] != [
            (one.value, one.seconds) for one in limits
        ]:
            self.windows = tuple(RequestWindow(int(limit.value), limit.seconds) for limit in limits)
        return self.windows


@dataclass(slots=True)
class _Caller:
    """One key or user, with the limits that hold for it: each with the account that it is counted for."""

    own: str
    requests: tuple[tuple[Limit, RequestWindow, str], ...]
    others: Mapping[Meter, Sequence[tuple[Limit, _Account]]]
    accounts: tuple[_Account, ...]
    policy: bytes
    used: float = 0.0


@dataclass(eq=False, slots=True)
class _Starting:
    """A run that is on its way into the log."""

    generation: str
    conversation: str
    tenant: str
    subject: str
    waits: bool = False


class RateLimiter:
    """The limits of one process. `limits`: what `TOKENTAPE_LIMITS` says. `on_refusal` is told a limit's name."""

    def __init__(
        self, limits: LimitList, store: AuthStore, on_refusal: Callable[[str], None] = lambda name: None
    ) -> None:
        self._limits = limits
        self._store = store
        self._on_refusal = on_refusal
        self._server = secrets.token_hex(8)
        self._runs: Callable[[], Iterable[RunView]] = lambda: ()
        self._starting: set[_Starting] = set()
        self._callers: OrderedDict[tuple[str, str], _Caller] = OrderedDict()
        # Weak: an account lasts as long as one of its callers is remembered, or has a reader.
        self._accounts: WeakValueDictionary[str, _Account] = WeakValueDictionary()
        self._shared = {(one.level, one.meter) for one in limits.limits if one.meter in AT_ONCE}
        self._summed = {(one.level, one.meter) for one in limits.limits if one.meter in DAILY}
        self._others: Mapping[Use, int] = {}
        self._rounds = 0
        self._sharing = trio.Lock()
        self._pending: dict[Use, float] = {}
        self._writing: dict[Use, float] = {}  # pending until a moment ago, and on its way to the database
        self._writes = 0

    def watch_runs(self, runs: Callable[[], Iterable[RunView]]) -> None:
        """Has the runs of this process counted; `runs` returns those that it has now."""
        self._runs = runs

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Runs what shares and writes. The store has to be open, and stay so until this has ended."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_sharing)
                nursery.start_soon(self._keep_writing)
                yield
                nursery.cancel_scope.cancel()
        finally:
            # After the tasks have ended: a write that was under way would make this one do nothing.
            with trio.move_on_after(LAST_FLUSH_SECONDS, shield=True):
                await self.write_usage()

    # -- who has which limits

    def is_limited(self, principal: Principal) -> bool:
        """Whether any limit holds for the principal. Almost free where no limits are set."""
        return bool(self._limits.limits or principal.limits) and principal.credential != "loopback"

    def _caller(self, tenant: str, subject: str, own: str | None) -> _Caller:
        """The caller. `own`: the limits of its key, None for what is known of them."""
        caller = self._callers.get((tenant, subject))
        if caller is None or (own is not None and caller.own != own):
            caller = self._callers[tenant, subject] = self._make_caller(tenant, subject, own or "")
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
        caller.used = trio.current_time()
        self._callers.move_to_end((tenant, subject))
        return caller

    def _make_caller(self, tenant: str, subject: str, own: str) -> _Caller:
        requests = list[tuple[Limit, RequestWindow, str]]()
        others: dict[Meter, list[tuple[Limit, _Account]]] = {}
        accounts = list[_Account]()
        for level, name in account_names(tenant, subject):
            limits = self._limits.for_key(_parsed(own)) if level == "key" else self._limits.at(level)
            in_windows = [limit for limit in limits if limit.meter == "requests"]
            account = self._accounts.get(name)
            if account is None:
                account = self._accounts[name] = _Account(name)
            accounts.append(account)
            for limit, window in zip(in_windows, account.windows_of(in_windows), strict=True):
                requests.append((limit, window, f'"{limit.name}/{limit.amount.partition("/")[2]}"'))
            for limit in limits:
                if limit.meter != "requests":
                    others.setdefault(limit.meter, []).append((limit, account))
                    if limit.meter in AT_ONCE:
                        self._shared.add((level, limit.meter))
                    else:
                        self._summed.add((level, limit.meter))
        policies = [f"{name};q={window.limit};w={window.seconds:.0f}" for _, window, name in requests]
        for limit, _ in others.get("readers", ()):
            policies.append(f'"{limit.name}";q={limit.value:.0f};qu="concurrent-requests"')
        return _Caller(own, tuple(requests), others, tuple(accounts), ", ".join(policies).encode())

    def _forget_idle(self) -> None:
        before = trio.current_time() - IDLE_SECONDS
        while self._callers:
            oldest = next(iter(self._callers.values()))
            if oldest.used > before:
                return
            self._callers.popitem(last=False)

    def refusal(self, limit: Limit, retry_after: float) -> Problem:
        """The `Problem` 429 `rate_limited` of a limit, which counts as told."""
        self._on_refusal(limit.name)
        seconds = max(1, math.ceil(retry_after))
        when = f"in {seconds} seconds" if seconds > 1 else "in a second"
        if limit.meter in AT_ONCE:
            when = "when one of them has ended"
        elif limit.meter in DAILY:
            when += ", when a new day begins in UTC"
        return Problem(
            429,
            "rate_limited",
            f"{_WHOSE[limit.level]} has reached its limit {limit.name}={limit.amount} ({_WHAT[limit.meter]}). "
            f"Come back {when}.",
            retry_after=seconds,
            extra={"limit": limit.name, "value": limit.amount, "retry_after": seconds},
        )

    # -- requests

    def count_request(self, principal: Principal) -> None:
        """Counts a request. Raises `Problem` 429 `rate_limited`, and then does not count it."""
        if not self.is_limited(principal):
            return
        caller = self._caller(principal.tenant, principal.subject, principal.limits)
        now = trio.current_time()
        for limit, window, _ in caller.requests:
            wait = window.wait(now)
            if wait > 0:
                raise self.refusal(limit, wait)
        for _, window, _ in caller.requests:
            window.take(now)

    def headers(self, principal: Principal) -> Sequence[tuple[bytes, bytes]]:
        """The fields `RateLimit-Policy` and `RateLimit` of an answer (draft-ietf-httpapi-ratelimit-headers), if
        the principal has limits of that kind."""
        if not self.is_limited(principal):
            return ()
        caller = self._callers.get((principal.tenant, principal.subject))
        if caller is None or not caller.policy:
            return ()
        now = trio.current_time()
        states = []
        for _, window, name in caller.requests:
            remaining, reset = window.state(now)
            states.append(f"{name};r={remaining};t={math.ceil(reset)}")
        policy = (b"ratelimit-policy", caller.policy)
        return (policy, (b"ratelimit", ", ".join(states).encode())) if states else (policy,)

    # -- readers

    def check_reader(self, principal: Principal) -> None:
        """Raises `Problem` 429 `rate_limited` where the principal may open no further stream now."""
        if self.is_limited(principal):
            self._check_at_once(self._caller(principal.tenant, principal.subject, principal.limits), "readers")

    def open_reader(self, principal: Principal) -> Release:
        """Counts a stream until the returned function is called. Raises as `check_reader`."""
        if not self.is_limited(principal):
            return _nothing
        caller = self._caller(principal.tenant, principal.subject, principal.limits)
        self._check_at_once(caller, "readers")
        accounts = caller.accounts
        for account in accounts:
            account.readers += 1

        def release() -> None:
            nonlocal accounts
            for account in accounts:
                account.readers -= 1
            accounts = ()

        return release

    def _check_at_once(self, caller: _Caller, meter: Meter, without: str = "", *, alone: bool = False) -> None:
        limits = caller.others.get(meter, ())
        for limit, account in limits:
            if meter == "readers":
                here, waiting = account.readers, 0
            else:
                here, waiting = self._count_runs(account.name, without)
            elsewhere = 0 if alone else self._others.get((account.name, meter), 0)
            if here + elsewhere >= limit.value or waiting >= limit.value * MAX_WAITING_RATIO:
                raise self.refusal(limit, AT_ONCE_RETRY)

    # -- runs

    @asynccontextmanager
    async def starting(
        self, tenant: str, subject: str, generation: str, conversation: str | None
    ) -> AsyncIterator[None]:
        """Counts a run as one that works, until the context ends; from then on `watch_runs` tells of it.

        Runs of the same conversation do not count against it: they end before it starts to work.

        Raises `Problem` 429 `rate_limited`; and `StoreUnavailable`.
        """
        known = self._limits.limits or (tenant, subject) in self._callers
        caller = self._caller(tenant, subject, None) if known else None
        if caller is None or not any(meter in caller.others for meter in ("runs", *OF_RUNS)):
            yield
            return
        await self.check_day(tenant, subject)
        start = _Starting(generation, conversation or "", tenant, subject)
        if "runs" in caller.others:
            # First without the others, of whom this server may know what was: the round below asks them.
            self._check_at_once(caller, "runs", conversation or "", alone=True)
            self._starting.add(start)
        try:
            if "runs" in caller.others:
                await self._share_counts()
                self._starting.discard(start)
                self._check_at_once(caller, "runs", conversation or "")
                self._starting.add(start)
            yield
        finally:
            self._starting.discard(start)

    def _all_runs(self) -> Iterator[RunView]:
        here = set[str]()
        for run in self._runs():
            here.add(run.generation)
            yield run
        for start in self._starting:
            if start.generation not in here:
                yield start

    def _count_runs(self, account: str, without: str) -> tuple[int, int]:
        """The runs of an account here: those that work, except in one conversation, and those that wait."""
        working = waiting = 0
        for run in self._all_runs():
            if any(name == account for _, name in account_names(run.tenant, run.subject)):
                if run.waits:
                    waiting += 1
                elif not without or run.conversation != without:
                    working += 1
        return working, waiting

    # -- what several servers have at once

    def _counts(self) -> dict[Use, int]:
        """What this server has of all that is limited somewhere."""
        counts: dict[Use, int] = {}
        for account in list(self._accounts.values()):
            if account.readers:
                counts[account.name, "readers"] = account.readers
        if any(meter == "runs" for _, meter in self._shared):
            for run in self._all_runs():
                if not run.waits:
                    for level, name in account_names(run.tenant, run.subject):
                        if (level, "runs") in self._shared:
                            counts[name, "runs"] = counts.get((name, "runs"), 0) + 1
        return counts

    async def _share_counts(self) -> None:
        """Tells the other servers, and learns what they have; returns after a round that began after the call.

        Raises `StoreUnavailable`.
        """
        rounds = self._rounds
        async with self._sharing:
            if self._rounds > rounds:
                return  # it began while this waited for an earlier one
            self._rounds += 1
            self._others = await self._store.share_counts(self._server, self._counts())

    async def _keep_sharing(self) -> None:
        while True:
            if self._shared:
                try:
                    await self._share_counts()
                except StoreUnavailable:
                    pass  # the event store says so; meanwhile the others' last counts hold
                except StoreError as error:
                    log.warning("counts cannot be shared", why=str(error))
            self._forget_idle()
            await trio.sleep(SHARE_SECONDS)

    # -- sums of the day

    def add_use(self, tenant: str, subject: str, tokens: float, cost: float) -> None:
        """Counts what a run has used. A key's use is always written, that of users and tenants if it is
        limited."""
        for level, name in account_names(tenant, subject):
            for meter, amount in zip(OF_RUNS, (tokens, cost), strict=True):
                if amount > 0 and (level == "key" or (level, meter) in self._summed):
                    self._add(name, meter, amount)

    def add_upload(self, principal: Principal, size: int) -> None:
        """Counts uploaded bytes, as `add_use` does; fewer than none where bytes that were counted did not come."""
        for level, name in account_names(principal.tenant, principal.subject):
            if size and (level == "key" or (level, "upload") in self._summed):
                self._add(name, "upload", size)
                if (account := self._accounts.get(name)) is not None:
                    account.uploaded += size

    def _add(self, account: str, meter: Meter, amount: float) -> None:
        self._pending[account, meter] = self._pending.get((account, meter), 0.0) + amount

    async def upload_room(self, principal: Principal) -> Sequence[Room]:
        """How many bytes the principal may upload today, by each limit that it has."""
        if not self.is_limited(principal):
            return ()
        return await self._read_room(
            self._caller(principal.tenant, principal.subject, principal.limits), ("upload",)
        )

    async def check_day(self, tenant: str, subject: str) -> None:
        """As `RunLimits.check_day`."""
        if not self._limits.limits and (tenant, subject) not in self._callers:
            return
        for room in await self._read_room(self._caller(tenant, subject, None), OF_RUNS):
            if room.left <= 0:
                raise self.refusal(room.limit, room.seconds_left)

    async def _read_room(self, caller: _Caller, meters: Sequence[Meter]) -> Sequence[Room]:
        limits = [one for meter in meters for one in caller.others.get(meter, ())]
        if not limits:
            return ()
        while True:
            writes = self._writes
            day = await self._store.read_usage([(account.name, limit.meter) for limit, account in limits])
            # 1. The sums are read. 2. What was pending is written. 3. Pending is empty: it would count nowhere.
            if writes == self._writes:
                break
        found = list[Room]()
        for limit, account in limits:
            use = account.name, limit.meter
            # What is being written may be in the sums already: for that moment it counts twice rather than never.
            used = day.sums.get(use, 0.0) + self._pending.get(use, 0.0) + self._writing.get(use, 0.0)
            found.append(Room(limit, limit.value - used, day.seconds_left, account, account.uploaded))
        return found

    async def write_usage(self) -> None:
        """Writes what was counted since the last call. What cannot be written now is written later."""
        if not self._pending or self._writing:
            return
        self._writing, self._pending = self._pending, {}
        written = False
        try:
            await self._store.add_usage(self._writing)
            written = True
        except StoreError as error:
            if not isinstance(error, StoreUnavailable):
                log.warning("usage cannot be written", why=str(error))
        finally:
            if not written:
                for use, amount in self._writing.items():
                    self._pending[use] = self._pending.get(use, 0.0) + amount
            self._writing = {}
            self._writes += 1

    async def _keep_writing(self) -> None:
        while True:
            await trio.sleep(FLUSH_SECONDS)
            await self.write_usage()


def account_names(tenant: str, subject: str) -> tuple[tuple[Level, str], ...]:
    """The accounts that are charged for what somebody does: of the key or the user, and of the tenant."""
    tenants: tuple[Level, str] = ("tenant", f"tenant:{tenant}")
    if is_valid_id(subject, "key"):
        return ("key", subject), tenants
    return ("user", f"user:{tenant}/{subject}"), tenants


def _parsed(own: str) -> LimitList:
    """The own limits of a key. Text that this version does not understand, from a newer one, holds nothing."""
    try:
        return parse_key_limits(own)
    except ValueError as error:
        log.warning("limits of a key are not understood", limits=own, why=str(error))
        return LimitList()


def _nothing() -> None:
    return
