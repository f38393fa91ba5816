"""The supervisor: owns all attempts of this process, and sees that each of its runs ends in the log.

`start` is sync: accepting an attempt and registering it are one step, and its cancel scope exists before its task
runs, so a cancellation never misses an attempt that is just starting. The one `except Exception` around a run is
here.

While the database is away no run ends that may be followed by another attempt. The attempt is over, its writer
stays open, and the run becomes one of the `orphans` of this process: orphan recovery goes on with it as soon as
the log is back. Must not know HTTP, or how orphans are recovered.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import trio

from eventstore import Append, Appended, EventStore, Fenced, NewEvent, Rewound, StoreError, StoreUnavailable
from eventstore.db_retry import retry_until_available
from server import event_types
from server.generations.executors import Attempt, run_attempt
from server.generations.run.message_inbox import MessageInbox
from server.generations.run.run_errors import is_fault
from server.generations.run.run_log import FencedWriter
from server.generations.run_context import RunResources
from server.observability import Metrics, logs
from server.providers import CODES

log = logs.get("supervisor")

WATCH_SECONDS = 1.0
"""Between two looks for runs that other processes have ended, where no notification came."""
CRASH_SECONDS = 5.0
"""How long a run rests after a fault of this server: the next attempt may meet the same fault."""
MAX_WAITING_RATIO = 20
"""Runs that only wait, for people or in a queue, for each run that may work: the waiting ones take memory."""
SERVER_FAILURES: Mapping[str, str] = {
    "store_unavailable": "The log could not be written for too long.",
    "server_stopped": "The server was stopped before the answer was complete. Ask again.",
    "internal_error": "The server failed; its log says why.",
}
"""Codes of failures that are this server's own, with the message to clients."""
EXECUTOR_CODES = (
    *("invalid_parameters", "invalid_input", "invalid_result"),
    *("workflow_failed", "too_many_turns", "too_many_calls", "rejected_call_repeated"),
    *("budget_not_raised", "unknown_price", "files_too_large", "file_unknown"),
)
"""Codes with which an executor fails a run."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A run of this process that it does not drive any more, though the run's writer is open or may be.

    `reason` is that of the run's `generation.interrupted`. `due`: from when on, by trio's clock, it may be
    recovered.
    """

    conversation: str
    reason: str
    due: float


class _WriteResult(Enum):
    """What became of the last event that this process wanted to write of a run."""

    WRITTEN = auto()
    FENCED = auto()
    GIVEN_UP = auto()


class _GaveUp(Exception):
    """The run was stopped while its last event could not be written."""


class Supervisor:
    """All attempts of one process. `worker` is the process's name in the log; `resources` are what its runs share.
    `on_end` is told of each attempt that is over; it must neither wait nor raise.

    `runs` are the attempts that this process drives, `orphans` those that it does not any more, by generation.
    """

    def __init__(
        self,
        store: EventStore,
        nursery: trio.Nursery,
        worker: str,
        resources: RunResources,
        metrics: Metrics | None = None,
        on_end: Callable[[Attempt], None] = lambda attempt: None,
    ) -> None:
        self._store = store
        self._on_end = on_end
        self._nursery = nursery
        self._resources = resources
        self.metrics = metrics or Metrics()
        self.worker = worker
        self.runs: dict[str, Attempt] = {}
        self.orphans: dict[str, Orphan] = {}
        self._expected: set[str] = set()
        self._closed_by_others: set[str] = set()  # generations in `runs` whose writer another process has closed
        self._look_for_closed = trio.Event()  # set when another process may have closed the writer of a run here
        self._finished = False
        store.on_close(lambda: self._look_for_closed.set())

    @contextmanager
    def expecting(self, generation: str) -> Iterator[None]:
        """Marks a generation whose request is on its way into the log: not started yet, and not an orphan."""
        self._expected.add(generation)
        try:
            yield
        finally:
            self._expected.discard(generation)

    @property
    def load(self) -> int:
        """How many runs work here, expected ones included. Runs that only wait (`Attempt.waits`) do not count."""
        expected = sum(generation not in self.runs for generation in self._expected)
        return sum(not attempt.waits for attempt in self.runs.values()) + expected

    def full(self, max_runs: int) -> bool:
        """Whether `max_runs` runs work here already, or too many wait beside them."""
        present = len(self.runs) + len(self._expected)
        # The cheap comparison comes first: every request asks this.
        return present >= max_runs and (self.load >= max_runs or present >= max_runs * (1 + MAX_WAITING_RATIO))

    def orphan(self, conversation: str, generation: str, reason: str, pause: float = 0.0) -> None:
        """Notes that this process owns the writer of a run in the log, or may own it, and does not drive the run.

        Orphan recovery takes the run up after `pause` seconds, to go on with it or to end it.
        """
        self.orphans[generation] = Orphan(conversation, reason, trio.current_time() + pause)

    def drives(self, generation: str) -> bool:
        """Whether this process runs the generation, or may be about to."""
        return generation in self.runs or generation in self._expected

    def start(self, attempt: Attempt) -> None:
        """Starts an attempt at a generation whose writer in the log is this process's.

        Does nothing where the generation runs already: a request that is answered twice runs once.
        """
        if attempt.generation not in self.runs:
            self.runs[attempt.generation] = attempt
            attempt.inbox = MessageInbox(attempt.generation, self._nursery)
            if self._finished:
                _stop(attempt)  # the request was on its way when the server stopped
            self._nursery.start_soon(self._drive, attempt)

    def tell_of_message(self, generation: str) -> None:
        """A message was posted here for this generation's answer. Nothing happens where it runs elsewhere: that
        process is notified by the log."""
        attempt = self.runs.get(generation)
        if attempt is not None:
            attempt.inbox.wake()

    async def stop(self, generation: str) -> bool:
        """Cancels a run here, writes nothing, and returns when its provider is closed.

        For a run whose end somebody has written already. False: it does not run here.
        """
        attempt = self.runs.get(generation)
        if attempt is None:
            return False
        attempt.scope.cancel()
        await attempt.done.wait()
        return True

    async def finish(self, bound: float) -> None:
        """Waits `bound` seconds for the runs to end by themselves, then stops the others as `server_stopped`.

        Every run that starts later is stopped at once. Runs that only wait are not waited for: that would take the
        time in which the others' hand-overs are written.
        """
        with trio.move_on_after(bound):
            for attempt in list(self.runs.values()):
                if not attempt.waits:
                    await attempt.done.wait()
        self._finished = True
        for attempt in list(self.runs.values()):
            _stop(attempt)
        for attempt in list(self.runs.values()):
            await attempt.done.wait()

    async def end(self, conversation: str, generation: str, event: NewEvent) -> bool:
        """Appends a terminal event to a run that nobody drives and closes its writer. False: it had ended already.

        Raises `StoreError`; the call may be repeated.
        """
        try:
            await self._store.append(Append(conversation, (event,), closes=generation))
        except Fenced:
            return False
        return True

    async def watch(self) -> None:
        """Stops runs whose writer another process has closed, and tells the log when nothing of them is left. For
        ever.

        Looks every `WATCH_SECONDS`, without a notification and without runs too: the notification may be lost, or
        the run be over before it comes. All such runs are cancelled before any is waited for, and each is released
        when it is over: a workflow that shields itself from cancellation holds up no other run.
        """
        while True:
            with trio.move_on_after(WATCH_SECONDS):
                await self._look_for_closed.wait()
            self._look_for_closed = trio.Event()
            try:
                closed = await self._store.closed_by_others()
                running = [generation for _, generation in closed if generation in self.runs]
                for generation in running:
                    self._closed_by_others.add(generation)
                    self.runs[generation].scope.cancel()
                over = [one for one in closed if not self.drives(one[1])]
                if over:
                    await self._store.release(over)
            except StoreUnavailable:
                self._look_for_closed.set()  # the store logs the outage
                await trio.sleep(WATCH_SECONDS)
            except Exception:
                log.exception("runs that others ended not seen to")
                await trio.sleep(WATCH_SECONDS)

    async def _drive(self, attempt: Attempt) -> None:
        logs.bind(generation=attempt.generation, conversation=attempt.conversation)
        attempt.stats.meter = self.metrics.provider(
            attempt.executor.provider_name, (*CODES, *SERVER_FAILURES, *EXECUTOR_CODES)
        )
        started = trio.current_time()
        try:
            # The end is written by the attempt's own writer, which is fenced where another process has gone on.
            writer = FencedWriter(
                self._store, attempt.conversation, attempt.generation, attempt.epoch, attempt.position
            )
            failure = await self._run(attempt, writer)
            try:
                await self._conclude(attempt, writer, failure)
            except Exception:
                log.exception("end of a run not written")
                self.orphan(attempt.conversation, attempt.generation, "internal_error", CRASH_SECONDS)
        finally:
            del self.runs[attempt.generation]
            self._on_end(attempt)
            attempt.done.set()
            if attempt.generation in self._closed_by_others:
                self._closed_by_others.discard(attempt.generation)
                self._look_for_closed.set()  # wakes `watch`, which tells the log that nothing of the run is left
        self._log_finish(attempt, trio.current_time() - started)

    async def _run(self, attempt: Attempt, writer: FencedWriter) -> str | None:
        """Runs the attempt.

        None: its end is in the log, or others see to it; else the code with which it fails.
        """
        try:
            # The scope is inside the `try`: what a provider's tasks raise on cancellation ends this run alone.
            with attempt.scope:
                await run_attempt(attempt, writer, self.worker, self._resources)
        except Fenced as fenced:
            log.debug("run fenced off", reason=fenced.reason)
            if fenced.reason == "sequence":
                # No other writer fenced it: the log went back to an earlier state, and its writer with it. If that
                # writer is open, this process owns it.
                self.orphan(attempt.conversation, attempt.generation, "store_unavailable")
        except (StoreUnavailable, Rewound):
            return "store_unavailable"  # the store logs either
        except StoreError as error:
            log.error("run could not be written", why=str(error))
            return "internal_error"
        except (Exception, SystemExit, BaseExceptionGroup) as error:
            if not is_fault(error):
                raise
            log.exception("run crashed")
            return "internal_error"
        return None

    async def _conclude(self, attempt: Attempt, writer: FencedWriter, failure: str | None) -> None:
        """Writes what is left to say of an attempt that did not write its own end."""
        if attempt.stopped_by is not None and attempt.resumable:
            await self._hand_over(attempt, writer, attempt.stopped_by)
        elif attempt.stopped_by is None and failure is not None and attempt.resumable:
            await self._interrupt(attempt, writer, failure)
        elif attempt.stopped_by is not None or failure is not None:
            await self._fail(attempt, writer, attempt.stopped_by or failure or "internal_error")

    async def _fail(self, attempt: Attempt, writer: FencedWriter, code: str) -> None:
        """Ends the run: no other attempt may follow."""
        event = event_types.generation_failed(attempt.generation, code, SERVER_FAILURES[code], retryable=True)
        result = await self._until_written(partial(writer.write, [event], last=True), attempt)
        if result is _WriteResult.WRITTEN:
            attempt.stats.outcome, attempt.stats.failure = "failed", code
        elif writer.closed:
            attempt.stats.end_written()  # the attempt's own end, which was on its way, has arrived
        elif result is _WriteResult.GIVEN_UP:
            self.orphan(attempt.conversation, attempt.generation, code)

    async def _interrupt(self, attempt: Attempt, writer: FencedWriter, reason: str) -> None:
        """Ends this attempt by no fault of the run: waits until the log is back, and makes the run an orphan."""
        if attempt.begun:
            event = event_types.generation_interrupted(attempt.generation, attempt.number, reason)
            result = await self._until_written(partial(writer.write, [event]), attempt)
            if result is _WriteResult.FENCED:
                if writer.closed:  # the attempt's own end, which was on its way, has arrived
                    attempt.stats.end_written()
                    return
                # Others have ended it, or the log went back to an earlier state: recovery finds out which.
                self.orphan(attempt.conversation, attempt.generation, reason)
                return
        attempt.stats.outcome = "interrupted"
        pause = CRASH_SECONDS if reason == "internal_error" else 0.0
        self.orphan(attempt.conversation, attempt.generation, reason, pause)

    async def _hand_over(self, attempt: Attempt, writer: FencedWriter, reason: str) -> None:
        """Leaves the writer open: another process sees that nobody drives the run, and takes it over."""
        if attempt.stats.outcome != "cancelled":
            return  # the attempt has just written its end
        if attempt.begun:
            event = event_types.generation_interrupted(attempt.generation, attempt.number, reason)
            try:
                await writer.write([event])
            except Fenced:
                if writer.closed:  # by the attempt's own end; else somebody else has ended the run
                    attempt.stats.end_written()
                return
            except StoreError as error:  # others find the run by its owner's free lock
                log.warning("interruption not written", generation=attempt.generation, why=str(error))
        attempt.stats.outcome = "interrupted"

    async def _until_written(self, write: Callable[[], Awaitable[Appended]], attempt: Attempt) -> _WriteResult:
        """Writes an attempt's last event, and outlasts an outage: without it the run would look alive for ever.

        Gives up where the run is stopped during an outage (another process finds it by its owner's free lock), and
        on every other error: the store would refuse the same events for ever.
        """
        logged = False

        async def write_unless_stopped() -> None:
            nonlocal logged
            try:
                await write()
            except StoreUnavailable as error:
                if not logged:  # once for each run: in a long outage there are many attempts to write
                    log.warning("end not written yet", generation=attempt.generation, why=str(error))
                logged = True
                if attempt.stopped_by is not None:
                    raise _GaveUp from error
                raise

        try:
            await retry_until_available(write_unless_stopped)
        except Fenced:
            return _WriteResult.FENCED
        except _GaveUp:
            log.warning("end not written: left to another process", generation=attempt.generation)
            return _WriteResult.GIVEN_UP
        except StoreError as error:
            log.error("end not written", generation=attempt.generation, why=str(error))
            return _WriteResult.GIVEN_UP
        return _WriteResult.WRITTEN

    def _log_finish(self, attempt: Attempt, seconds: float) -> None:
        stats = attempt.stats
        if stats.outcome == "failed" and stats.failure is not None:
            self.metrics.failures.add(attempt.executor.provider_name, stats.failure)
        write_line = log.warning if stats.outcome == "failed" else log.info
        write_line("run finished", model=attempt.executor.label, **stats.run_finished(seconds))


def _stop(attempt: Attempt) -> None:
    attempt.stopped_by = "server_stopped"
    attempt.scope.cancel()
