"""Every limit, at every level, on every transport: what is refused, in which form, and that it passes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from server.auth.credentials import generate
from server.auth.principal import ALL_SCOPES
from server.config.price_table import Price, PriceTable
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.web.asgi import Answered, Web, web
from tests.web.signed_requests import KEY, SSE

LEVELS = ("key", "user", "tenant")
PRICES = PriceTable({"fake": Price(1_000_000.0, 1_000_000.0, 0.0)})
"""Each of the three tokens that the fake model counts costs 1."""
GENERATE = {"model": "fake", "input": "x"}


class Somebody:
    """A caller with a conversation: with a key, or with nothing where nobody needs one."""

    def __init__(self, app: Web, headers: Mapping[str, str]) -> None:
        self.app, self.headers = app, dict(headers)
        self.conversation = ""

    async def ask(self, path: str, headers: Mapping[str, str] | None = None, query: str = "") -> Answered:
        """A GET of something of the conversation."""
        path = f"/v1/conversations/{self.conversation}{path}"
        return await self.app.ask("GET", path, {**self.headers, **(headers or {})}, query=query)

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answered:
        """A POST."""
        return await self.app.post(path, body, {**self.headers, **(headers or {})})

    async def commands(self, *texts: Mapping[str, Any]) -> Answered:
        """A WebSocket that sends commands."""
        path = f"/v1/conversations/{self.conversation}/ws"
        return await self.app.upgrade(path, self.headers, texts=texts)


Act = Callable[[Somebody], Awaitable[Answered]]


@dataclass(frozen=True)
class Transport:
    """A way to ask. `form`: how it is refused."""

    act: Act
    form: str = "problem"


def get(path: str = "", query: str = "", headers: Mapping[str, str] | None = None) -> Act:
    return lambda who: who.ask(path, headers, query)


def post(path: str, body: object) -> Act:
    return lambda who: who.post(path.replace("{id}", who.conversation), body)


def stream(path: str, body: object) -> Act:
    """A POST whose answer is a stream, of which the first chunk is enough."""
    return lambda who: who.app.ask("POST", path, {**who.headers, **SSE}, body)


def command(do: str, **fields: object) -> Act:
    return lambda who: who.commands({"id": "c1", "key": KEY + do, "do": do, **fields})


REQUESTS = {
    "snapshot": Transport(get()),
    "list": Transport(lambda who: who.app.ask("GET", "/v1/conversations", who.headers)),
    "poll": Transport(get("/events")),
    "sse": Transport(get("/events", headers=SSE), "event source"),
    "sse through quart": Transport(get("/events/", headers=SSE), "event source"),
    "ndjson": Transport(get("/events", "format=ndjson")),
    "post": Transport(post("/v1/conversations/{id}/messages", {"role": "user", "content": "x"})),
    "post through quart": Transport(post("/v1/conversations/{id}/messages/", {"role": "user", "content": "x"})),
    "post with a stream": Transport(stream("/v1/generations", GENERATE)),
    "ticket": Transport(post("/v1/conversations/{id}/tickets", {})),
    "upgrade": Transport(lambda who: who.commands()),
}
READERS = {
    "sse": Transport(get("/events", headers=SSE), "event source"),
    "ndjson": Transport(get("/events", "format=ndjson")),
    "held poll": Transport(get("/events", "after=now&wait=1")),
    "held snapshot": Transport(get("", "wait=1", {"If-None-Match": '"1"'})),
    "post with a stream": Transport(stream("/v1/generations", GENERATE)),
    "upgrade": Transport(lambda who: who.commands()),
}
RUNS = {
    "post": Transport(post("/v1/generations", GENERATE)),
    "post in a conversation": Transport(post("/v1/conversations/{id}/generations", GENERATE)),
    "post with a stream": Transport(stream("/v1/generations", GENERATE)),
    "command": Transport(command("generate", **GENERATE), "error frame"),
}

NOW = {"role": "user", "content": "x", "deliver": "now"}
INTO_AN_ANSWER = {
    "post": Transport(post("/v1/conversations/{id}/messages", NOW)),
    "command": Transport(command("post", **NOW), "error frame"),
}


@asynccontextmanager
async def somebody(level: str, limits: str, fake: FakeUpstream | None = None) -> Any:
    """Somebody whose `level` has the limits; at the other levels there are some that are far away."""
    far = "{0}.requests=9999/s, {0}.readers=99, {0}.runs=99, {0}.tokens=9999/day, {0}.cost=9999/day"
    others = [far.format(one) for one in LEVELS if one != level]
    async with web(
        fake=fake, limits=", ".join([*(f"{level}.{one}" for one in limits.split()), *others]), prices=PRICES
    ) as app:
        headers = {}
        if level != "user":
            key = generate("key")
            await app.keys.add_key(key, "acme", "", ALL_SCOPES, None)
            await app.authenticator.look_again()
            headers = {"Authorization": f"Bearer {key.text}"}
        who = Somebody(app, headers)
        made = await who.post("/v1/conversations", {})
        who.conversation = made.json["id"]
        await trio.sleep(60)  # what was asked so far is out of every window
        yield who


def check_refused(answered: Answered, form: str, limit: str) -> float:
    """That the answer is a refusal of that form; returns after how many seconds to come back."""
    if form == "event source":
        assert answered.status == 200
        assert answered.headers["content-type"].startswith("text/event-stream")
        assert b"rate_limited" in answered.body
        assert limit.encode() in answered.body
        return float(answered.body.split(b"retry: ")[1].split(b"\n")[0]) / 1000
    if form == "error frame":
        error = answered.frames[-1]
        assert (error["kind"], error["id"], error["code"], error["status"]) == ("error", "c1", "rate_limited", 429)
        assert (error["limit"], error["limit"] in error["detail"]) == (limit, True)
        return float(error["retry_after"])
    assert (answered.status, answered.code) == (429, "rate_limited"), answered.body
    assert not answered.accepted
    problem = answered.json
    assert (problem["limit"], f"{limit}={problem['value']}" in problem["detail"]) == (limit, True)
    assert answered.headers["retry-after"] == str(problem["retry_after"])
    return float(problem["retry_after"])


def is_taken(answered: Answered) -> bool:
    if answered.frames:
        return all(frame.get("code") != "rate_limited" for frame in answered.frames)
    return answered.status in (101, 200, 201, 202, 304) and b"rate_limited" not in answered.body


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", REQUESTS)
async def test_requests(level: str, name: str, autojump_clock: MockClock) -> None:
    transport = REQUESTS[name]
    async with somebody(level, "requests=2/s requests=30/minute") as who:
        for left in (1, 0):
            answered = await transport.act(who)
            assert is_taken(answered), answered
            if answered.headers and not answered.accepted:
                states = answered.headers["ratelimit"].split(", ")
                assert f'"{level}.requests/s";r={left};t=1' in states
                assert f'"{level}.requests/minute";r={28 + left};t=60' in states
                policies = answered.headers["ratelimit-policy"].split(", ")
                assert f'"{level}.requests/s";q=2;w=1' in policies
                assert f'"{level}.requests/minute";q=30;w=60' in policies
        refused = await transport.act(who)
        wait = check_refused(refused, transport.form, f"{level}.requests")
        assert f'"{level}.requests/s";r=0;t=1' in refused.headers["ratelimit"]
        await trio.sleep(wait)
        assert is_taken(await transport.act(who))


@pytest.mark.parametrize("level", LEVELS)
async def test_each_command_of_a_websocket_is_a_request(level: str, autojump_clock: MockClock) -> None:
    """The upgrade too; and what is no command."""
    async with somebody(level, "requests=4/s") as who:
        message = {"do": "post", "role": "user", "content": "x"}
        texts = [{"id": f"c{number}", "key": KEY + str(number), **message} for number in range(5)]
        answered = await who.commands(texts[0], {"id": "bad", "do": "x"}, texts[1], {**texts[2], "id": "c1"})
        refused = [frame for frame in answered.frames if frame.get("code") == "rate_limited"]
        assert len(refused) == 1
        check_refused(answered, "error frame", f"{level}.requests")
        await trio.sleep(1.1)
        assert is_taken(await who.commands(texts[2]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", READERS)
async def test_readers(level: str, name: str, autojump_clock: MockClock) -> None:
    transport = READERS[name]
    async with somebody(level, "readers=1") as who:
        async with trio.open_nursery() as nursery:
            path = f"/v1/conversations/{who.conversation}/events"
            heard = trio.Event()
            nursery.start_soon(who.app.follow, path, {**who.headers, **SSE}, "", lambda data: heard.set())
            await heard.wait()
            check_refused(await transport.act(who), transport.form, f"{level}.readers")
            page = await who.ask("/events")  # what holds nothing open is no reader
            assert page.status == 200
            assert f'"{level}.readers";q=1;qu="concurrent-requests"' in page.headers["ratelimit-policy"]
            nursery.cancel_scope.cancel()
        for _ in range(3):  # each gives its place back
            assert is_taken(await transport.act(who))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", RUNS)
async def test_runs(level: str, name: str, autojump_clock: MockClock) -> None:
    transport = RUNS[name]
    async with somebody(level, "runs=2", FakeUpstream(("a",), FOREVER)) as who:
        runs = [(await who.post("/v1/generations", GENERATE)).json["id"] for _ in range(2)]
        check_refused(await transport.act(who), transport.form, f"{level}.runs")
        await who.post(f"/v1/generations/{runs[0]}/cancel", {})
        assert is_taken(await transport.act(who))
        check_refused(await who.post("/v1/generations", GENERATE), "problem", f"{level}.runs")


@pytest.mark.parametrize("meter", ["tokens=4/day", "cost=3.5/day"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", RUNS)
async def test_the_day(level: str, name: str, meter: str, autojump_clock: MockClock) -> None:
    """A run counts three tokens, of which each costs 1. The one that passes the limit goes on to its end."""
    transport = RUNS[name]
    async with somebody(level, meter, FakeUpstream(("a",))) as who:
        for _ in range(2):
            run = await who.post("/v1/generations", GENERATE, SSE)
            assert b"generation.completed" in run.body
        limit = f"{level}.{meter.partition('=')[0]}"
        wait = check_refused(await transport.act(who), transport.form, limit)
        assert 80_000 < wait < 86_400
        await trio.sleep(5)  # written by now
        check_refused(await transport.act(who), transport.form, limit)
        assert (await who.ask("")).status == 200  # reading goes on
        who.app.keys.clock = lambda: trio.current_time() + wait
        assert is_taken(await transport.act(who))


@pytest.mark.parametrize("meter", ["tokens=4/day", "cost=3.5/day"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", INTO_AN_ANSWER)
async def test_an_answer_is_not_prolonged_beyond_the_day(
    level: str, name: str, meter: str, autojump_clock: MockClock
) -> None:
    """A message put into an answer asks the provider again: else one answer could go on for ever."""
    transport = INTO_AN_ANSWER[name]
    async with somebody(level, meter, FakeUpstream(("a",), FOREVER)) as who:
        conversation = f"/v1/conversations/{who.conversation}"
        assert (await who.post(f"{conversation}/generations", GENERATE)).status == 202
        posted = await who.post(f"{conversation}/messages", NOW)
        assert (posted.status, posted.json["delivery"]) == (201, "queued")
        who.app.limiter.add_use("acme" if who.headers else "default", posted.json["by"], 10, 10)
        limit = f"{level}.{meter.partition('=')[0]}"
        wait = check_refused(await transport.act(who), transport.form, limit)
        ordinary = {"role": "user", "content": "x"}
        assert (await who.post(f"{conversation}/messages", ordinary)).status == 201
        await trio.sleep(5)  # written by now
        who.app.keys.clock = lambda: trio.current_time() + wait
        assert is_taken(await transport.act(who))


async def test_a_request_that_is_repeated_with_its_key_is_answered_as_before(autojump_clock: MockClock) -> None:
    async with somebody("key", "runs=1", FakeUpstream(("a",), FOREVER)) as who:
        key = {"Idempotency-Key": KEY}
        first = await who.post("/v1/generations", GENERATE, key)
        again = await who.post("/v1/generations", GENERATE, key)
        assert (again.status, again.json["id"]) == (202, first.json["id"])
        check_refused(await who.post("/v1/generations", GENERATE), "problem", "key.runs")


@pytest.mark.parametrize("if_running", ["queue", "interrupt"])
async def test_a_run_that_follows_another_one_takes_its_place(if_running: str, autojump_clock: MockClock) -> None:
    async with somebody("key", "runs=1", FakeUpstream(("a",), FOREVER)) as who:
        path = f"/v1/conversations/{who.conversation}/generations"
        assert (await who.post(path, GENERATE)).status == 202
        assert (await who.post(path, {**GENERATE, "if_running": if_running})).status == 202
        check_refused(await who.post("/v1/generations", GENERATE), "problem", "key.runs")


async def test_of_many_requests_at_once_as_many_run_as_may(autojump_clock: MockClock) -> None:
    async with somebody("tenant", "runs=3", FakeUpstream(("a",), FOREVER)) as who:
        statuses = list[int]()

        async def start() -> None:
            statuses.append((await who.post("/v1/generations", GENERATE)).status)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(start)
        assert sorted(statuses) == [202] * 3 + [429] * 17


async def test_without_limits_nothing_is_told_or_kept(autojump_clock: MockClock) -> None:
    async with web() as app:
        made = await app.post("/v1/conversations", {})
        assert "ratelimit" not in made.headers
        assert "ratelimit-policy" not in made.headers
        assert not app.limiter._callers
        await app.post("/v1/generations", GENERATE, SSE)
        assert not app.limiter._pending


async def test_a_key_has_limits_of_its_own(autojump_clock: MockClock) -> None:
    async with web(limits="key.requests=1/minute") as app:
        own, plain = generate("key"), generate("key")
        await app.keys.add_key(own, "acme", "", ALL_SCOPES, None, "requests=3/minute, runs=1")
        await app.keys.add_key(plain, "acme", "", ALL_SCOPES, None)
        await app.authenticator.look_again()

        async def statuses(text: str) -> list[int]:
            headers = {"Authorization": f"Bearer {text}"}
            return [(await app.ask("GET", "/v1/conversations", headers)).status for _ in range(4)]

        assert await statuses(own.text) == [200, 200, 200, 429]
        assert await statuses(plain.text) == [200, 429, 429, 429]


async def test_what_is_made_of_a_key_counts_for_the_key(autojump_clock: MockClock) -> None:
    async with somebody("key", "requests=3/minute") as who:
        made = await who.post("/v1/session", {})
        assert made.status == 201
        ticket = (await who.post(f"/v1/conversations/{who.conversation}/tickets", {})).json["ticket"]
        path = f"/v1/conversations/{who.conversation}/events"
        assert is_taken(await who.app.ask("GET", path, SSE, query=f"ticket={ticket}"))
        cookie = {"Cookie": made.headers["set-cookie"].partition(";")[0], "Host": "localhost:8000"}
        check_refused(await who.app.ask("GET", "/v1/session", cookie), "problem", "key.requests")
