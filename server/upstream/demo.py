"""The upstream `demo`: tokens at a given rate, with no key and no network.

Owns its three parameters and the pace. The text is `demo_text`'s. Deterministic: the same tokens and seed give the
same chunks, in every process. Must not know HTTP or providers.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import trio

from .demo_text import story
from .errors import BadParameters
from .model import Answer, Finish, Prompt

__all__ = ["Demo"]

MAX_TOKENS = 100_000
MAX_RATE = 10_000
MAX_SEED = 2**63 - 1
UNPACED_BATCH = 64  # tokens in one receive: enough to be cheap, few enough to let other tasks run
PACED_BATCH = 1_000  # tokens in one receive by a reader that was late


@dataclass(frozen=True, slots=True)
class _Parameters:
    tokens: int = 200
    rate: float = 50.0  # tokens a second; 0: as fast as it goes
    seed: int = 1


class Demo:
    """An `Upstream`. The first token is due when the answer is opened, token i (from 0) at i/rate after that."""

    def check(self, prompt: Prompt) -> None:
        _parse(prompt.parameters)

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        words = sum(len(message.content.split()) for message in prompt.messages)
        yield _DemoAnswer(_parse(prompt.parameters), input_tokens=words)


class _DemoAnswer:
    def __init__(self, parameters: _Parameters, input_tokens: int) -> None:
        self.finish: Finish | None = None
        self.repaired = 0
        self._rate = parameters.rate
        self._tokens = parameters.tokens
        self._usage = {"input_tokens": input_tokens, "output_tokens": parameters.tokens}
        self._story = islice(story(parameters.seed), parameters.tokens)
        self._told = 0
        self._start = trio.current_time()

    async def receive(self) -> Sequence[str]:
        if self._told == self._tokens:
            await trio.lowlevel.checkpoint()
            self.finish = Finish("stop", self._usage)
            return ()
        if self._rate:
            # By the absolute schedule: a sleep per token would add up its lateness.
            await trio.sleep_until(self._start + self._told / self._rate)
            due = 1 + math.floor((trio.current_time() - self._start) * self._rate) - self._told
            count = min(max(1, due), PACED_BATCH)  # at least the one waited for, whatever floats make of it
        else:
            await trio.lowlevel.checkpoint()
            count = UNPACED_BATCH
        batch = list(islice(self._story, count))
        self._told += len(batch)
        return batch


def _parse(parameters: Mapping[str, Any]) -> _Parameters:
    given = {"tokens": 200, "rate": 50, "seed": 1, **parameters}
    for name in given:
        if name not in _Parameters.__slots__:
            raise BadParameters(f"parameters.{name}", "is not known; demo takes tokens, rate and seed")
    return _Parameters(
        tokens=_whole("tokens", given["tokens"], 1, MAX_TOKENS),
        rate=_number("rate", given["rate"], 0, MAX_RATE),
        seed=_whole("seed", given["seed"], 0, MAX_SEED),
    )


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise BadParameters(f"parameters.{name}", f"must be a whole number from {least} to {most}")
    return value


def _number(name: str, value: Any, least: int, most: int) -> float:
    if type(value) not in (int, float) or not least <= value <= most:  # NaN compares false
        raise BadParameters(f"parameters.{name}", f"must be a number from {least} to {most}")
    return float(value)
