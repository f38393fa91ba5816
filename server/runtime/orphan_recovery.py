"""Orphan recovery: takes over or ends the runs and webhooks that no process drives any more.

There are two kinds of orphans.

1. Those of a process that is gone: its advisory lock in the database is free. A restarted database frees all
   locks, and living processes need a moment to reconnect and take theirs back. So a process counts as gone only
   after its lock was seen free in every look for `SUSPECT_SECONDS`.
2. Those of this process: its database was away, it failed, or the answer to an append got lost. The supervisor
   keeps them in memory (`Supervisor.orphans`), and they are looked at as soon as the log answers.

A run that may go on is taken over by a new epoch, which one process alone can claim; any other run is ended.

Each orphan is handled by itself. One whose conversation cannot be folded, or whose event the database refuses, is
put aside with a log line and looked at again after a growing pause, so it holds up no other. No run is ended
because this process does not understand its events: a newer server may have written them. Must not know HTTP, or
how an attempt runs.
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
from server import event_types
from server.conversations.conversation_state import Conversation, Generation
from server.conversations.fold import OutOfOrder
from server.conversations.state_machine import InvalidTransition, Status
from server.event_types import LOSS_REASONS
from server.generations.supervisor import SERVER_FAILURES, Supervisor
from server.observability import logs
from server.problem import Problem
from server.runtime.run_scheduling import RunScheduler
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import StreamDrain
from server.webhooks.webhook_events import is_webhook
from server.webhooks.webhooks import Webhooks

log = logs.get("orphan_recovery")

LOOK_SECONDS = 0.5
"""Between two looks for orphans."""
SUSPECT_SECONDS = 2.5
"""How long a process's lock must be free: longer than a living process needs to take it back (it tries five times
a second, in the store's `show_life`)."""
UNKNOWN_SECONDS = 3_600.0
"""How long a run whose workflow is not loaded here waits for a process that has loaded it: longer than a deploy in
which no such process runs, and than such a process may be full."""
OWN_SECONDS = 30.0
"""Between two looks for open writers of this process that it does not know of. There are some after an append that
was given up and was committed all the same, and where the log went back to an earlier state."""
RETRY_SECONDS = 2.0
"""Until an orphan is looked at again that cannot be handled now: no place is free here, or its time has not
come."""
FIRST_PAUSE, MAX_PAUSE = 5.0, 600.0
"""Seconds for which an orphan is put aside after an error; each pause is twice the one before."""
PARALLEL, MAX_PER_LOOK = 8, 64
"""Orphans handled side by side, and in one look: a process that takes over the runs of three others must still
answer its clients."""
MAX_TRIES = 20
"""Takeovers of one run that are tried in a look, in a conversation in which others write on."""

LOGGED_ERRORS = (StoreError, InvalidTransition, OutOfOrder)
"""Errors whose message may stand in a log line: it holds ids and positions, and nobody's content."""

WORKER_LOST = "The server process that ran this generation is gone. Ask again."
NEVER_STARTED = "The log was away when this generation was to start. Ask again."


@dataclass(frozen=True, slots=True)
class _Orphan:
    """An open writer that nobody drives. `reason` says why, `since` when that was first seen, by trio's clock."""

    writer: OpenWriter
    reason: str
    since: float


@dataclass(slots=True)
class _Aside:
    """An orphan that is left alone until `due`, after `failures` errors in a row."""

    due: float
    failures: int = 0


class OrphanRecovery:
    """The recovery of one process."""

    def __init__(
        self,
        store: EventStore,
        states: StateCache,
        supervisor: Supervisor,
        scheduler: RunScheduler,
        webhooks: Webhooks,
        drain: StreamDrain,
        max_runs: int,
    ) -> None:
        self._store = store
        self._states = states
        self._supervisor = supervisor
        self._scheduler = scheduler
        self._webhooks = webhooks
        self._drain = drain
        self._max_runs = max_runs
        self._suspects: dict[int, float] = {}  # owners whose lock is free, and since when
        self._aside: dict[tuple[str, str], _Aside] = {}
        self._own_due = 0.0

    async def run(self) -> None:
        """Looks every `LOOK_SECONDS`, for ever."""
        while True:
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Looks once: finds orphans, and handles those that are due. Raises nothing."""
        try:
            found = await self._find()
            for start in range(0, len(found), PARALLEL):
                if not await self._handle_all(found[start : start + PARALLEL]):
                    self._suspects = {}
                    break
        except StoreUnavailable:
            self._suspects = {}  # the store logs the outage
        except Exception as error:
            self._suspects = {}
            log.error("orphan recovery failed", why=str(error), exc_info=not isinstance(error, StoreError))
        self._supervisor.metrics.put_aside = sum(one.failures > 0 for one in self._aside.values())

    # -- finding orphans

    async def _find(self) -> Sequence[_Orphan]:
        """The orphans that are due, this process's own first."""
        now = trio.current_time()
        open_writers = await self._store.open_writers()
        lost = [writer for writer in open_writers if writer.owner != self._store.owner]
        self._suspects = {owner: self._suspects.get(owner, now) for owner in {writer.owner for writer in lost}}
        if now >= self._own_due:
            self._own_due = now + OWN_SECONDS
            for writer in open_writers:
                if writer.owner == self._store.owner and not self._is_driven(writer.name):
                    self._add_own(writer)
        names = {(writer.stream, writer.name) for writer in open_writers}
        self._aside = {key: one for key, one in self._aside.items() if key in names or one.due > now}
        if self._drain.begun:
            return ()  # this process stops: it would only hand over again what it takes over now
        own = await self._find_own(now)
        due = [
            _Orphan(writer, "worker_lost", self._suspects[writer.owner])
            for writer in lost
            if now - self._suspects[writer.owner] >= SUSPECT_SECONDS and self._is_due(writer, now)
        ]
        random.shuffle(due)  # in the same order, all processes would try the same orphans, and all but one in vain
        return (*own, *due)[:MAX_PER_LOOK]

    def _is_due(self, writer: OpenWriter, now: float) -> bool:
        aside = self._aside.get((writer.stream, writer.name))
        if self._is_driven(writer.name) or (aside is not None and aside.due > now):
            return False
        return self._webhooks.can_deliver or not is_webhook(writer.name)

    def _is_driven(self, name: str) -> bool:
        driver = self._webhooks if is_webhook(name) else self._supervisor
        return driver.drives(name)

    def _add_own(self, writer: OpenWriter) -> None:
        if is_webhook(writer.name):
            self._webhooks.unattended.setdefault(writer.name, trio.current_time())
        elif writer.name not in self._supervisor.orphans:
            self._supervisor.orphan(writer.stream, writer.name, "store_unavailable")

    async def _find_own(self, now: float) -> list[_Orphan]:
        """This process's own orphans that are due, as their writers stand in the log."""
        runs, hooks = self._supervisor.orphans, self._webhooks.unattended
        wanted = [(run.conversation, name, run.reason, run.due) for name, run in runs.items()]
        wanted += [(name, name, "", due) for name, due in hooks.items()]
        orphans: list[_Orphan] = []
        for stream, name, reason, due in wanted:
            aside = self._aside.get((stream, name))
            if len(orphans) >= MAX_PER_LOOK or due > now or (aside is not None and aside.due > now):
                continue
            if not self._is_driven(name):
                state = await self._store.writer(stream, name)
                if state is None and now - due < 2 * self._store.options.call_timeout:
                    continue  # the append that opens the writer may still be under way
                if state is not None and not state.closed and state.owner == self._store.owner:
                    orphans.append(_Orphan(OpenWriter(stream, name, state.epoch, self._store.owner), reason, due))
                    continue
            # It is driven again, has ended, or belongs to another process.
            (hooks if is_webhook(name) else runs).pop(name, None)
        return orphans

    # -- handling orphans

    async def _handle_all(self, orphans: Sequence[_Orphan]) -> bool:
        """Handles some orphans side by side. False: the log went away, so nobody may be suspected any more."""
        answered = True

        async def handle(orphan: _Orphan) -> None:
            nonlocal answered
            writer = orphan.writer
            try:
                await self._handle(orphan)
            except StoreUnavailable:
                answered = False
                # Where only this orphan's row is locked, the others come first in the next look.
                self._put_off(writer, LOOK_SECONDS)
            except Exception as error:
                self._put_aside(writer, error)
            else:
                aside = self._aside.get((writer.stream, writer.name))
                if aside is not None and aside.due <= trio.current_time():
                    del self._aside[writer.stream, writer.name]

        async with trio.open_nursery() as nursery:
            for orphan in orphans:
                nursery.start_soon(handle, orphan)
        return answered

    def _put_off(self, writer: OpenWriter, pause: float) -> None:
        """Has the orphan looked at again after `pause` seconds; nothing was wrong with it."""
        aside = self._aside.setdefault((writer.stream, writer.name), _Aside(0.0))
        aside.due = trio.current_time() + pause

    def _put_aside(self, writer: OpenWriter, error: Exception) -> None:
        """Has the orphan looked at again after a pause that doubles with each error."""
        aside = self._aside.setdefault((writer.stream, writer.name), _Aside(0.0))
        pause = min(FIRST_PAUSE * 2**aside.failures, MAX_PAUSE)
        aside.failures += 1
        aside.due = trio.current_time() + pause
        name = type(error).__name__
        log.error(
            "not taken over: put aside",
            stream=writer.stream,
            writer=writer.name,
            why=f"{name}: {error}" if isinstance(error, LOGGED_ERRORS) else name,
            again_in_seconds=pause,
        )

    async def _handle(self, orphan: _Orphan) -> None:
        writer = orphan.writer
        if is_webhook(writer.name):
            if not await self._webhooks.take_over(writer):
                self._put_off(writer, RETRY_SECONDS)  # another process has it, or it is too early to tell
            return
        for _ in range(MAX_TRIES):
            state = await self._read_state(writer)
            found = state.generation(writer.name) if state is not None else None
            if found is not None and found.ended:
                await self._check_closed(writer)
                return
            if state is None or found is None or not self._may_follow(found, orphan.reason):
                await self._end(orphan, found)
                return
            if not self._scheduler.can_run(found):
                if trio.current_time() - orphan.since >= UNKNOWN_SECONDS:
                    await self._end(orphan, found)
                else:
                    self._put_off(writer, RETRY_SECONDS)
                return
            if self._supervisor.full(self._max_runs) or self._drain.begun:
                self._put_off(writer, RETRY_SECONDS)
                return
            try:
                taken = await self._scheduler.take_over(self._supervisor, writer, state, orphan.reason)
            except WrongExpectedPosition:
                continue
            if taken:
                self._supervisor.metrics.taken_over += 1
                log.info(
                    "run taken over",
                    generation=found.id,
                    conversation=writer.stream,
                    attempt=found.attempt + 1,
                    why=orphan.reason,
                )
            return
        self._put_off(writer, LOOK_SECONDS)

    async def _read_state(self, writer: OpenWriter) -> Conversation | None:
        """The run's conversation. None: its events are gone, so no process can tell what the run was."""
        try:
            return await self._states.latest(writer.stream)
        except Rewound:
            raise
        except (Problem, Trimmed):
            return None

    async def _check_closed(self, writer: OpenWriter) -> None:
        """The run's end is in the log, written after the open writers were listed: its writer must be closed."""
        now = await self._store.writer(writer.stream, writer.name)
        if now is not None and not now.closed:
            raise RuntimeError(f"{writer.name} has ended, and its writer is open")

    @staticmethod
    def _may_follow(found: Generation, reason: str) -> bool:
        lost = reason in LOSS_REASONS and found.attempt > 0 and found.status is not Status.QUEUED
        return found.may_follow(found.attempt, lost=lost)

    async def _end(self, orphan: _Orphan, found: Generation | None) -> None:
        writer, reason = orphan.writer, orphan.reason
        message = WORKER_LOST if reason == "worker_lost" else SERVER_FAILURES[reason]
        if reason == "store_unavailable" and (found is None or found.attempt == 0):
            message = NEVER_STARTED
        event = event_types.generation_failed(writer.name, reason, message, retryable=True)
        if await self._supervisor.end(writer.stream, writer.name, event):
            self._supervisor.metrics.lost_runs += 1
            log.warning("lost run ended", generation=writer.name, conversation=writer.stream, why=reason)
