"""One answer of an upstream, from its opening to its end: upstream → append → upstream → …

Each step waits for the one before: what has arrived is appended in one go, and only after its commit is more
read, so a slow database slows the upstream and not the memory. Text, reasoning and the pieces of calls are events
of their own, in the order in which they came. It knows no client and no web.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from eventstore import NewEvent
from server import events
from server.generation.figures import Figures
from server.generation.pace import Pace
from server.ids import new as new_id
from server.upstream import Chunk, Finish, Prompt, Reasoning, Upstream

Write = Callable[[Sequence[NewEvent]], Awaitable[Any]]


@dataclass(slots=True)
class Kept:
    """What a turn needs of an answer when it is over: its text and reasoning, chunk by chunk, and the ids of the
    calls that were being written, by their place in `Finish.tool_calls`.
    """

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, str] = field(default_factory=dict)


async def answer(
    write: Write,
    generation: str,
    upstream: Upstream,
    prompt: Prompt,
    figures: Figures,
    pace: Pace,
    keep: Kept | None = None,
) -> Finish:
    """Asks, and writes what comes as events; how it ended. `keep` gets it too; without it, calls are not written,
    for nobody will carry them out.

    Raises `UpstreamError`, and what `write` raises. The upstream's connection is closed when it returns.
    """
    figures.asked(trio.current_time())
    async with upstream.open(prompt) as open_answer:
        try:
            while chunks := await open_answer.receive():
                now = trio.current_time()
                new, tokens = _events(generation, chunks, keep)
                if tokens:
                    figures.arrived(now)
                if new:
                    await write(new)
                    figures.appended(tokens)
                await pace.rest(now)
        finally:
            figures.read(open_answer.finish, open_answer.repaired)
    return open_answer.finish or Finish("stop", None)


def _events(generation: str, chunks: Sequence[Chunk], keep: Kept | None) -> tuple[list[NewEvent], int]:
    """The chunks as events, and how many of them are tokens."""
    new: list[NewEvent] = []
    tokens = 0
    for chunk in chunks:
        if isinstance(chunk, str):
            tokens += 1
            new.append(events.token(generation, chunk))
            if keep is not None:
                keep.text.append(chunk)
        elif isinstance(chunk, Reasoning):
            new.append(events.reasoning(generation, chunk.delta))
            if keep is not None:
                keep.reasoning.append(chunk.delta)
        elif keep is not None:
            call = keep.calls.get(chunk.index)
            name = chunk.name if call is None else None
            if call is None:
                call = keep.calls[chunk.index] = new_id("call")
            new.append(events.tool_arguments(generation, call, chunk.delta, name or None))
    return new, tokens
