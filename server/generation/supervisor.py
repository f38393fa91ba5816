"""Owns all runs of this process: takes them on, stops them, and sees that each one ends in the log.

`start` is sync: accepting and registering are one step, and the cancel scope exists before the task runs, so
a cancellation never misses a run that is just starting. Here is the one `except Exception` of a run. It knows
nothing of HTTP.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import trio

from eventstore import Append, Appended, EventStore, Fenced, NewEvent, StoreError, StoreUnavailable
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
OWN_CODES: Mapping[str, str] = {
    "store_unavailable": "The log could not be written for too long.",
    "server_stopped": "The server was stopped before the answer was complete. Ask again.",
    "internal_error": "The server failed; its log says why.",
}
"""With these a run fails that its upstream has not failed; and what a client is told."""
SCRIPT_CODES = (
    *("invalid_parameters", "invalid_input", "invalid_result"),
    *("workflow_failed", "too_many_turns", "too_many_calls"),
)
"""And with these by what it plays."""

Around = Callable[[Attempt], Surroundings]


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
        self.pace = Pace()
        self._expected: set[str] = set()
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
        """How many runs there are, with those on their way."""
        return len(self.runs.keys() | self._expected)

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

        So ends, at once, every run that starts after that.
        """
        with trio.move_on_after(bound):
            for run in list(self.runs.values()):
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
            if run_.stopped_by is not None and run_.resumable:
                await self._hand_over(run_, pen, run_.stopped_by)
            elif run_.stopped_by is not None or failure is not None:
                await self._fail(run_, pen, run_.stopped_by or failure or "internal_error")
        finally:
            del self.runs[run_.generation]
            run_.done.set()
        self._tell(run_, trio.current_time() - started)

    def _tell(self, run_: Attempt, seconds: float) -> None:
        figures = run_.figures
        if figures.outcome == "failed" and figures.failure is not None:
            self.metrics.failures.add(run_.script.provider, figures.failure)
        tell = log.warning if figures.outcome == "failed" else log.info
        tell("run over", model=run_.script.label, **figures.ended(seconds))

    async def _fail(self, run_: Attempt, pen: Pen, code: str) -> None:
        event = events.generation_failed(run_.generation, code, OWN_CODES[code], retryable=True)
        write = partial(pen.write, [event], last=True)
        if await self._until_written(write, run_.generation, lambda: run_.stopped_by is not None):
            run_.figures.outcome, run_.figures.failure = "failed", code
        elif pen.closed:
            run_.figures.had_the_last_word()  # which was on its way, and arrived

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
        except StoreUnavailable:
            return "store_unavailable"  # the outage has a log line of its own
        except StoreError as error:
            log.error("run could not be written", why=str(error))
            return "store_unavailable"
        except (Exception, SystemExit, BaseExceptionGroup) as error:
            if not is_fault(error):
                raise
            log.exception("run crashed")
            return "internal_error"
        return None

    async def end(self, conversation: str, generation: str, event: NewEvent) -> bool:
        """Appends a terminal event from outside and closes the writer; False if somebody was faster."""
        append = Append(conversation, (event,), closes=generation)
        return await self._until_written(partial(self._store.append, append), generation, lambda: False)

    async def _until_written(
        self, write: Callable[[], Awaitable[Appended]], generation: str, give_up: Callable[[], bool]
    ) -> bool:
        """Goes on until the store answers: a run without an end would read "streaming …" for ever. Gives up
        only when told so; the run is then found by another process, as one whose worker is lost.
        """
        told = False
        while True:
            try:
                await write()
            except Fenced:
                return False
            except StoreError as error:
                if not told:  # once: in an outage every run comes by here, again and again
                    log.warning("end not written yet", generation=generation, why=str(error))
                told = True
                if give_up():
                    log.warning("end not written: another process ends it, as worker_lost", generation=generation)
                    return False
                await trio.sleep(RETRY_SECONDS)
            else:
                return True

    async def watch(self) -> None:
        """For ever: stops runs whose writer was closed from outside, and says when nothing is held any more.

        It looks every second, unasked and without runs too: the hint may be lost, or the run over before it.
        """
        while True:
            with trio.move_on_after(WATCH_SECONDS):
                await self._store.closing.wait()
            self._store.closing = trio.Event()
            try:
                closed = await self._store.closed_by_others()
                for _, generation in closed:
                    await self.stop(generation)
                if closed:
                    await self._store.release(closed)
            except StoreError:
                self._store.closing.set()
                await trio.sleep(RETRY_SECONDS)


def _stop(run_: Attempt) -> None:
    run_.stopped_by = "server_stopped"
    run_.scope.cancel()
