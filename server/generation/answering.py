"""One answer of an upstream, from its opening to its end: upstream → append → upstream → …

Each step waits for the one before: what has arrived is appended in one go, and only after its commit is more
read, so a slow database slows the upstream and not the memory. It knows no client and no web.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from eventstore import NewEvent
from server import events
from server.generation.figures import Figures
from server.generation.pace import Pace
from server.upstream import Finish, Prompt, Upstream

Write = Callable[[Sequence[NewEvent]], Awaitable[Any]]


async def answer(
    write: Write,
    generation: str,
    upstream: Upstream,
    prompt: Prompt,
    figures: Figures,
    pace: Pace,
    keep: list[str] | None = None,
) -> Finish:
    """Asks, and writes what comes as tokens; how it ended. `keep` gets the text too, chunk by chunk.

    Raises `UpstreamError`, and what `write` raises. The upstream's connection is closed when it returns.
    """
    figures.asked(trio.current_time())
    async with upstream.open(prompt) as open_answer:
        try:
            while chunks := await open_answer.receive():
                now = trio.current_time()
                figures.arrived(now)
                await write([events.token(generation, chunk) for chunk in chunks])
                figures.appended(len(chunks))
                if keep is not None:
                    keep += chunks
                await pace.rest(now)
        finally:
            figures.read(open_answer.finish, open_answer.repaired)
    return open_answer.finish or Finish("stop", None)
