"""A fake model that calls tools by a script. It finds the turn that is due from the prompt, as a real model
would.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import takewhile

from server.providers import Answer, Finish, Prompt, ToolCall

from .fake_upstream import FakeUpstream, Step

USAGE = {"input_tokens": 1, "output_tokens": 2}


@dataclass(frozen=True)
class Say:
    """One turn.

    The text, then the calls as (name, arguments as text). `finish` says how it ends, if not normally.
    """

    steps: Sequence[Step] = (("ok",),)
    calls: Sequence[tuple[str, str]] = ()
    finish: Finish | None = None


class FakeAgent(FakeUpstream):
    """Takes its turns one after the other since the last user message, and repeats the last one.

    `asked` are the prompts, `open_now` the number of open answers.
    """

    def __init__(self, *turns: Say, closing: float = 0) -> None:
        super().__init__(closing=closing)
        self._turns = turns

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        since = takewhile(lambda message: message.role != "user", reversed(prompt.messages))
        made = sum(bool(message.calls) for message in since)
        turn = self._turns[min(made, len(self._turns) - 1)]
        calls = tuple(ToolCall(f"its_{made}_{n}", *call) for n, call in enumerate(turn.calls))
        self._script = tuple(turn.steps)
        self._finish = turn.finish or Finish("tool_calls" if calls else "stop", USAGE, calls)
        async with super().open(prompt) as answer:
            yield answer
