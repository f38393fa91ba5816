"""What one may ask of the demo, and the bounds of it.

Owns its parameters, what they are when not given, and what is said of wrong ones. Pure: must not know time or the
text that is told.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from .errors import BadParameters
from .model import Prompt

__all__ = ["Parameters", "parse"]

MAX_TOKENS = 100_000
MAX_RATE = 10_000
MAX_SEED = 2**63 - 1
MAX_CALLS = 20


class Call(NamedTuple):
    """A tool to call; `arguments` as the JSON text that a model would write."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a prompt asks of the demo."""

    tokens: int  # of the story
    rate: float  # tokens a second; 0: as fast as it goes
    seed: int
    calls: tuple[Call, ...]  # to make before the story


def parse(prompt: Prompt) -> Parameters:
    """What the prompt asks for. Raises `BadParameters` (the client's fault)."""
    given = {"tokens": 200, "rate": 50, "seed": 1, "calls": [], **prompt.parameters}
    for name in given:
        if name not in Parameters.__slots__:
            raise BadParameters(f"parameters.{name}", "is not known; demo takes tokens, rate, seed and calls")
    return Parameters(
        tokens=_whole("tokens", given["tokens"], 1, MAX_TOKENS),
        rate=_number("rate", given["rate"], 0, MAX_RATE),
        seed=_whole("seed", given["seed"], 0, MAX_SEED),
        calls=_calls(given["calls"], [tool.name for tool in prompt.tools]),
    )


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise BadParameters(f"parameters.{name}", f"must be a whole number from {least} to {most}")
    return value


def _number(name: str, value: Any, least: int, most: int) -> float:
    if type(value) not in (int, float) or not least <= value <= most:  # NaN compares false
        raise BadParameters(f"parameters.{name}", f"must be a number from {least} to {most}")
    return float(value)


def _calls(value: Any, tools: Collection[str]) -> tuple[Call, ...]:
    if not isinstance(value, list) or len(value) > MAX_CALLS:
        raise BadParameters("parameters.calls", f"must be a list of at most {MAX_CALLS} calls")
    return tuple(_call(f"parameters.calls.{number}", call, tools) for number, call in enumerate(value))


def _call(field: str, value: Any, tools: Collection[str]) -> Call:
    if not isinstance(value, dict) or value.keys() - {"name", "arguments"}:
        raise BadParameters(field, "must be an object of `name` and `arguments`")
    name = value.get("name")
    if not isinstance(name, str):
        raise BadParameters(f"{field}.name", "must be a tool's name")
    if name not in tools:
        known = f"knows {', '.join(tools)}" if tools else "has no tools"
        raise BadParameters(f"{field}.name", f"is no tool of this request, which {known}")
    if not isinstance(value.get("arguments"), dict):
        raise BadParameters(f"{field}.arguments", "must be an object; {} for a tool that takes none")
    try:
        return Call(name, json.dumps(value["arguments"], ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadParameters(f"{field}.arguments", "must be JSON") from error
