"""The upstream `demo`: tokens at a given rate, and tools called, with no key and no network.

Owns the pace, and whose turn it is: a call's or the story's. What it says is `demo_text`'s, what it is asked for
`demo_parameters`'. Deterministic: the same turns and parameters give the same chunks and calls, in every process.
Must not know HTTP or providers.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice, takewhile

import trio

from .demo_parameters import Parameters, parse
from .demo_text import aside, whole_story
from .model import Answer, Chunk, Finish, Message, Prompt, ToolCall

__all__ = ["Demo"]

UNPACED_BATCH = 64  # tokens in one receive: enough to be cheap, few enough to let other tasks run
PACED_BATCH = 1_000  # tokens in one receive by a reader that was late


class Demo:
    """An `Upstream`. The first token is due when the answer is opened, token i (from 0) at i/rate after that.

    With the parameter `calls` it plays an agent: in each turn it says a sentence and makes the next call, and when
    all are made it tells its story. A user's message begins anew.
    """

    def check(self, prompt: Prompt) -> None:
        parse(prompt)

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        parameters = parse(prompt)
        made = _turns_made(prompt)
        words = sum(len(message.content.split()) for message in prompt.messages)
        if made < len(parameters.calls):
            yield _calling(parameters, made, _calls_in(prompt.messages), words)
        else:
            yield _telling(parameters, words)


def _turns_made(prompt: Prompt) -> int:
    """The turns since the last user's message in which tools were called."""
    since = takewhile(lambda message: message.role != "user", reversed(prompt.messages))
    return sum(bool(message.calls) for message in since)


def _calls_in(messages: Sequence[Message]) -> int:
    return sum(len(message.calls) for message in messages)


def _calling(parameters: Parameters, made: int, before: int, words: int) -> Answer:
    name, arguments = parameters.calls[made]
    # Numbered through all turns: after a user's message the same call is made again, and is another one.
    call = ToolCall(f"demo_{before}", name, arguments)
    said = aside(parameters.seed, made)
    usage = _usage(words, len(said))
    return _DemoAnswer(iter(said), len(said), parameters.rate, Finish("tool_calls", usage, (call,)))


def _telling(parameters: Parameters, words: int) -> Answer:
    told = whole_story(parameters.seed, parameters.tokens)
    usage = _usage(words, parameters.tokens)
    return _DemoAnswer(told, parameters.tokens, parameters.rate, Finish("stop", usage))


def _usage(read: int, told: int) -> dict[str, int]:
    return {"input_tokens": read, "output_tokens": told}


class _DemoAnswer:
    def __init__(self, tokens: Iterator[str], count: int, rate: float, end: Finish) -> None:
        self.finish: Finish | None = None
        self.repaired = 0
        self._tokens = tokens
        self._rate = rate
        self._end = end
        self._count = count
        self._told = 0
        self._start = trio.current_time()

    async def receive(self) -> Sequence[Chunk]:
        if self._told == self._count:
            await trio.lowlevel.checkpoint()
            self.finish = self._end
            return ()
        if self._rate:
            # By the absolute schedule: a sleep per token would add up its lateness.
            await trio.sleep_until(self._start + self._told / self._rate)
            due = 1 + math.floor((trio.current_time() - self._start) * self._rate) - self._told
            count = min(max(1, due), PACED_BATCH)  # at least the one waited for, whatever floats make of it
        else:
            await trio.lowlevel.checkpoint()
            count = UNPACED_BATCH
        batch = list(islice(self._tokens, count))
        self._told += len(batch)
        return batch
