"""Owns all runs of this process: takes them on, stops them, and sees that each one ends in the log.

`start` is sync: accepting and registering are one step, and the cancel scope exists before the task runs, so
a cancellation never misses a run that is just starting. Here is the one `except Exception` of a run.

A database that is away ends no run that may be followed by another attempt: this attempt is over, its writer
stays open, and the run is among those `left`, which the sweep goes on with as soon as the log is back. It knows
nothing of HTTP.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import trio

from eventstore import Append, Appended, EventStore, Fenced, NewEvent, Rewound, StoreError, StoreUnavailable
from server import events, logs
from server.generation.attempt import Attempt
from server.generation.failing import is_fault
from server.generation.pace import Pace
from server.generation.pen import Pen
from server.generation.run import Surroundings
from server.generation.runner import run
from server.metrics import Metrics
from server.upstream import CODES

log = logs.get("supervisor")

WATCH_SECONDS = 1.0
RETRY_SECONDS = 1.0
CRASH_SECONDS = 5.0
"""After a fault of ours the next attempt waits so long: it may fail in the same way."""
MOST_WAITING = 20
"""For each run that may work there may be so many that only wait for people, or for their turn: these take
memory."""
OWN_CODES: Mapping[str, str] = {
    "store_unavailable": "The log could not be written for too long.",
    "server_stopped": "The server was stopped before the answer was complete. Ask again.",
    "internal_error": "The server failed; its log says why.",
}
"""With these a run fails that its upstream has not failed; and what a client is told."""
SCRIPT_CODES = (
    *("invalid_parameters", "invalid_input", "invalid_result"),
    *("workflow_failed", "too_many_turns", "too_many_calls", "rejected_call_repeated"),
)
"""And with these by what it plays."""

Around = Callable[[Attempt], Surroundings]


@dataclass(frozen=True, slots=True)
class Left:
    """A run whose writer is open, or may be, and that this process does not drive any more.

    `reason` says why, in the words of `generation.interrupted`; `due` is when it may be gone on with, by trio's
    clock.
    """

    conversation: str
    reason: str
    due: float


class _Word(Enum):
    """What became of something that was to be written."""

    WRITTEN = auto()
    FENCED = auto()
    GIVEN_UP = auto()


class Supervisor:
    """All runs of one process. `worker` is the name under which they appear in the log.

    `around` makes what an attempt finds around it.
    """

    def __init__(
        self,
        store: EventStore,
        nursery: trio.Nursery,
        worker: str,
        around: Around,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._nursery = nursery
        self._around = around
        self.metrics = metrics or Metrics()
        self.worker = worker
        self.owner = store.owner
        self.runs: dict[str, Attempt] = {}
        self.left: dict[str, Left] = {}
        self.pace = Pace()
        self._expected: set[str] = set()
        self._closed: set[str] = set()  # of the runs here: those whose writer somebody else has closed
        self._finished = False

    @contextmanager
    def expecting(self, generation: str) -> Iterator[None]:
        """For as long as a request is on its way into the log: its run has not started, but is not lost."""
        self._expected.add(generation)
        try:
            yield
        finally:
            self._expected.discard(generation)

    @property
    def load(self) -> int:
        """How many runs work here, with those on their way. Not those that wait for people or for their turn."""
        on_their_way = sum(name not in self.runs for name in self._expected)
        return sum(not run_.waits for run_ in self.runs.values()) + on_their_way

    def full(self, most: int) -> bool:
        """Whether so many runs work here already, or too many wait beside them."""
        present = len(self.runs) + len(self._expected)
        # First what costs nothing: this is asked at every request.
        return present >= most and (self.load >= most or present >= most * (1 + MOST_WAITING))

    def leave(self, conversation: str, generation: str, reason: str, pause: float = 0.0) -> None:
        """This process does not drive a run that may be in the log, with itself as its writer's owner.

        The sweep looks at it after `pause` seconds, and goes on with it or ends it.
        """
        self.left[generation] = Left(conversation, reason, trio.current_time() + pause)

    def drives(self, generation: str) -> bool:
        """Whether this process runs it, or may be about to."""
        return generation in self.runs or generation in self._expected

    def start(self, run: Attempt) -> None:
        """Takes a run on, whose request is in the log with this process as its writer's owner.

        Starting one that runs already does nothing: a request that is answered twice runs once.
        """
        if run.generation not in self.runs:
            self.runs[run.generation] = run
            if self._finished:
                _stop(run)  # its request was on its way when the server stopped
            self._nursery.start_soon(self._drive, run)

    async def stop(self, generation: str) -> bool:
        """Ends a run here without a word in the log, and returns when its upstream is closed.

        True if it was one of this process's. For runs whose end somebody has written already.
        """
        run = self.runs.get(generation)
        if run is None:
            return False
        run.scope.cancel()
        await run.done.wait()
        return True

    async def finish(self, bound: float) -> None:
        """Waits `bound` seconds for the runs to end by themselves, then ends them as `server_stopped`.

        So ends, at once, every run that starts after that. One that only waits for people, or for its turn, is not
        waited for: it would take the time in which the others' hand-overs are written.
        """
        with trio.move_on_after(bound):
            for run in list(self.runs.values()):
                if not run.waits:
                    await run.done.wait()
        self._finished = True
        for run in list(self.runs.values()):
            _stop(run)
        for run in list(self.runs.values()):
            await run.done.wait()

    async def _drive(self, run_: Attempt) -> None:
        logs.bind(generation=run_.generation, conversation=run_.conversation)
        run_.figures.meter = self.metrics.meter(run_.script.provider, (*CODES, *OWN_CODES, *SCRIPT_CODES))
        started = trio.current_time()
        try:
            # What is said of it here is said as its writer: another process may have gone on with it meanwhile.
            pen = Pen(self._store, run_.conversation, run_.generation, run_.epoch, run_.position)
            failure = await self._attempt(run_, pen)
            try:
                await self._conclude(run_, pen, failure)
            except Exception:
                log.exception("end of a run not written")
                self.leave(run_.conversation, run_.generation, "internal_error", CRASH_SECONDS)
        finally:
            del self.runs[run_.generation]
            run_.done.set()
            if run_.generation in self._closed:
                self._closed.discard(run_.generation)
                self._store.closing.set()  # `watch` can say now that nothing is held for it
        self._tell(run_, trio.current_time() - started)

    async def _conclude(self, run_: Attempt, pen: Pen, failure: str | None) -> None:
        """What is left to say of an attempt that did not write its own end."""
        if run_.stopped_by is not None and run_.resumable:
            await self._hand_over(run_, pen, run_.stopped_by)
        elif run_.stopped_by is None and failure is not None and run_.resumable:
            await self._interrupt(run_, pen, failure)
        elif run_.stopped_by is not None or failure is not None:
            await self._fail(run_, pen, run_.stopped_by or failure or "internal_error")

    def _tell(self, run_: Attempt, seconds: float) -> None:
        figures = run_.figures
        if figures.outcome == "failed" and figures.failure is not None:
            self.metrics.failures.add(run_.script.provider, figures.failure)
        tell = log.warning if figures.outcome == "failed" else log.info
        tell("run over", model=run_.script.label, **figures.ended(seconds))

    async def _fail(self, run_: Attempt, pen: Pen, code: str) -> None:
        event = events.generation_failed(run_.generation, code, OWN_CODES[code], retryable=True)
        word = await self._until_written(partial(pen.write, [event], last=True), run_)
        if word is _Word.WRITTEN:
            run_.figures.outcome, run_.figures.failure = "failed", code
        elif pen.closed:
            run_.figures.had_the_last_word()  # which was on its way, and arrived
        elif word is _Word.GIVEN_UP:
            self.leave(run_.conversation, run_.generation, code)

    async def _interrupt(self, run_: Attempt, pen: Pen, reason: str) -> None:
        """This attempt is over, by no fault of the run. Waits until the log is back, and leaves it to the next."""
        if run_.begun:
            event = events.generation_interrupted(run_.generation, run_.number, reason)
            word = await self._until_written(partial(pen.write, [event]), run_)
            if word is _Word.FENCED:
                if pen.closed:  # its last word was on its way, and arrived; else somebody else had it
                    run_.figures.had_the_last_word()
                    return
                # Or the log went back. The sweep finds out.
                self.leave(run_.conversation, run_.generation, reason)
                return
        run_.figures.outcome = "interrupted"
        pause = CRASH_SECONDS if reason == "internal_error" else 0.0
        self.leave(run_.conversation, run_.generation, reason, pause)

    async def _hand_over(self, run_: Attempt, pen: Pen, reason: str) -> None:
        """Leaves the writer open: the next process to see that nobody drives it takes it over."""
        if run_.figures.outcome != "cancelled":
            return  # it had its last word just then
        if run_.begun:
            event = events.generation_interrupted(run_.generation, run_.number, reason)
            try:
                await pen.write([event])
            except Fenced:
                if pen.closed:  # its last word was on its way; else somebody else had it
                    run_.figures.had_the_last_word()
                return
            except StoreError as error:  # then it is found as one whose worker is lost
                log.warning("interruption not written", generation=run_.generation, why=str(error))
        run_.figures.outcome = "interrupted"

    async def _attempt(self, run_: Attempt, pen: Pen) -> str | None:
        """None when the end is in the log, or left to whoever stopped it; else the code with which it fails."""
        try:
            # Inside the `try`: what an upstream's tasks raise while they are cancelled ends this run alone.
            with run_.scope:
                await run(run_, pen, self.worker, self._around(run_))
        except Fenced as fenced:
            log.debug("run fenced off", reason=fenced.reason)
            if fenced.reason == "sequence":
                # Not by another writer: the log went back, and its writer with it. If it is open, it is still
                # ours.
                self.leave(run_.conversation, run_.generation, "store_unavailable")
        except (StoreUnavailable, Rewound):
            return "store_unavailable"  # either has a log line of its own
        except StoreError as error:
            log.error("run could not be written", why=str(error))
            return "internal_error"
        except (Exception, SystemExit, BaseExceptionGroup) as error:
            if not is_fault(error):
                raise
            log.exception("run crashed")
            return "internal_error"
        return None

    async def end(self, conversation: str, generation: str, event: NewEvent) -> bool:
        """Appends a terminal event from outside and closes the writer; False if somebody was faster.

        Raises `StoreError`: ask again.
        """
        try:
            await self._store.append(Append(conversation, (event,), closes=generation))
        except Fenced:
            return False
        return True

    async def _until_written(self, write: Callable[[], Awaitable[Appended]], run_: Attempt) -> _Word:
        """Goes on until the store answers: a run without an end would read "streaming …" for ever.

        Gives up where the run is stopped meanwhile (then another process finds it, as one whose worker is lost),
        and where the store refuses this very write: it would do so for ever.
        """
        told = False
        while True:
            try:
                await write()
            except Fenced:
                return _Word.FENCED
            except StoreUnavailable as error:
                if not told:  # once: in an outage every run comes by here, again and again
                    log.warning("end not written yet", generation=run_.generation, why=str(error))
                told = True
                if run_.stopped_by is not None:
                    log.warning("end not written: left to another process", generation=run_.generation)
                    return _Word.GIVEN_UP
                await trio.sleep(RETRY_SECONDS)
            except StoreError as error:
                log.error("end not written", generation=run_.generation, why=str(error))
                return _Word.GIVEN_UP
            else:
                return _Word.WRITTEN

    async def watch(self) -> None:
        """For ever: stops runs whose writer was closed from outside, and says when nothing is held any more.

        It looks every second, unasked and without runs too: the hint may be lost, or the run over before it. All
        are cancelled before any is waited for, and each is released when it is over: one that does not let itself
        be cancelled (a workflow that shields its cleanup, or swallows the cancellation) holds up no other.
        """
        while True:
            with trio.move_on_after(WATCH_SECONDS):
                await self._store.closing.wait()
            self._store.closing = trio.Event()
            try:
                closed = await self._store.closed_by_others()
                held = [generation for _, generation in closed if generation in self.runs]
                for generation in held:
                    self._closed.add(generation)
                    self.runs[generation].scope.cancel()
                over = [one for one in closed if not self.drives(one[1])]  # nor is about to
                if over:
                    await self._store.release(over)
            except StoreUnavailable:
                self._store.closing.set()  # the outage has a log line of its own
                await trio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("runs that others ended not seen to")
                await trio.sleep(RETRY_SECONDS)


def _stop(run_: Attempt) -> None:
    run_.stopped_by = "server_stopped"
    run_.scope.cancel()
