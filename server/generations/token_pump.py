"""Pumps one answer of a provider into the log, from the opening of the answer to its end.

Each step waits for the one before: what has arrived is appended in one go, and only after the commit is more read.
So a slow database slows the provider down instead of filling memory. Text, reasoning and pieces of tool calls are
events of their own, in the order in which they came. Must not know a client, the web, or what a run does next.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from eventstore import NewEvent
from server import event_types
from server.generations.adaptive_batching import AdaptiveBatching
from server.generations.run_stats import RunStats
from server.ids import new_id
from server.providers import Chunk, Finish, Prompt, Provider, Reasoning, UpstreamError

Write = Callable[[Sequence[NewEvent]], Awaitable[Any]]
"""Appends events and returns when they are committed: `FencedWriter.write` or `RunLog.write`."""


@dataclass(slots=True)
class Transcript:
    """What one answer said, for the caller that goes on with it.

    `text` and `reasoning` are its chunks; `calls` are the ids under which its tool calls were streamed, by their
    place in `Finish.tool_calls`.
    """

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, str] = field(default_factory=dict)


async def pump_answer(
    write: Write,
    generation: str,
    provider: Provider,
    prompt: Prompt,
    stats: RunStats,
    batching: AdaptiveBatching,
    transcript: Transcript | None = None,
) -> Finish:
    """Asks the provider, writes what comes as events, and returns how the answer ended.

    `transcript` is filled on the way. Without one, pieces of tool calls are not written: nobody would run them.

    Raises `UpstreamError`, and what `write` raises. The provider's connection is closed when this returns.
    """
    stats.upstream_asked(trio.current_time())
    async with provider.open(prompt) as answer:
        try:
            while chunks := await answer.receive():
                now = trio.current_time()
                new, tokens = _events(generation, chunks, transcript)
                if tokens:
                    stats.tokens_arrived(now)
                if new:
                    await write(new)
                    stats.tokens_committed(tokens)
                await batching.wait(now)
        finally:
            stats.answer_ended(answer.finish, answer.repaired)
    if answer.finish is None:
        # An adapter that breaks its contract must not pass a truncated answer off as a whole one.
        raise UpstreamError("upstream_cut", "The answer ended without saying how it finished.", retryable=True)
    return answer.finish


def _events(generation: str, chunks: Sequence[Chunk], transcript: Transcript | None) -> tuple[list[NewEvent], int]:
    """The chunks as events, and how many of them are tokens."""
    new: list[NewEvent] = []
    tokens = 0
    for chunk in chunks:
        if isinstance(chunk, str):
            tokens += 1
            new.append(event_types.token(generation, chunk))
            if transcript is not None:
                transcript.text.append(chunk)
        elif isinstance(chunk, Reasoning):
            new.append(event_types.reasoning(generation, chunk.delta))
            if transcript is not None:
                transcript.reasoning.append(chunk.delta)
        elif transcript is not None:
            call = transcript.calls.get(chunk.index)
            name = chunk.name if call is None else None
            if call is None:
                call = transcript.calls[chunk.index] = new_id("call")
            new.append(event_types.tool_arguments(generation, call, chunk.delta, name or None))
    return new, tokens
