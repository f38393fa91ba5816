"""The built-in provider `demo`: tokens at a given rate, and tool calls, without a key and without a network.

Owns its parameters and their limits, its text, and its pace. Deterministic: the same messages and parameters give
the same chunks and calls, in every process and Python version. Therefore it draws only from
`random.Random.random`, whose sequence for an int seed the standard library promises to keep; `choice` and
`randrange` have changed before. Must not know HTTP or other providers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from random import Random
from typing import Any, NamedTuple

import trio

from server.message_parts import FilePart, size_in_words

from .interface import Answer, BadParameters, Chunk, Finish, Message, Prompt, ToolCall

MAX_TOKENS = 100_000
MAX_RATE = 10_000
MAX_SEED = 2**63 - 1
MAX_CALLS = 20
MAX_SAY = 20_000


class Call(NamedTuple):
    """A tool call to make; `arguments` is JSON text, as a model would write it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class DemoParameters:
    """The parameters of a prompt for the demo."""

    tokens: int  # the length of the story
    rate: float  # tokens a second; 0: as fast as it goes
    seed: int
    calls: tuple[Call, ...]  # one per turn, before the story
    say: str | None  # what it says instead of the story


def parse_parameters(prompt: Prompt) -> DemoParameters:
    """The prompt's parameters, with defaults. Raises `BadParameters` (the client's fault)."""
    given = {"tokens": 200, "rate": 50, "seed": 1, "calls": [], "say": None, **prompt.parameters}
    for name in given:
        if name not in DemoParameters.__slots__:
            raise BadParameters(f"parameters.{name}", "is not known; demo takes tokens, rate, seed, calls and say")
    return DemoParameters(
        tokens=_integer("tokens", given["tokens"], 1, MAX_TOKENS),
        rate=_number("rate", given["rate"], 0, MAX_RATE),
        seed=_integer("seed", given["seed"], 0, MAX_SEED),
        calls=_parse_calls(given["calls"], [tool.name for tool in prompt.tools]),
        say=_parse_say(given["say"]),
    )


def _parse_say(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= MAX_SAY or not value.strip()):
        raise BadParameters("parameters.say", f"must be a text of at most {MAX_SAY} characters")
    return value


def _integer(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise BadParameters(f"parameters.{name}", f"must be a whole number from {least} to {most}")
    return value


def _number(name: str, value: Any, least: int, most: int) -> float:
    if type(value) not in (int, float) or not least <= value <= most:  # NaN compares false
        raise BadParameters(f"parameters.{name}", f"must be a number from {least} to {most}")
    return float(value)


def _parse_calls(value: Any, tools: Collection[str]) -> tuple[Call, ...]:
    if not isinstance(value, list) or len(value) > MAX_CALLS:
        raise BadParameters("parameters.calls", f"must be a list of at most {MAX_CALLS} calls")
    return tuple(_parse_call(f"parameters.calls.{number}", call, tools) for number, call in enumerate(value))


def _parse_call(field: str, value: Any, tools: Collection[str]) -> Call:
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


_WORDS: dict[str, Sequence[str]] = {
    name: words.split("|")
    for name, words in {
        "ADJ": "old|quiet|salt-stained|careful|borrowed|grey|patient|narrow|bright|forgotten|heavy|honest",
        "THING": "tape|letter|lantern|ledger|map|bell|rope|chart|kettle|compass|crate|notebook",
        "PERSON": "keeper|pilot|clerk|ferryman|postmistress|cook|archivist|fisher|captain|night watch",
        "PLACE": "the harbour|the lighthouse|the reading room|Port Amber|the north pier|Café Solano|the vault",
        "WEATHER": "storm|fog|tide|gale|drizzle|swell|frost|thaw",
        "DID": "carried|copied|counted|mended|hid|labelled|rewound|weighed|numbered|read",
        "WHEN": "before dawn|at noon|after the last ferry|all through the night|in the second week|by lamplight",
        "COUNT": "two|three|seven|eleven|forty|a hundred",
    }.items()
}
_SENTENCES = (
    "The ADJ PERSON DID the THING WHEN.",
    "Nobody at PLACE had seen such a WEATHER.",
    "WHEN, the WEATHER came in over PLACE and took the ADJ THING.",
    "Every THING in PLACE has a number, and every number has its place.",
    "“Nothing is lost,” said the PERSON, “as long as the THING was written down.”",
    "So they DID the COUNT ADJ letters again, one after the other.",
    "When the WEATHER broke, the tape went on from where it had stopped.",
    "The PERSON kept one ADJ THING under the counter, in case of WEATHER.",
    "A letter from PLACE arrived WHEN; it had been COUNT years on the way.",
    "First came the WEATHER, then the silence, then the ADJ PERSON with a THING.",
    "What the PERSON DID in the WEATHER, the tape remembers.",
    "It was only a THING, but it had crossed the WEATHER twice.",
)
_ASIDES = (
    "That is not in the THING; the PERSON goes to ask.",
    "“One moment,” says the PERSON, and sends to PLACE.",
    "Before it goes on, the PERSON wants to be sure.",
    "Somebody at PLACE will know.",
    "The PERSON puts down the THING and looks it up.",
    "For this, the ADJ THING is not enough.",
)
_ENDINGS = (
    "Enough.",
    "All's well.",
    "Nothing was lost.",
    "The tape went on.",
    "And then it was morning.",
)
"""Sentences of one word, of two, and so on: they fill the room that no other sentence fits into."""
_SLOT = re.compile("|".join(_WORDS))
_PARAGRAPH = 0.18  # the chance that a paragraph ends after a sentence


def story(seed: int) -> Iterator[str]:
    """Endless chunks like a model's tokens: each is a word with the space after it (`The `, `storm, `)."""
    rng = Random(seed)
    while True:
        words = _sentence(rng, _SENTENCES)
        yield from (f"{word} " for word in words[:-1])
        yield words[-1] + _between(rng)


def whole_story(seed: int, count: int) -> Iterator[str]:
    """Exactly `count` chunks of the story. The last one ends a sentence: a story that breaks off looks like lost
    data.

    It is the same as `story` up to the first sentence that no longer fits.
    """
    rng = Random(seed)
    left = count
    while left:
        words = _sentence(rng, _SENTENCES)
        if len(words) > left:
            words = _ENDINGS[min(left, len(_ENDINGS)) - 1].split()
        left -= len(words)
        yield from (f"{word} " for word in words[:-1])
        yield words[-1] + (_between(rng) if left else "")


def _between(rng: Random) -> str:
    return "\n\n" if rng.random() < _PARAGRAPH else " "


def aside(seed: int, number: int) -> list[str]:
    """One short sentence before a tool call, in chunks like `story`'s, chosen by seed and call number."""
    rng = Random((number + 1) * 2**64 + seed)  # never the seed of a story: those are below 2**63
    return [f"{word} " for word in _sentence(rng, _ASIDES)]


def _sentence(rng: Random, templates: Sequence[str]) -> list[str]:
    template = _pick(rng, templates)
    text = _SLOT.sub(lambda slot: _pick(rng, _WORDS[slot[0]]), template)
    return (text[0].upper() + text[1:]).split()


def _pick(rng: Random, among: Sequence[str]) -> str:
    return among[int(rng.random() * len(among))]


_KINDS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WebP",
    "application/pdf": "PDF",
    "text/plain": "text",
}


def told_files(messages: Sequence[Message]) -> list[str]:
    """A sentence about the files that came since the last answer, in chunks like `story`'s; none without files."""
    since = takewhile(lambda message: message.role != "assistant", reversed(messages))
    files = [part for message in reversed(list(since)) for part in message.files]
    if not files:
        return []
    *others, last = map(_told_file, files)
    words = f"You sent {', '.join(others)}{' and ' if others else ''}{last}.".split()
    return [*(f"{word} " for word in words[:-1]), f"{words[-1]}\n\n"]


def _told_file(part: FilePart) -> str:
    size = part.size if part.data is None else len(part.data)
    name = f" “{part.name}”" if part.name is not None else ""
    return f"a {_KINDS.get(part.media_type, 'file')}{name} of {size_in_words(size)}"


MAX_REPEATED = 12
"""Words of a message that are repeated."""


class Script(NamedTuple):
    """What of a text is still to be said, in chunks. `goes_on`: the beginning was said before."""

    chunks: list[str]
    goes_on: bool


def rest_of_script(say: str, messages: Sequence[Message]) -> Script:
    """What of the text `say` an answer says after these messages.

    An answer into which messages were put is several messages of the assistant, each the text up to the next cut.
    """
    said = 0
    heard: list[Message] = []
    for message in messages:
        if message.role == "user":
            heard.append(message)
        elif message.role == "assistant" and message.text:
            repeated = "".join(_repeat(heard)) if said else ""
            heard = []
            if repeated.startswith(message.text):
                continue  # it was cut before it came back to the text
            own = message.text.removeprefix(repeated)
            said = said + len(own) if own and say.startswith(own, said) else 0
            said = 0 if said == len(say) else said  # it was said whole: what comes now is another question
    chunks = re.findall(r"\s*\S+\s*", say[said:])
    return Script([*(_repeat(heard) if said else ()), *chunks], said > 0)


def _repeat(heard: Sequence[Message]) -> list[str]:
    """The messages in a few words, in chunks like `story`'s."""
    told = []
    for message in heard:
        words = message.text.split()
        told += f"(Noted: “{' '.join(words[:MAX_REPEATED])}{'…' if len(words) > MAX_REPEATED else ''}”)".split()
    return [f"{word} " for word in told]


UNPACED_BATCH = 64  # tokens in one receive: enough to be cheap, few enough to let other tasks run
PACED_BATCH = 1_000  # most tokens in one receive, for a reader that is late


class Demo:
    """A `Provider`. The first token is due when the answer is opened, token i (from 0) at i/rate after that.

    With the parameter `calls` it acts as an agent: in each turn it says a sentence and makes the next call; when
    all calls are made it tells its story. After a user's message it begins again with the first call. Before the
    story it says which files it was sent.

    With the parameter `say` it says that text instead, and nothing before its calls. Where the last answer is the
    beginning of it, because a message was put into the answer, it repeats the message in a few words, makes no
    call again and goes on.
    """

    def check(self, prompt: Prompt) -> None:
        parse_parameters(prompt)

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        parameters = parse_parameters(prompt)
        made = _count_turns_made(prompt)
        words = sum(len(message.text.split()) for message in prompt.messages)
        script = None if parameters.say is None else rest_of_script(parameters.say, prompt.messages)
        if script is not None and (script.goes_on or made >= len(parameters.calls)):
            yield _script_answer(parameters, words, script.chunks)
        elif made < len(parameters.calls):
            yield _call_answer(parameters, made, _count_calls(prompt.messages), words)
        else:
            yield _story_answer(parameters, words, told_files(prompt.messages))


def _count_turns_made(prompt: Prompt) -> int:
    """How many turns with tool calls there are since the last user's message."""
    since = takewhile(lambda message: message.role != "user", reversed(prompt.messages))
    return sum(bool(message.calls) for message in since)


def _count_calls(messages: Sequence[Message]) -> int:
    return sum(len(message.calls) for message in messages)


def _call_answer(parameters: DemoParameters, made: int, before: int, words: int) -> Answer:
    name, arguments = parameters.calls[made]
    # Numbered through all turns, so that a call made again after a user's message gets a new id.
    call = ToolCall(f"demo_{before}", name, arguments)
    chunks = aside(parameters.seed, made) if parameters.say is None else []
    usage = _usage(words, len(chunks))
    return _DemoAnswer(iter(chunks), len(chunks), parameters.rate, Finish("tool_calls", usage, (call,)))


def _story_answer(parameters: DemoParameters, words: int, told: Sequence[str]) -> Answer:
    left = max(0, parameters.tokens - len(told))
    if told and not left:
        told = [*told[:-1], told[-1].rstrip()]
    chunks = chain(told, whole_story(parameters.seed, left))
    return _DemoAnswer(chunks, len(told) + left, parameters.rate, Finish("stop", _usage(words, len(told) + left)))


def _script_answer(parameters: DemoParameters, words: int, chunks: Sequence[str]) -> Answer:
    return _DemoAnswer(iter(chunks), len(chunks), parameters.rate, Finish("stop", _usage(words, len(chunks))))


def _usage(words: int, tokens: int) -> dict[str, int]:
    return {"input_tokens": words, "output_tokens": tokens}


class _DemoAnswer:
    def __init__(self, tokens: Iterator[str], count: int, rate: float, last: Finish) -> None:
        self.finish: Finish | None = None
        self.repaired = 0
        self._tokens = tokens
        self._rate = rate
        self._last = last
        self._count = count
        self._sent = 0
        self._start = trio.current_time()

    async def receive(self) -> Sequence[Chunk]:
        if self._sent == self._count:
            await trio.lowlevel.checkpoint()
            self.finish = self._last
            return ()
        if self._rate:
            # By the absolute time of the token: with one sleep per token the lateness would add up.
            await trio.sleep_until(self._start + self._sent / self._rate)
            due = 1 + math.floor((trio.current_time() - self._start) * self._rate) - self._sent
            count = min(max(1, due), PACED_BATCH)  # at least the token waited for, whatever rounding says
        else:
            await trio.lowlevel.checkpoint()
            count = UNPACED_BATCH
        batch = list(islice(self._tokens, count))
        self._sent += len(batch)
        return batch
