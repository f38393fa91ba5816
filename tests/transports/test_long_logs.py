"""Logs of many pages must be delivered without a pause.

If a wake-up were lost, a reader would go on only at the next slow safety poll; these tests would notice.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from tests.clients import readers
from tests.clients.api import TERMINAL, Api, Event
from tests.clients.readers import Reader

TOKENS = 6000
FAST = {**readers.STREAMS, "long poll": readers.read_long_poll}
"""All readers but those that need a message or a request for every few events."""
PROMPT = 8.0
"""Seconds in which each reader must be done; a pause after each 500 events would take longer."""


def ended(events: Sequence[Event]) -> bool:
    """Whether the last event ends a generation."""
    return bool(events) and events[-1]["type"] in TERMINAL


async def test_existing_long_log_is_read_without_a_pause(api: Api) -> None:
    """One reader after another."""
    conversation = await api.conversation()
    await api.finished(await api.generate(conversation, tokens=TOKENS))
    log = await api.log(conversation)
    assert len(log) == TOKENS + 4
    for name, read in FAST.items():
        with trio.move_on_after(PROMPT) as scope:
            assert await read(api.port, conversation, 0, ended, trio.Event()) == log
        assert not scope.cancelled_caught, f"{name} pauses"


@pytest.mark.parametrize("read", FAST.values(), ids=FAST)
async def test_burst_of_events_is_followed_without_a_pause(api: Api, read: Reader) -> None:
    """A reader waits for a run that writes as fast as it can."""
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
