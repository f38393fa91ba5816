"""What tail, replay and chat print for runs that use tools, wait in the queue, or start again."""

import json
from typing import Any

import trio

from server.web.openapi.operations import EXAMPLE_BODIES
from tests.cli.command_runner import tokentape
from tests.cli.virtual_terminal import on_terminal
from tests.faults.readers import ask, wait_closed
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running

CLIENT_TOOL = EXAMPLE_BODIES["A model with a tool that you run"]


async def _post(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with http_client(server.url) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code < 300, answer.text
        found: dict[str, Any] = answer.json()
        return found


async def _wait_for_call(server: Server, generation: str, status: str) -> dict[str, Any]:
    """Waits until the generation's only call has this status."""
    async with http_client(server.url) as client:
        with trio.fail_after(30):
            while True:
                calls = (await client.get(f"/v1/generations/{generation}")).json()["tool_calls"]
                if calls and calls[0]["status"] == status:
                    found: dict[str, Any] = calls[0]
                    return found
                await trio.sleep(0.02)


async def _approve_and_finish(server: Server, generation: str) -> None:
    """Approves the generation's call and sends its result."""
    call = await _wait_for_call(server, generation, "proposed")
    decision = {"call": call["call"], "decision": "approved", "proposed_digest": call["proposed_digest"]}
    await _post(server, f"/v1/generations/{generation}/decisions", decision)
    await _wait_for_call(server, generation, "started")
    await _post(server, f"/v1/generations/{generation}/tools/{call['call']}/result", {"result": {"paid": True}})


async def test_tail_until_end_waits_for_the_last_queued_run(database: TestDatabase) -> None:
    """Not only for the run before it; tail and replay print the tool calls."""
    async with running(database.app_url) as server:
        first = await ask(server.url, CLIENT_TOOL)
        await _wait_for_call(server, first["id"], "proposed")
        second = {"model": "demo", "input": "more", "parameters": {"tokens": 4, "rate": 0}, "if_running": "queue"}
        queued = await ask(server.url, second, first["conversation"])
        assert queued["status"] == "queued"
        async with trio.open_nursery() as nursery:
            tailed: list[str] = []

            async def tail() -> None:
                done = await tokentape("tail", first["conversation"], "--url", server.url, "--until-end")
                assert done.status == 0, done.err
                tailed.append(done.out)

            nursery.start_soon(tail)
            await _approve_and_finish(server, first["id"])
        await wait_closed(f"{server.url}/v1/generations/{queued['id']}/events")
        replayed = await tokentape("replay", first["conversation"], "--url", server.url, "--instant")
        for shown in (tailed[0], replayed.out):
            assert shown.count("generation.completed") == 2
            assert 'tool.proposed  refund {"order":17} waits for a decision until' in shown
            assert "tool.decided  approved by anonymous  call_" in shown
            assert '→ {"paid":true}' in shown
            assert "demo  tokens=4  rate=0  if_running=queue" in shown
        as_json = await tokentape("replay", first["conversation"], "--url", server.url, "--instant", "--json")
        kinds = [json.loads(line)["type"] for line in as_json.out.splitlines()]
        assert [kind for kind in kinds if kind.startswith("tool.")] == [
            "tool.proposed",
            "tool.decided",
            "tool.started",
            "tool.finished",
        ]


async def test_chat_shows_a_waiting_decision_and_a_second_attempt(database: TestDatabase) -> None:
    """The server restarts while the run waits for a decision."""
    async with running(database.app_url, {"TOKENTAPE_STOP_TIMEOUT": "2"}) as server:
        run = await ask(server.url, CLIENT_TOOL)
        await _wait_for_call(server, run["id"], "proposed")
        async with on_terminal("chat", "--conversation", run["conversation"], "--url", server.url) as it:
            await it.until("waits for a decision on refund")
            assert await server.stop() == 0
            await it.until("reconnecting…")
            await server.start()
            await it.until("attempt 2: the answer starts again")
            await it.until("waits for a decision on refund  Ctrl-C cancels")
            await _approve_and_finish(server, run["id"])
            await it.until("first after")
            await it.prompted()
            it.type("\x04")
            assert await it.end() == 0
        assert "tool.decided  approved by anonymous" in it.screen.text
        log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
        after = [event["type"] for event in log].index("tool.finished")
        text = "".join(event["delta"] for event in log[after:] if event["type"] == "token")
        assert text
        assert "".join(text.split()) in it.screen.squeezed
        assert "generation.interrupted" in it.screen.text


async def test_chat_shows_that_a_run_is_queued(database: TestDatabase) -> None:
    """Another run of the conversation comes first."""
    async with running(database.app_url) as server:
        first = await ask(server.url, CLIENT_TOOL)
        await _wait_for_call(server, first["id"], "proposed")
        second = {"model": "demo", "input": "more", "parameters": {"tokens": 4, "rate": 0}, "if_running": "queue"}
        await ask(server.url, second, first["conversation"])
        async with on_terminal("chat", "--conversation", first["conversation"], "--url", server.url) as it:
            await it.until("waits for its turn")
            await _approve_and_finish(server, first["id"])
            await it.until("4 out")
            await it.prompted()
            it.type("\x04")
            assert await it.end() == 0
