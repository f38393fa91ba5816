"""Pumps one answer of a provider into the log, from the opening of the answer to its end.

Each step waits for the one before: what has arrived is appended in one go, and only after the commit is more read.
So a slow database slows the provider down instead of filling memory. Text, reasoning and pieces of tool calls are
events of their own, in the order in which they came.

`AdaptiveBatching` is how long a run waits before it reads its provider again: not at all, unless this process runs
short of CPU. Most of what a token costs is its round: read, append, wake the readers, send. When the process is
nearly busy, a pause before each read lets a few tokens of a run come together and go round at once; each stays an
event of its own. All answers then slow down by some milliseconds, where they would otherwise fall behind without a
bound. The first token of an answer never waits. This file must not know a client, the web, or what a run does
next.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from eventstore import NewEvent
from server import event_types
from server.generations.run.message_inbox import MessageInbox
from server.generations.run.rounds import CUT
from server.generations.run.run_stats import RunStats
from server.ids import new_id
from server.message_parts import FilePart, text_of
from server.providers import Chunk, Finish, Prompt, Provider, Reasoning, UpstreamError

SAMPLE_SECONDS = 0.1
"""Between two readings of the CPU clock."""
HIGH_LOAD, LOW_LOAD = 0.86, 0.72
"""Shares of one core: above the first the pause grows, below the second it shrinks. Python runs on one core."""
MIN_PAUSE, MAX_PAUSE = 0.004, 0.050
"""Seconds. A shorter pause would gain nothing; people would see a longer one."""
GROWTH, DECAY = 1.25, 0.9
CHARACTERS_PER_TOKEN = 4
"""Of English text, by the providers' own rule of thumb: https://platform.openai.com/tokenizer"""
TOKENS_PER_IMAGE = 1_600
"""The most that is counted for an image, by https://platform.claude.com/docs/en/build-with-claude/vision"""
BYTES_PER_TOKEN = 40
"""Of a PDF: a page of some 80 KB is 1,500 to 3,000 tokens, by
https://platform.claude.com/docs/en/build-with-claude/pdf-support"""
SMOOTHING = 0.5
"""The weight of earlier samples in the smoothed load."""


class AdaptiveBatching:
    """The pause of one process. `pause` is in seconds, 0 for none; `load` the share of a core it used lately."""

    def __init__(self, cpu: Callable[[], float] = time.process_time) -> None:
        self.pause = 0.0
        self.load = 0.0
        self._cpu = cpu

    async def run(self) -> None:
        """Samples the CPU clock every `SAMPLE_SECONDS`, for ever."""
        now, spent = trio.current_time(), self._cpu()
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            before, spent_before = now, spent
            now, spent = trio.current_time(), self._cpu()
            self.update((spent - spent_before) / (now - before))

    def update(self, share: float) -> None:
        """Takes one sample, the share of a core used since the one before, and adapts `pause`."""
        self.load = SMOOTHING * self.load + (1 - SMOOTHING) * share
        if self.load > HIGH_LOAD:
            self.pause = min(MAX_PAUSE, max(MIN_PAUSE, self.pause * GROWTH))
        elif self.load < LOW_LOAD:
            self.pause *= DECAY
            if self.pause < MIN_PAUSE:
                self.pause = 0.0

    async def wait(self, since: float) -> None:
        """Waits until `pause` seconds after `since`, a time of trio's clock.

        No checkpoint where there is no pause.
        """
        if self.pause:
            await trio.sleep_until(since + self.pause)


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
    *,
    model: str | None = None,
    inbox: MessageInbox | None = None,
) -> Finish:
    """Asks the provider, writes what comes as events, and returns how the answer ended.

    `model`: as clients name it, for its price. `transcript` is filled on the way. Without one, pieces of tool
    calls are not written: nobody would run them. A message in `inbox` cuts the answer short where it may: the
    `Finish` has the reason `CUT` then, and as usage an estimate, because the provider has not counted.

    Raises `UpstreamError`, and what `write` raises. The provider's connection is closed when this returns.
    """
    stats.upstream_asked(trio.current_time())
    inbox = inbox or MessageInbox()
    calls = transcript.calls if transcript is not None else ()
    pieces = 0
    asked = False
    finish: Finish | None = None
    async with provider.open(prompt) as answer:
        try:
            with inbox.interruptible(calls):
                while not (inbox.waiting and inbox.may_cut()):
                    asked = inbox.receiving = True
                    chunks = await answer.receive()
                    inbox.receiving = False
                    if not chunks or inbox.interrupted:
                        break
                    now = trio.current_time()
                    new, tokens = _events(generation, chunks, transcript)
                    if tokens:
                        stats.tokens_arrived(now)
                    if new:
                        pieces += len(new)
                        stats.pieces_arrived(len(new), model)
                        await write(new)
                        stats.tokens_committed(tokens)
                    await batching.wait(now)
                else:
                    inbox.interrupted = True
            finish = answer.finish
            if finish is None and inbox.interrupted:
                estimate = {"input_tokens": _estimate(prompt), "output_tokens": pieces}
                finish = Finish(CUT, estimate if asked else None)
        finally:
            stats.answer_ended(finish or answer.finish, answer.repaired, model, pieces)
    if finish is None:
        # An adapter that breaks its contract must not pass a truncated answer off as a whole one.
        raise UpstreamError("upstream_cut", "The answer ended without saying how it finished.", retryable=True)
    return finish


def _estimate(prompt: Prompt) -> int:
    """About how many tokens of input the prompt is, where no provider says so.

    Whatever is sent counts, also tools and files: somebody who cuts answers about a long document again and again
    would otherwise pass every budget.
    """
    characters = sum(len(text_of(message.content)) for message in prompt.messages)
    characters += sum(len(call.arguments) for message in prompt.messages for call in message.calls)
    characters += sum(
        len(msgspec.json.encode([tool.name, tool.description, tool.parameters])) for tool in prompt.tools
    )
    tokens = -(-characters // CHARACTERS_PER_TOKEN)
    return tokens + sum(_estimate_file(part) for message in prompt.messages for part in message.files)


def _estimate_file(part: FilePart) -> int:
    if part.media_type.startswith("image/"):
        return TOKENS_PER_IMAGE
    per_token = CHARACTERS_PER_TOKEN if part.media_type.startswith("text/") else BYTES_PER_TOKEN
    return -(-part.size // per_token)


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
