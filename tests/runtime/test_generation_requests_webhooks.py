"""Webhooks of requests that come to nothing: each is given up, and leaves its place to the tenant's next one."""

import pytest
import trio
from pydantic import SecretStr
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.problem import Problem
from server.webhooks.retry_schedule import WebhookOptions
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.webhooks.webhook_process import PLAIN_URL, SECRET

from .run_commands import play
from .runtime_process import process, start

HOOKS = WebhookOptions(secret=SecretStr(SECRET), most_open=3, pause=0.1)


async def test_a_request_that_another_one_has_overtaken(autojump_clock: MockClock) -> None:
    """1. Several requests decide on one state and make their webhooks. 2. The first is appended. 3. The others are
    decided again, and refused. Their webhooks would count until the process ends, and the tenant get no other.
    """
    refused: list[str] = []
    async with process(MemoryBackend().process(), FakeUpstream(FOREVER), webhooks=HOOKS) as here:

        async def ask(conversation: str) -> None:
            try:
                await play(here, conversation, model="fake", webhook=PLAIN_URL)
            except Problem as problem:
                refused.append(problem.code)

        conversation = await start(here)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, conversation)
        assert refused == ["generation_running"] * 2
        assert len(here.webhooks) == 1
        for _ in range(2):
            await play(here, await start(here), model="fake", webhook=PLAIN_URL)
        with pytest.raises(Problem, match="3 webhooks that wait"):
            await play(here, await start(here), model="fake", webhook=PLAIN_URL)
