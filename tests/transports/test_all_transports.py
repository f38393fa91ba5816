"""Every transport must give exactly the same event objects, live or later, from any cursor.

Covers pages, long polls, SSE, NDJSON, fetch streams and WebSockets, with runs that use every event type.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import trio

from tests.clients import readers
from tests.clients.api import TERMINAL, Api, Event
from tests.clients.readers import Enough, Reader

from .command_clients import run_with_interventions
from .event_checks import FIELDS, check_log

PATIENCE = 30.0
on_conversations = pytest.mark.parametrize("read", readers.ALL.values(), ids=readers.ALL)
on_generations = pytest.mark.parametrize("read", readers.GETS.values(), ids=readers.GETS)


def ended(events: Sequence[Event]) -> bool:
    """Whether the last event ends a generation."""
    return bool(events) and events[-1]["type"] in TERMINAL


def at_least(count: int) -> Enough:
    """Whether that many events have been read."""
    return lambda events: len(events) >= count


def never(events: Sequence[Event]) -> bool:
    """Reads until the transport itself says that the log is over."""
    return False


async def varied_conversation(api: Api) -> tuple[str, list[str]]:
    """A conversation with messages, two finished runs, a cancelled one, and two that people intervened in."""
    conversation = await api.conversation(title="Everything", metadata={"a": [1, None, "é"]})
    await api.message(conversation, "Line one\nline two\r\n\u2028 data: [DONE] \U0001f600")
    first = await api.generate(conversation, tokens=20, input="What?")
    await api.finished(first)
    await api.message(conversation)
    second = await api.generate(conversation, tokens=20, seed=2)
    await api.finished(second)
    async with api.busy(conversation) as third:
        await api.message(conversation, "in between")
    await api.finished(third)
    talked = await run_with_interventions(api, conversation)
    return conversation, [first, second, third, *talked]


@on_conversations
async def test_conversation_read_afterwards_from_any_cursor(api: Api, read: Reader) -> None:
    """From the start, the middle and the last position."""
    conversation, _ = await varied_conversation(api)
    log = await api.log(conversation)
    check_log(log)
    for after in (0, 1, len(log) // 2, len(log) - 1):
        with trio.fail_after(PATIENCE):
            events = await read(api.port, conversation, after, at_least(len(log) - after), trio.Event())
        assert events == log[after:]


@on_generations
async def test_finished_generation_read_from_any_cursor(api: Api, read: Reader) -> None:
    """Only its own events, with the positions they have in the conversation."""
    conversation, generations = await varied_conversation(api)
    whole = await api.log(conversation)
    for path in generations:
        mine = [event for event in whole if event.get("generation") == path.rpartition("/")[2]]
        last = mine[-1]["position"]
        for after in (0, mine[0]["position"] - 1, mine[0]["position"], last - 1):
            with trio.fail_after(PATIENCE):
                events = await read(api.port, path, after, never, trio.Event())
            assert events == [event for event in mine if event["position"] > after]


@on_conversations
async def test_conversation_followed_live_from_now(api: Api, nursery: trio.Nursery, read: Reader) -> None:
    """All events that come, and none from before."""
    conversation = await api.conversation()
    before = await api.message(conversation)
    found: list[Event] = []
    placed, done = trio.Event(), trio.Event()

    async def follow() -> None:
        found.extend(await read(api.port, conversation, "now", ended, placed))
        done.set()

    nursery.start_soon(follow)
    with trio.fail_after(PATIENCE):
        await placed.wait()
        await api.message(conversation, "first")
        await api.generate(conversation, tokens=60, rate=200)
        await done.wait()
    assert found == (await api.log(conversation))[before["position"] :]


@on_generations
@pytest.mark.parametrize("after", [0, "middle", "now"])
async def test_generation_joined_while_it_runs(api: Api, read: Reader, after: object) -> None:
    """Replayed and live events meet without a gap or a repetition."""
    generation = await api.generate(tokens=120, rate=200)
    early = await api.reached(generation, 30)
    cursor: Any = early[10]["position"] if after == "middle" else after
    with trio.fail_after(PATIENCE):
        events = await read(api.port, generation, cursor, never, trio.Event())
    log = await api.log(generation)
    first = events[0]["position"]
    assert events == [event for event in log if event["position"] >= first]
    if after == "now":
        assert first > early[-1]["position"]
    else:
        assert first == (log[0]["position"] if after == 0 else cursor + 1)


async def test_concurrent_readers_on_all_transports_see_the_same_run(api: Api) -> None:
    """Two readers on each transport."""
    conversation = await api.conversation()
    found: list[list[Event]] = []

    async def follow(read: Reader, placed: trio.Event) -> None:
        found.append(await read(api.port, conversation, 0, ended, placed))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for read in [*readers.ALL.values()] * 2:
                placed = trio.Event()
                nursery.start_soon(follow, read, placed)
                await placed.wait()
            await api.generate(conversation, tokens=100, rate=100)
    log = await api.log(conversation)
    check_log(log)
    assert len(found) == 2 * len(readers.ALL)
    assert all(events == log for events in found)


async def test_concurrent_readers_see_tools_decisions_and_steering(api: Api) -> None:
    """Also progress, steps, the result, and a message that is put into an answer, as they happen."""
    conversation = await api.conversation()
    found: list[list[Event]] = []

    def said(events: Sequence[Event]) -> bool:
        return bool(events) and events[-1].get("content") == "That was all."

    async def follow(read: Reader, placed: trio.Event) -> None:
        found.append(await read(api.port, conversation, 0, said, placed))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for read in readers.ALL.values():
                placed = trio.Event()
                nursery.start_soon(follow, read, placed)
                await placed.wait()
            await run_with_interventions(api, conversation)
            answer = await api.generate(conversation, tokens=40, rate=40)
            put_in = {"role": "user", "content": "in German, please", "deliver": "now"}
            assert (await api.post(f"{conversation}/messages", put_in)).json()["delivery"] == "queued"
            await api.finished(answer)
            await api.message(conversation, "That was all.")
    log = await api.log(conversation)
    check_log(log)
    assert found == [log] * len(readers.ALL)
    assert {event["type"] for event in log} >= FIELDS.keys() - {
        *("generation.interrupted", "generation.failed", "generation.cancelled"),
    }


async def test_log_of_a_run_has_request_start_tokens_and_end(api: Api) -> None:
    """Each once; the deltas of the tokens make the snapshot's text."""
    generation = await api.generate(tokens=30, seed=7, input="Tell me.")
    log = await api.finished(generation)
    types = [event["type"] for event in log]
    assert types == ["generation.requested", "generation.started", *["token"] * 30, "generation.completed"]
    assert all(later["position"] == earlier["position"] + 1 for earlier, later in pairwise(log))
    snapshot = await api.get(generation)
    assert snapshot["text"] == "".join(event["delta"] for event in log if event["type"] == "token")
    first, said, asked = (await api.log(f"/v1/conversations/{snapshot['conversation']}"))[:3]
    assert (first["position"], first["type"]) == (1, "conversation.started")
    assert (said["type"], said["role"], said["content"]) == ("message.posted", "user", "Tell me.")
    assert asked == log[0]
