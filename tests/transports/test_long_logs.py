"""Logs of many pages come without a pause: a bell that nobody rings is made up for only by a slow safety poll."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from tests.clients import readers
from tests.clients.api import TERMINAL, Api, Event
from tests.clients.readers import Reader

TOKENS = 6000
FAST = {**readers.STREAMS, "long poll": readers.read_long_poll}
"""Not those that need a message or a request for every few events."""
PROMPT = 8.0
"""Seconds in which each reader has to be through: a pause after each 500 events would take longer."""


def ended(events: Sequence[Event]) -> bool:
    """The run's end has come."""
    return bool(events) and events[-1]["type"] in TERMINAL


async def test_what_was_there_already(api: Api) -> None:
    """One reader after the other."""
    conversation = await api.conversation()
    await api.finished(await api.generate(conversation, tokens=TOKENS))
    log = await api.log(conversation)
    assert len(log) == TOKENS + 4
    for name, read in FAST.items():
        with trio.move_on_after(PROMPT) as scope:
            assert await read(api.port, conversation, 0, ended, trio.Event()) == log
        assert not scope.cancelled_caught, f"{name} pauses"


@pytest.mark.parametrize("read", FAST.values(), ids=FAST)
async def test_what_comes_in_a_burst(api: Api, read: Reader) -> None:
    """A run as fast as it goes, with a reader waiting for it."""
    conversation = await api.conversation()
    found: list[Event] = []
    placed, done = trio.Event(), trio.Event()

    async def follow() -> None:
        found.extend(await read(api.port, conversation, 0, ended, placed))
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        with trio.fail_after(PROMPT):
            await placed.wait()
        await api.finished(await api.generate(conversation, tokens=TOKENS))
        with trio.fail_after(PROMPT):
            await done.wait()
    assert found == await api.log(conversation)
