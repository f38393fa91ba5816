"""Answers that run while messages are put into them: fake models and tools, and what tests ask of the log."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from eventstore.memory_backend import MemoryBackend
from server.conversations.command_types import PostMessage
from server.conversations.conversation_state import Conversation
from server.generations.run_context import Run
from server.ids import new_id
from server.providers import Answer, Finish, Prompt
from server.runtime.conversation_service import ConversationService
from server.workflows import Workflow, tool
from tests.generations.fake_agent import FakeAgent
from tests.generations.fake_upstream import FakeUpstream

from .run_commands import At, kinds, snapshot
from .runtime_process import app

USAGE = {"input_tokens": 10, "output_tokens": 5}


class Model(FakeUpstream):
    """Says the next of its answers each time that it is asked, and repeats the last."""

    def __init__(self, *answers: Sequence[Any], finish: Finish | None = None) -> None:
        super().__init__(finish=finish or Finish("stop", USAGE))
        self._answers = answers

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        self._script = tuple(self._answers[min(self.opened, len(self._answers) - 1)])
        async with super().open(prompt) as answer:
            yield answer


class Agent(FakeAgent):
    """A `FakeAgent` whose turns go on whoever speaks in between."""

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        turn = self._turns[min(self.opened, len(self._turns) - 1)]
        self._turns, turns = (turn,), self._turns
        try:
            async with super().open(prompt) as answer:
                self._turns = turns
                yield answer
        finally:
            self._turns = turns


async def put(here: ConversationService, run: At, text: str, key: Any = None) -> str:
    """Posts a message for the answer that runs, and returns its id."""
    command = PostMessage(new_id("msg"), "user", text, None, "Ada", deliver="now")
    done = await here.commands.post_message(run[0], command, key)
    state = await here.states.at(run[0], done.last)
    (message,) = (one for one in state.messages if one.position == done.last)
    return message.id


async def written(log: MemoryBackend, run: At, kind: str) -> None:
    """Waits until the generation has an event of this type in the log."""
    with trio.fail_after(100):
        while True:
            if kind in kinds(log, run):
                return
            await trio.sleep(0.1)


async def taken_over(here: ConversationService, run: At) -> None:
    """Waits until the second attempt has begun."""
    with trio.fail_after(1_000):
        while True:
            if (await snapshot(here, run)).attempt == 2:
                return
            await trio.sleep(0.1)


def asked(prompt: Prompt) -> list[tuple[str, Any]]:
    """The roles and texts of a prompt."""
    return [(message.role, message.content) for message in prompt.messages]


def delivery(state: Conversation, message: str) -> tuple[str, str | None]:
    """What became of a message, and the generation that was to take it."""
    (found,) = (one for one in state.messages if one.id == message)
    told = state.delivery_of(found)
    assert told is not None
    assert (told.applied_position is not None) == (told.status == "applied")
    return told.status, found.into


@tool(approval="never", idempotent=True)
async def work(what: str) -> str:
    """Takes ten seconds."""
    await trio.sleep(10)
    return f"did {what}"


@tool
async def ask(what: str) -> str:
    """Asks a person first."""
    return f"did {what}"


async def _flow(run: Run) -> str:
    await run.token("a flow ")
    await trio.sleep(10)
    return (await run.generate("fake", "hi")).text


REGISTRY = app(work, ask, Workflow("w", _flow))


def call(name: str) -> tuple[str, str]:
    return name, msgspec.json.encode({"what": "it"}).decode()


def check_pairs(prompts: Sequence[Prompt]) -> None:
    """Every call is followed by its result, before anybody speaks."""
    for prompt in prompts:
        for number, message in enumerate(prompt.messages):
            results = prompt.messages[number + 1 : number + 1 + len(message.calls)]
            assert [one.call for one in results] == [one.id for one in message.calls]
