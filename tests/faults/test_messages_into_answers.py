"""On real servers and a real database: a message is posted at one server and the answer runs at another one."""

from __future__ import annotations

import trio

from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import running
from tests.transports.command_clients import wait_until

PATIENCE = 60.0
ASKED = {"role": "user", "content": "in German, please", "deliver": "now"}


async def test_another_server_interrupts_a_silent_model_and_a_killed_one_is_taken_over(
    database: TestDatabase,
) -> None:
    """Nobody waits for the model's next token. The attempt after the kill has the message, and knows it still."""
    with trio.fail_after(PATIENCE):
        async with running(database.app_url) as second, Api.open(second.port) as other:
            async with running(database.app_url) as first, Api.open(first.port) as api:
                conversation = await api.conversation()
                run = await api.generate(
                    conversation, tokens=3, rate=0.02, input="Count.", on_crash="restart"
                )  # a token in 50 seconds
                await wait_until(api, run, lambda found: found["tokens"] == 1)
                began = trio.current_time()
                told = (await other.post(f"{conversation}/messages", ASKED)).json()
                assert told["delivery"] == "queued"
                found = await wait_until(api, run, lambda found: bool(found["applied"]))
                assert trio.current_time() - began < 10
                assert [one["message"] for one in found["applied"]] == [told["message"]]
                await wait_until(other, run, lambda found: found["tokens"] == 2)
                await first.kill()
            again = (await other.post(f"{conversation}/messages", ASKED)).json()
            assert again["delivery"] == "queued"
            found = await wait_until(other, run, lambda found: len(found["applied"]) == 2)
            assert found["attempt"] == 2
            await other.post(f"{run}/cancel", {})
            log = await other.finished(run)
            snapshot = await other.get(conversation)
    assert [event["message"] for event in log if event["type"] == "message.applied"] == [
        *(told["message"], again["message"])
    ]
    assert [one.get("delivery") for one in snapshot["messages"]] == [None, "applied", "applied"]
