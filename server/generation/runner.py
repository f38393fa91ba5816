"""One generation, driven from its first event to its last: upstream → append → upstream → …

Each step waits for the one before: what has arrived is appended in one go, and only after its commit is more
read, so a slow database slows the upstream and not the memory. It knows no client and no web. Every append
carries the writer's next `seq`; being fenced off ends the run without a word, for somebody else had the last.
"""

from collections.abc import Sequence

import trio

from eventstore import Append, EventStore, NewEvent, Writer
from server import events
from server.generation.figures import Figures
from server.generation.pace import Pace
from server.upstream import Prompt, Upstream, UpstreamError


class Pen:
    """The run's writer: appends to its conversation in its name, in sequence.

    `seq` 1 was taken by the request itself.
    """

    def __init__(self, store: EventStore, conversation: str, generation: str, epoch: int) -> None:
        self._store = store
        self._conversation = conversation
        self._generation = generation
        self._epoch = epoch
        self._seq = 1

    async def write(self, new: Sequence[NewEvent], *, last: bool = False) -> None:
        """Appends; `last` closes the writer in the same transaction. Raises `Fenced`, `StoreUnavailable`."""
        writer = Writer(self._generation, self._epoch, self._seq + 1)
        await self._store.append(
            Append(
                self._conversation,
                tuple(new),
                writer=writer,
                closes=self._generation if last else None,
            )
        )
        self._seq += 1


async def run(
    pen: Pen, generation: str, worker: str, upstream: Upstream, prompt: Prompt, figures: Figures, pace: Pace
) -> None:
    """Runs the first attempt to its end. An upstream's failure is an end too (`generation.failed`).

    Raises `Fenced` (somebody else ended it) and `StoreUnavailable`. The upstream's connection is closed
    before the terminal event is appended: whoever reads the end may rely on that.
    """
    await pen.write([events.generation_started(generation, 1, worker)])
    before = trio.current_time()
    failure: UpstreamError | None = None
    try:
        async with upstream.open(prompt) as answer:
            try:
                while chunks := await answer.receive():
                    now = trio.current_time()
                    figures.arrived(now - before)
                    before = now
                    await pen.write([events.token(generation, chunk) for chunk in chunks])
                    figures.appended(len(chunks))
                    await pace.rest(now)
            finally:
                figures.read(answer.finish, answer.repaired)
    except UpstreamError as error:
        failure = error
    finish = figures.finish
    if failure is not None:
        figures.failure = failure.code
        end = events.generation_failed(generation, failure.code, failure.message, retryable=failure.retryable)
    else:
        reason, usage = (finish.reason, finish.usage) if finish else ("stop", None)
        end = events.generation_completed(generation, reason, usage, figures.ttft_ms)
    await pen.write([end], last=True)
    figures.outcome = "completed" if failure is None else "failed"
