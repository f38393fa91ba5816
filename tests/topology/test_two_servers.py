"""Two servers, one log: whatever one began, the other goes on with, and neither is asked for by name."""

import json
import signal
from functools import partial

import httpx2
import pytest
import trio

from tests.clients.api import Api, demo, new_key
from tests.clients.http1 import Connection
from tests.clients.sse import Parser
from tests.faults.readers import TERMINAL
from tests.harness.http import http_client

from .stack import Stack


async def test_resume_on_either_server(up: Stack) -> None:
    """Cut in the middle of a frame, again and again: before + after is the log; both servers had their turn."""
    async with Api.open(up.nginx.port) as api:
        run = await api.generate(tokens=120, rate=400)
        last_id, got, cuts = "", list[str](), 0
        while "[DONE]" not in got:
            parser, left = Parser(last_id), 1_500
            async with await Connection.open(up.nginx.port) as reader:
                headers = {"Accept": "text/event-stream", "Last-Event-ID": last_id}
                assert (await reader.ask("GET", f"{run}/events", headers)).status == 200
                while left > 0 and "[DONE]" not in got:
                    data = (await reader.receive())[:left]  # the rest is lost with the connection
                    left -= len(data)
                    got += [frame.data for frame in parser.feed(data) if frame.data]
                cuts += 1
            last_id = parser.last_event_id
        log = await api.log(run)
    assert [json.loads(data) for data in got[:-1]] == log
    assert cuts > 4
    asked = {record["server"] for record in up.nginx.requests() if record["path"] == f"{run}/events"}
    assert asked == {f"127.0.0.1:{server.port}" for server in up.servers}


async def test_cancel_through_the_other_server(up: Stack) -> None:
    """When the answer is there the upstream is closed; readers through nginx see the end."""
    first, second = up.servers
    async with Api.open(first.port) as one, Api.open(second.port) as other, Api.open(up.nginx.port) as api:
        run = await one.generate(tokens=10_000, rate=50)
        await api.reached(run, 5)
        answer = await other.post(f"{run}/cancel", {})
        assert answer.status_code == 200
        assert answer.json()["status"] == "cancelled"
        assert answer.json()["upstream_closed"] is True
        log = await api.finished(run)
        assert [event["type"] for event in log if event["type"] in TERMINAL] == ["generation.cancelled"]


async def test_repeated_post_acts_once(up: Stack) -> None:
    """The same key through nginx, which asks another server each time, and straight from both: one run."""
    key = new_key()
    async with (
        Api.open(up.nginx.port) as api,
        Api.open(up.servers[0].port) as one,
        Api.open(up.servers[1].port) as two,
    ):
        answers = [
            await asked.post("/v1/generations", demo(3), Idempotency_Key=key)
            for asked in (api, api, one, two, api)
        ]
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.headers["Location"] for answer in answers}) == 1
        assert len({answer.json()["conversation"] for answer in answers}) == 1
        await api.finished(answers[0].headers["Location"])


async def test_keyed_post_is_retried_on_the_other_server(up: Stack) -> None:
    """One server is stopped in its tracks with requests in hand, then killed: keyed ones never notice."""
    dying = up.servers[0]
    async with Api.open(up.nginx.port) as api:
        conversation = await api.conversation()
        dying.send_signal(signal.SIGSTOP)
        statuses: dict[str, int] = {}

        async def say(name: str, **headers: str) -> None:
            body = {"role": "user", "content": name}
            answer = await api.post(f"{conversation}/messages", body, **headers)
            statuses[name] = answer.status_code
            if answer.status_code != 201:
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert answer.json()["code"] == "unavailable"
                assert int(answer.headers["Retry-After"]) >= 1

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                # Round robin: of four of a kind two have their answer, two wait for the server that is stopped.
                for number in range(4):
                    nursery.start_soon(say, f"plain {number}")
                while len(statuses) < 2:
                    await trio.sleep(0.01)
                for number in range(4):
                    nursery.start_soon(partial(say, f"keyed {number}", Idempotency_Key=new_key()))
                while len(statuses) < 4:
                    await trio.sleep(0.01)
                await dying.kill()
        said = [event["content"] for event in await api.log(conversation) if event["type"] == "message.posted"]
    assert {statuses[f"keyed {number}"] for number in range(4)} == {201}
    assert sorted(statuses.values()) == [201] * 6 + [503] * 2
    assert sorted(said) == sorted(name for name, status in statuses.items() if status == 201)


async def test_cut_stream_is_not_taken_for_complete(up: Stack) -> None:
    """NDJSON ends with its body; when a server dies, the body must be seen to be broken off."""
    alone, dying = up.servers
    await alone.kill()
    async with Api.open(up.nginx.port) as api, http_client(up.url) as client:
        run = await api.generate(tokens=10_000, rate=50)
        async with client.stream("GET", f"{run}/events", params={"format": "ndjson"}) as answer:
            lines = answer.aiter_lines()
            while "token" not in await anext(lines):
                pass
            await dying.kill()
            with pytest.raises(httpx2.RemoteProtocolError), trio.fail_after(10):
                async for _ in lines:
                    pass
