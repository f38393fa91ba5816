"""One generation, driven from its first event to its last: upstream → append → upstream → …

Each step waits for the one before: what has arrived is appended in one go, and only after its commit is more
read, so a slow database slows the upstream and not the memory. It knows no client and no web. Every append
carries the writer's next `seq`; being fenced off ends the run without a word, for somebody else had the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from eventstore import Append, EventStore, NewEvent, Writer
from server import events
from server.upstream import Finish, Prompt, Upstream, UpstreamError


@dataclass(slots=True)
class Figures:
    """What a run came to, for its log line."""

    tokens: int = 0
    ttft_ms: int | None = None


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
    pen: Pen, generation: str, worker: str, upstream: Upstream, prompt: Prompt, figures: Figures
) -> None:
    """Runs the first attempt to its end. An upstream's failure is an end too (`generation.failed`).

    Raises `Fenced` (somebody else ended it) and `StoreUnavailable`. The upstream's connection is closed
    before the terminal event is appended: whoever reads the end may rely on that.
    """
    await pen.write([events.generation_started(generation, 1, worker)])
    started = trio.current_time()
    failure: UpstreamError | None = None
    finish: Finish | None = None
    try:
        async with upstream.open(prompt) as answer:
            while chunks := await answer.receive():
                if figures.ttft_ms is None:
                    figures.ttft_ms = round((trio.current_time() - started) * 1000)
                await pen.write([events.token(generation, chunk) for chunk in chunks])
                figures.tokens += len(chunks)
            finish = answer.finish
    except UpstreamError as error:
        failure = error
    if failure is not None:
        end = events.generation_failed(generation, failure.code, failure.message, retryable=failure.retryable)
    else:
        reason, usage = (finish.reason, finish.usage) if finish else ("stop", None)
        end = events.generation_completed(generation, reason, usage, figures.ttft_ms)
    await pen.write([end], last=True)
