"""The words between a runner and any upstream: prompt, answer, finish.

Owns the two protocols that every provider's adapter fulfils and the values they exchange. Pure: must not know
HTTP, trio, a provider or the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "TOOL_NAME",
    "Answer",
    "ArgumentsDelta",
    "Chunk",
    "Finish",
    "Message",
    "Prompt",
    "Reasoning",
    "ToolCall",
    "ToolSpec",
    "Upstream",
]


TOOL_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""A tool's name that every provider takes, as a JSON Schema's pattern. In Python with `re.fullmatch`: there, `$`
alone lets a line's end through."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call: `name` matches `TOOL_NAME`, `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called; `arguments` is the text it wrote, maybe no valid JSON.

    `carry`: what the provider wants back with this call, as in `Finish`. `whole`: the provider closed the call,
    and `arguments` are what the model wrote to its end; False: it must not run.
    """

    id: str
    name: str
    arguments: str
    carry: Any = None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation; `role` is the provider's word (`system`, `user`, `assistant` …).

    `calls`: what an assistant's turn called, beside its text. `call`: for the role `tool`, the id of the call
    whose result `content` is; None where somebody wrote the message and no call stands behind it. `carry`: an
    assistant's turn gets the `Finish.carry` of the answer that it was.
    """

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    call: str | None = None
    carry: Any = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to ask: `model` without the provider's prefix, the turns oldest first, the client's parameters.

    `tools`: what the model may call. The asker sees to it that no two have one name, that every call among the
    turns has its result, and that ids of calls are of the letters of `TOOL_NAME`, for providers refuse others.
    """

    model: str
    messages: tuple[Message, ...]
    parameters: Mapping[str, Any]
    tools: tuple[ToolSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thought before it spoke; never empty. It is no part of the text."""

    delta: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A piece of a tool call's arguments, while the model writes them; never empty.

    `index`: the call's place in `Finish.tool_calls`, from 0. `name`: the tool's, as far as it has been told.
    """

    index: int
    name: str
    delta: str


Chunk = str | Reasoning | ArgumentsDelta
"""What an answer is made of, in the order of arrival: text (a `str`), thoughts, and pieces of calls."""

ENDED_WELL = frozenset({"stop", "tool_calls"})


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended: the provider's reason, and what came beside the text.

    `reason`: in OpenAI's words where another provider's mean the same (`stop`, `length`, `tool_calls`, `refusal`).
    `usage`: `input_tokens` and `output_tokens` if the provider told both, and where told `cached_input_tokens`
    and `reasoning_tokens`, which are part of these two. `refusal`: the words with which the model refused.
    `carry`: what the provider wants back, unchanged, with this turn in the next request (signed thoughts and the
    like); JSON, to be kept with the turn, opaque to everybody but the adapter that made it, and for no client.
    """

    reason: str
    usage: Mapping[str, int] | None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    carry: Any = None

    @property
    def ended_well(self) -> bool:
        """The model said all that it wanted to. Only then may the answer's calls run.

        False: the answer was ended for it (`length`, `content_filter`, `refusal`), or in a word not known here.
        """
        return self.reason in ENDED_WELL


class Answer(Protocol):
    """One answer as it arrives. For one task: two tasks must not wait in `receive` at once."""

    @property
    def finish(self) -> Finish | None:
        """How it ended: set once `receive` has returned an empty sequence, None until then."""

    @property
    def repaired(self) -> int:
        """How many characters were replaced by U+FFFD so far (U+0000, unpaired surrogates, broken UTF-8)."""

    async def receive(self) -> Sequence[Chunk]:
        """Wait for more of the answer; an empty sequence means finished.

        Everything that has arrived by now, in its order: one string for each chunk of the provider that carries a
        content string, empty ones too, never merged; reasoning and arguments likewise, but for empty ones. What
        arrived before a failure is returned before it is raised.
        Raises `UpstreamError` (the provider or the way to it). Always a checkpoint.
        """


class Upstream(Protocol):
    """A provider of answers."""

    def check(self, prompt: Prompt) -> None:
        """Raise `BadParameters` (the client's fault) if this upstream would refuse the prompt; no I/O."""

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Answer]:
        """An answer to the prompt, for as long as the context is open.

        Entering connects nothing (the first `receive` does); raises `BadParameters` as `check` does. Leaving
        closes the connection at once, also when cancelled: outside of the `async with` no socket is left.
        """
