"""What nobody drives any more: runs and webhooks of processes that are gone, and those that this one has left.

A process that is gone is known by its free advisory lock, and only after it was seen so in every look for a
while: a restarted database frees all locks, and the living need a moment to connect again and take theirs back.
What this process itself has left (its database was away, it failed, the answer to an append got lost) it knows
from memory, and looks at as soon as the log answers. A run that may go on is gone on with, by a new epoch that
one process alone can claim; another one is ended.

Each is seen to by itself: one that cannot be folded, or whose event the database refuses, is put aside with a
log line, looked at again after a growing pause, and hides no other. Nothing is ended because it could not be
understood: a newer server may have written it. It knows no HTTP.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from eventstore import (
    EventStore,
    OpenWriter,
    Rewound,
    StoreError,
    StoreUnavailable,
    Trimmed,
    WrongExpectedPosition,
)
from server import events, logs
from server.errors import Problem
from server.events import EPHEMERAL, LOSSES
from server.generation.fold import OutOfOrder
from server.generation.state import Conversation, Generation
from server.generation.states import ImpossibleMove, Status
from server.generation.supervisor import OWN_CODES, Supervisor
from server.runtime.starting import Starting
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import Drain
from server.webhooks.webhook_events import is_webhook
from server.webhooks.webhooks import Webhooks

log = logs.get("sweep")

LOOK_SECONDS = 0.5
SUSPECT_SECONDS = 2.5
"""Longer than it takes a living process to show its lock again (`show_life` tries five times a second)."""
UNKNOWN_SECONDS = 3_600.0
"""How long a run whose workflow this process has not loaded is left for one that has: longer than a deploy in
which no server that knows it is there, and than one that knows it has no place free."""
OWN_SECONDS = 30.0
"""Between two looks for writers of this process that are open though it does not know of them: after an append
that was given up and stands all the same, and where the log itself went back."""
LATER_SECONDS = 2.0
"""Until one is looked at again that cannot be taken on now: no place is free, say, or its time has not come."""
ASIDE_FIRST, ASIDE_MOST = 5.0, 600.0
"""Pauses before one that could not be seen to is looked at again; each is twice the one before."""
AT_ONCE, MOST_IN_A_LOOK = 8, 64
"""How many are seen to side by side, and in one look: a process that takes over the runs of three others still
answers its clients meanwhile."""
TRIES = 20
"""To take over a run in a conversation in which others write on."""
EXPIRY_SECONDS = 600.0
ERASE_SECONDS = 5.0

SAID = (StoreError, ImpossibleMove, OutOfOrder)
"""Errors whose message goes into a log line: it holds ids and positions, and nobody's content."""

LOST = "The server process that ran this generation is gone. Ask again."
NEVER_BEGAN = "The log was away when this generation was to start. Ask again."


@dataclass(frozen=True, slots=True)
class Sweeping:
    """What a sweep works with."""

    store: EventStore
    folds: StateCache
    supervisor: Supervisor
    starting: Starting
    webhooks: Webhooks
    drain: Drain
    most_runs: int


@dataclass(frozen=True, slots=True)
class _Orphan:
    """An open writer that nobody drives. `reason` says why, `since` when that was first seen, by trio's clock."""

    writer: OpenWriter
    reason: str
    since: float


@dataclass(slots=True)
class _Aside:
    """One that is left alone until `due`; so often something was wrong with it."""

    due: float
    failures: int = 0


async def sweep(with_: Sweeping) -> None:
    """Runs for ever."""
    sweeper = Sweep(with_)
    while True:
        await sweeper.look()
        await trio.sleep(LOOK_SECONDS)


class Sweep:
    """The looks of one process."""

    def __init__(self, with_: Sweeping) -> None:
        self._with = with_
        self._own = with_.store.owner
        self._suspects: dict[int, float] = {}
        self._aside: dict[tuple[str, str], _Aside] = {}
        self._own_due = 0.0

    async def look(self) -> None:
        """One look: finds orphans, and sees to those that have been so for long enough. Raises nothing."""
        try:
            found = await self._find()
            for start in range(0, len(found), AT_ONCE):
                if not await self._see_to(found[start : start + AT_ONCE]):
                    self._suspects = {}
                    break
        except StoreUnavailable:
            self._suspects = {}  # the outage has a log line of its own
        except Exception as error:
            self._suspects = {}
            log.error("sweep failed", why=str(error), exc_info=not isinstance(error, StoreError))
        self._with.supervisor.metrics.put_aside = sum(one.failures > 0 for one in self._aside.values())

    # -- finding

    async def _find(self) -> Sequence[_Orphan]:
        """The orphans that are due, ours first."""
        now = trio.current_time()
        open_now = await self._with.store.open_writers()
        lost = [writer for writer in open_now if writer.owner != self._own]
        owners = {writer.owner for writer in lost}
        self._suspects = {owner: self._suspects.get(owner, now) for owner in owners}
        if now >= self._own_due:
            self._own_due = now + OWN_SECONDS
            for writer in open_now:
                if writer.owner == self._own and not self._driven(writer.name):
                    self._leave(writer)
        names = {(writer.stream, writer.name) for writer in open_now}
        self._aside = {key: one for key, one in self._aside.items() if key in names or one.due > now}
        if self._with.drain.begun:
            return ()  # it would hand over in a moment what it takes now
        ours = await self._ours(now)
        due = [
            _Orphan(writer, "worker_lost", self._suspects[writer.owner])
            for writer in lost
            if now - self._suspects[writer.owner] >= SUSPECT_SECONDS and self._is_due(writer, now)
        ]
        random.shuffle(due)  # else all processes would go for the same ones, and one of them win
        return (*ours, *due)[:MOST_IN_A_LOOK]

    def _is_due(self, writer: OpenWriter, now: float) -> bool:
        aside = self._aside.get((writer.stream, writer.name))
        if self._driven(writer.name) or (aside is not None and aside.due > now):
            return False
        return self._with.webhooks.able or not is_webhook(writer.name)

    def _driven(self, name: str) -> bool:
        driver = self._with.webhooks if is_webhook(name) else self._with.supervisor
        return driver.drives(name)

    def _leave(self, writer: OpenWriter) -> None:
        if is_webhook(writer.name):
            self._with.webhooks.left.setdefault(writer.name, trio.current_time())
        elif writer.name not in self._with.supervisor.left:
            self._with.supervisor.leave(writer.stream, writer.name, "store_unavailable")

    async def _ours(self, now: float) -> list[_Orphan]:
        """What this process has left, as it stands in the log."""
        runs, hooks = self._with.supervisor.left, self._with.webhooks.left
        wanted = [(left.conversation, name, left.reason, left.due) for name, left in runs.items()]
        wanted += [(name, name, "", due) for name, due in hooks.items()]
        orphans: list[_Orphan] = []
        for stream, name, reason, due in wanted:
            aside = self._aside.get((stream, name))
            if len(orphans) >= MOST_IN_A_LOOK or due > now or (aside is not None and aside.due > now):
                continue
            if not self._driven(name):
                state = await self._with.store.writer(stream, name)
                if state is None and now - due < 2 * self._with.store.options.patience:
                    continue  # its append may still be under way
                if state is not None and not state.closed and state.owner == self._own:
                    orphans.append(_Orphan(OpenWriter(stream, name, state.epoch, self._own), reason, due))
                    continue
            (hooks if is_webhook(name) else runs).pop(name, None)  # it is driven, has ended, or is another's
        return orphans

    # -- seeing to them

    async def _see_to(self, orphans: Sequence[_Orphan]) -> bool:
        """Some, side by side. False where the log has gone away: then nobody is suspected any more."""
        answered = True

        async def one(orphan: _Orphan) -> None:
            nonlocal answered
            writer = orphan.writer
            try:
                await self._take(orphan)
            except StoreUnavailable:
                answered = False
                self._later(writer, LOOK_SECONDS)  # if it is this row alone that is held, the others come first
            except Exception as error:
                self._put_aside(writer, error)
            else:
                aside = self._aside.get((writer.stream, writer.name))
                if aside is not None and aside.due <= trio.current_time():
                    del self._aside[writer.stream, writer.name]

        async with trio.open_nursery() as nursery:
            for orphan in orphans:
                nursery.start_soon(one, orphan)
        return answered

    def _later(self, writer: OpenWriter, pause: float) -> None:
        aside = self._aside.setdefault((writer.stream, writer.name), _Aside(0.0))
        aside.due = trio.current_time() + pause

    def _put_aside(self, writer: OpenWriter, error: Exception) -> None:
        aside = self._aside.setdefault((writer.stream, writer.name), _Aside(0.0))
        pause = min(ASIDE_FIRST * 2**aside.failures, ASIDE_MOST)
        aside.failures += 1
        aside.due = trio.current_time() + pause
        log.error(
            "not taken over: put aside",
            stream=writer.stream,
            writer=writer.name,
            why=f"{type(error).__name__}: {error}" if isinstance(error, SAID) else type(error).__name__,
            again_in_seconds=pause,
        )

    async def _take(self, orphan: _Orphan) -> None:
        writer = orphan.writer
        if is_webhook(writer.name):
            if not await self._with.webhooks.take_over(writer):
                self._later(writer, LATER_SECONDS)  # another process has it, or it is too early to tell
            return
        for _ in range(TRIES):
            state = await self._look(writer)
            found = state.generation(writer.name) if state is not None else None
            if found is not None and found.ended:
                await self._make_sure_that_it_is_closed(writer)
                return
            if state is None or found is None or not self._may_follow(found, orphan.reason):
                await self._end(orphan, found)
                return
            if not self._with.starting.knows(found):
                if trio.current_time() - orphan.since >= UNKNOWN_SECONDS:
                    await self._end(orphan, found)
                else:
                    self._later(writer, LATER_SECONDS)
                return
            if self._with.supervisor.full(self._with.most_runs) or self._with.drain.begun:
                self._later(writer, LATER_SECONDS)
                return
            try:
                taken = await self._with.starting.take_over(self._with.supervisor, writer, state, orphan.reason)
            except WrongExpectedPosition:
                continue
            if taken:
                self._with.supervisor.metrics.taken_over += 1
                log.info(
                    "run taken over",
                    generation=found.id,
                    conversation=writer.stream,
                    attempt=found.attempt + 1,
                    why=orphan.reason,
                )
            return
        self._later(writer, LOOK_SECONDS)

    async def _look(self, writer: OpenWriter) -> Conversation | None:
        """The run's conversation; None where nothing can tell any more, for any process, what the run was."""
        try:
            return await self._with.folds.latest(writer.stream)
        except Rewound:
            raise
        except (Problem, Trimmed):
            return None

    async def _make_sure_that_it_is_closed(self, writer: OpenWriter) -> None:
        """Its end is in the log: another process, or a person, was faster since the open writers were listed."""
        now = await self._with.store.writer(writer.stream, writer.name)
        if now is not None and not now.closed:
            raise RuntimeError(f"{writer.name} has ended, and its writer is open")

    @staticmethod
    def _may_follow(found: Generation, reason: str) -> bool:
        lost = reason in LOSSES and found.attempt > 0 and found.status is not Status.QUEUED
        return found.may_follow(found.attempt, lost=lost)

    async def _end(self, orphan: _Orphan, found: Generation | None) -> None:
        writer, reason = orphan.writer, orphan.reason
        why = LOST if reason == "worker_lost" else OWN_CODES[reason]
        if reason == "store_unavailable" and (found is None or found.attempt == 0):
            why = NEVER_BEGAN
        event = events.generation_failed(writer.name, reason, why, retryable=True)
        if await self._with.supervisor.end(writer.stream, writer.name, event):
            self._with.supervisor.metrics.lost_runs += 1
            log.warning("lost run ended", generation=writer.name, conversation=writer.stream, why=reason)


async def expire(store: EventStore, folds: StateCache, ephemeral_seconds: float) -> None:
    """Removes what has had its time: ephemeral conversations, and keys. Runs for ever."""
    keys_at = trio.current_time()
    while True:
        try:
            while erased := await store.erase_streams(EPHEMERAL, ephemeral_seconds):
                for name in erased:
                    folds.forget(name)
                log.info("ephemeral results erased", number=len(erased))
            if trio.current_time() >= keys_at:
                keys_at = trio.current_time() + EXPIRY_SECONDS
                await store.expire_keys()
        except StoreUnavailable:
            pass  # the outage has a log line of its own
        except Exception as error:
            log.warning("nothing erased", why=str(error), exc_info=not isinstance(error, StoreError))
        await trio.sleep(ERASE_SECONDS)
