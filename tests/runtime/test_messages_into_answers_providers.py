"""What a provider is sent when messages are put into an answer: the exact bodies, in both wire formats."""

from typing import Any

import pytest
import trio

from eventstore.memory_backend import MemoryBackend
from server.conversations.command_types import PostMessage
from server.ids import new_id
from server.providers import AnthropicSettings, OpenAISettings, Provider
from server.providers.anthropic import Anthropic
from server.providers.openai import OpenAI
from server.runtime.conversation_service import ConversationService
from server.workflows import tool
from tests.providers.fake_provider import FakeProvider

from .run_commands import At, ended, events, play, snapshot
from .runtime_process import app, cancel, process
from .test_agent_loop_providers import FixedModelProvider

FORMATS = ["openai", "anthropic"]
GATE: list[trio.Event] = []


def provider_of(wire: str, fake: FakeProvider, model: str) -> Provider:
    inner: Provider = (
        Anthropic(AnthropicSettings(base_url=fake.root_url))
        if wire == "anthropic"
        else OpenAI(OpenAISettings(base_url=fake.base_url))
    )
    return FixedModelProvider(inner, model)


async def put(here: ConversationService, run: At, text: str) -> None:
    command = PostMessage(new_id("msg"), "user", text, None, "Ada", deliver="now")
    await here.commands.post_message(run[0], command, None)


async def said(here: ConversationService, run: At, text: str) -> None:
    """Waits until the answer has this text."""
    with trio.fail_after(20):
        while True:
            if (await snapshot(here, run)).text == text:
                return
            await trio.sleep(0.01)


def block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize("wire", FORMATS)
async def test_a_plain_answer(wire: str, nursery: trio.Nursery) -> None:
    """The transcript, the answer so far as the assistant's, the message; no connection is left of the first."""
    fake = await FakeProvider.listen()
    nursery.start_soon(fake.serve)
    async with process(MemoryBackend().process(), provider_of(wire, fake, "stall-after-3")) as here:
        run = await play(here, model="fake", said="hi")
        await said(here, run, "t0 t1 t2 ")
        await put(here, run, "stop that")
        await said(here, run, "t0 t1 t2 t0 t1 t2 ")
        await fake.until(lambda: fake.open == 1)
        async with trio.open_nursery() as both:
            both.start_soon(put, here, run, "and this")
            both.start_soon(put, here, run, "and this")
        await said(here, run, "t0 t1 t2 " * 3)
        await fake.until(lambda: fake.open == 1)
        await cancel(here, *run)
    first = [{"role": "user", "content": "hi"}]
    second = [
        *first,
        {"role": "assistant", "content": "t0 t1 t2 "},
        {"role": "user", "content": "stop that"},
    ]
    bodies = [record.body["messages"] for record in fake.log]
    assert bodies[:2] == [first, second]
    third: list[dict[str, Any]] = [*second, {"role": "assistant", "content": "t0 t1 t2 "}]
    if wire == "openai":
        third += [{"role": "user", "content": "and this"}] * 2
    else:
        third += [{"role": "user", "content": [block("and this")] * 2}]
    assert bodies[-1] == third
    assert all(record.closed_by_client for record in fake.log)


@tool(approval="never")
async def weather(city: str) -> str:
    """The weather."""
    await GATE[0].wait()
    return f"sun in {city}"


@tool(approval="never")
async def now() -> str:
    """The time."""
    return "noon"


@pytest.mark.parametrize("wire", FORMATS)
async def test_an_agent_whose_tool_runs(wire: str, nursery: trio.Nursery) -> None:
    """The server refuses what a strict provider would refuse: the message comes after all results."""
    GATE[:] = [trio.Event()]
    fake = await FakeProvider.listen()
    nursery.start_soon(fake.serve)
    log = MemoryBackend()
    async with process(log.process(), provider_of(wire, fake, "agent"), registry=app(weather, now)) as here:
        run = await play(here, model="fake", said="hi", tools=("weather", "now"))
        with trio.fail_after(20):
            while True:
                if events(log, run, "tool.started"):
                    break
                await trio.sleep(0.01)
        await put(here, run, "stop that")
        GATE[0].set()
        found = await ended(here, run)
    assert found.status == "completed", found.error
    last = fake.log[-1].body["messages"]
    if wire == "openai":
        assert [message["role"] for message in last] == ["user", "assistant", "tool", "tool", "user"]
        assert last[-1] == {"role": "user", "content": "stop that"}
    else:
        assert [message["role"] for message in last] == ["user", "assistant", "user"]
        assert [one["type"] for one in last[-1]["content"]] == ["tool_result", "tool_result", "text"]
        assert last[-1]["content"][-1] == block("stop that")
