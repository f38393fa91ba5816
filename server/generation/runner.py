"""One attempt at a generation, from its first event to its last.

It waits for its turn, says that it has started, plays its script, and writes the end. It knows no client and no
web. Every append carries the writer's next `seq`; being fenced off ends the run without a word, for somebody else
had the last.
"""

from functools import partial

import trio

from server import events
from server.generation.attempt import Attempt, at_once
from server.generation.failing import RunFailed, failed
from server.generation.pen import Pen
from server.generation.run import Surroundings
from server.store_retry import insist
from server.upstream import BadParameters, UpstreamError


async def run(attempt: Attempt, pen: Pen, worker: str, around: Surroundings) -> None:
    """Runs it to its end. An upstream's failure is an end too (`generation.failed`).

    Raises `Fenced` (somebody else ended it) and `StoreUnavailable`: the log was away in the middle of it. Before
    it begins, and with its end at hand, it waits for a log that is away, for nothing is lost by that. The
    upstream's connection is closed before the terminal event is appended: whoever reads the end may rely on
    that.
    """
    attempt.in_line = attempt.turn is not at_once
    await attempt.turn()
    attempt.in_line = False
    if not attempt.begun:
        started = events.generation_started(attempt.generation, attempt.number, worker)
        await insist(partial(pen.write, [started]))
        attempt.begun = True
    figures = attempt.figures
    figures.began(trio.current_time())
    try:
        ends = await attempt.script.play(pen, attempt.number, around)
    except (UpstreamError, BadParameters, RunFailed) as error:
        figures.failure, end = failed(attempt.generation, error)
        ends = [end]
    await insist(partial(pen.write, ends, last=True))
    figures.had_the_last_word()
