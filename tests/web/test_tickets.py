"""Tickets: who gets one, what it opens, and whom it lets back in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from server.auth.principal import ALL_SCOPES
from server.web.edge.authorization import TICKET_PROTOCOL
from tests.clients import sse
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.openapi.contract import validator

from .asgi import Answered, Web, web
from .signed_requests import KEY, SSE, SignedApp, bearer

HUNG = FakeUpstream(("a",), FOREVER)
HEAVY = {**SSE, "User-Agent": "Browser/1.0", "Origin": "https://app.example"}
"""What an EventSource of a page of another origin sends."""


async def conversation(app: Web, headers: Mapping[str, str]) -> str:
    """The address of a new one, with two events."""
    made = await app.post("/v1/conversations", {}, headers)
    address: str = made.headers["location"]
    await app.post(f"{address}/messages", {"role": "user", "content": "hello"}, headers)
    return address


async def issued(app: Web, address: str, headers: Mapping[str, str], **asked: object) -> Any:
    """A ticket, as its maker gets it."""
    answer = await app.post(f"{address}/tickets", asked, headers)
    assert answer.status == 201, answer.body
    validator("TicketShown").validate(answer.json)
    return answer.json


async def connect(app: Web, url: str, headers: Mapping[str, str] = HEAVY, **last: str) -> Answered:
    """A stream's first chunk, or its refusal."""
    path, _, query = url.partition("?")
    return await app.ask(
        "GET", path, {**headers, **({"Last-Event-ID": last["seen"]} if last else {})}, query=query
    )


def first_id(answer: Answered) -> str | None:
    """The id in the first block of a stream."""
    lines = answer.body.partition(b"\n\n")[0].decode().split("\n")
    found = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    return found[0] if found else None


@pytest.mark.parametrize("prefix", ["", "/tape"])
async def test_a_ticket_opens_its_stream(prefix: str) -> None:
    """At the address that comes with it. Its first block says the position, so that the reader can come back."""
    async with web(require_keys=True, fake=HUNG, public_url=f"https://tape.example{prefix}") as app:
        made = SignedApp(app)
        signed = bearer(await made.key(ALL_SCOPES)).headers
        address = (await conversation(app, signed)).removeprefix(prefix)
        run = await app.post(f"{address}/generations", {"model": "fake", "input": "x"}, signed)
        generation = run.headers["location"].removeprefix(prefix)
        for path in (address, generation):
            for query, position in (("", "0"), ("&after=2", "2")):
                ticket = await issued(app, path, signed)
                assert ticket["url"] == f"{prefix}{path}/events?ticket={ticket['ticket']}"
                answer = await connect(app, ticket["url"].removeprefix(prefix) + query)
                assert (answer.status, first_id(answer)) == (200, position)
            assert first_id(await app.ask("GET", f"{path}/events", {**signed, **SSE})) is None
        ticket = await issued(app, address, signed, transport="websocket")
        assert ticket["url"] == f"{prefix}{address}/ws?ticket={ticket['ticket']}"
        assert (await app.upgrade(f"{address}/ws", query=f"ticket={ticket['ticket']}")).accepted


async def test_a_subprotocol_may_be_the_ticket() -> None:
    """The answer names the protocol that is spoken, never the ticket."""
    async with web(require_keys=True) as app:
        signed = bearer(await SignedApp(app).key(ALL_SCOPES)).headers
        address = await conversation(app, signed)
        for offered, chosen in ((["tokentape.v1"], "tokentape.v1"), ([], None)):
            ticket = (await issued(app, address, signed, transport="websocket"))["ticket"]
            protocols = [*offered, TICKET_PROTOCOL + ticket]
            answer = await app.upgrade(f"{address}/ws", subprotocols=protocols)
            assert (answer.accepted, answer.subprotocol) == (True, chosen)
            assert ticket not in json.dumps(answer.frames) + repr(answer.headers)


READERS: dict[str, tuple[dict[str, str], str, bool]] = {
    "comes back with its last id": ({"Last-Event-ID": "1"}, "", True),
    "comes back with the position of the first block": ({"Last-Event-ID": "0"}, "", True),
    "comes back as a polyfill": ({}, "&lastEventId=1", True),
    "comes back with a cursor": ({}, "&after=1", True),
    "says nothing of what it saw": ({}, "", False),
    "says that it saw nothing": ({"Last-Event-ID": ""}, "", False),
    "is another browser": ({"Last-Event-ID": "1", "User-Agent": "Browser/2.0"}, "", False),
    "has no name": ({"Last-Event-ID": "1", "User-Agent": ""}, "", False),
    "is a page of another origin": ({"Last-Event-ID": "1", "Origin": "https://evil.example"}, "", False),
    "is no page": ({"Last-Event-ID": "1", "Origin": ""}, "", False),
    "is at another address": ({"Last-Event-ID": "1", "X-Forwarded-For": "192.0.2.2"}, "", False),
    "claims an address": ({"Last-Event-ID": "1", "X-Forwarded-For": "192.0.2.1, 192.0.2.2"}, "", False),
    "comes through two proxies": ({"Last-Event-ID": "1", "X-Forwarded-For": "192.0.2.1, 127.0.0.1"}, "", True),
}


@pytest.mark.parametrize("reader", READERS)
async def test_a_used_ticket_lets_its_reader_back_in_and_nobody_else(reader: str) -> None:
    more, query, good = READERS[reader]
    async with web(require_keys=True, trusted_proxies=("127.0.0.1",)) as app:
        signed = bearer(await SignedApp(app).key(ALL_SCOPES)).headers
        ticket = await issued(app, await conversation(app, signed), signed)
        first = {**HEAVY, "X-Forwarded-For": "192.0.2.1"}
        assert (await connect(app, ticket["url"], first)).status == 200
        answer = await connect(app, ticket["url"] + query, {**first, **more})
        if good:
            assert answer.status == 200
        else:
            assert (answer.status, answer.code) == (401, "ticket_used")
            assert (await connect(app, ticket["url"], {**first, "Last-Event-ID": "1"})).status == 200


@pytest.mark.parametrize("why", ["draining", "full"])
async def test_a_reader_that_is_sent_away_for_a_moment_can_come_back(why: str) -> None:
    """The refusal holds a position even for who sent none: the ticket lets nobody in again without one."""
    async with web(require_keys=True) as app:
        signed = bearer(await SignedApp(app).key(ALL_SCOPES)).headers
        address = await conversation(app, signed)
        for query, position in (("", "0"), ("&after=now", "now"), ("&after=1", "1")):
            ticket = await issued(app, address, signed)
            leases = [app.runtime.drain.enter() for _ in range(10)] if why == "full" else []
            app.runtime.drain.begun = why == "draining"
            answer = await connect(app, ticket["url"] + query)
            assert (answer.status, first_id(answer)) == (200, position)
            app.runtime.drain.begun = False
            for lease in leases:
                app.runtime.drain.leave(lease)
            again = await connect(app, ticket["url"] + query, seen=position)
            assert again.status == 200
            assert first_id(again) == {"now": "2"}.get(position, position)


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_reader_that_comes_back_ends_its_older_stream(transport: str, autojump_clock: MockClock) -> None:
    """So one ticket is one stream, whoever has learned of it."""
    async with web(require_keys=True) as app:
        signed = bearer(await SignedApp(app).key(ALL_SCOPES)).headers
        ticket = await issued(app, await conversation(app, signed), signed, transport=transport)
        path, _, query = ticket["url"].partition("?")
        ended: list[Answered] = []

        async def read() -> None:
            if transport == "sse":
                ended.append(await app.ask("GET", path, HEAVY, query=query, whole=True))
            else:
                ended.append(await app.upgrade(path, query=query, whole=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            assert not ended
            if transport == "sse":
                assert (await connect(app, ticket["url"], seen="2")).status == 200
            else:
                assert (await app.upgrade(path, query=query + "&after=2")).accepted
            await trio.sleep(0.1)
            assert len(ended) == 1
        if transport == "websocket":
            assert (ended[0].closed, ended[0].frames[-1]["code"]) == (4401, "ticket_used")
        else:
            assert ended[0].ended


async def test_an_unused_ticket_lasts_a_minute(autojump_clock: MockClock) -> None:
    async with web(require_keys=True) as app:
        signed = bearer(await SignedApp(app).key(ALL_SCOPES)).headers
        address = await conversation(app, signed)
        in_time, late = await issued(app, address, signed), await issued(app, address, signed)
        await trio.sleep(59)
        assert (await connect(app, in_time["url"])).status == 200
        await trio.sleep(2)
        assert (await connect(app, late["url"])).code == "expired_credential"
        await trio.sleep(120)
        assert (await connect(app, in_time["url"], seen="2")).status == 200


async def test_a_ticket_has_no_more_rights_than_its_maker() -> None:
    async with web(require_keys=True) as app:
        made = SignedApp(app)
        everybody = bearer(await made.key(ALL_SCOPES)).headers
        reader = bearer(await made.key(["read"])).headers
        address = await conversation(app, everybody)
        for scopes in (["write"], ["read", "write"], ["admin"]):
            answer = await app.post(f"{address}/tickets", {"scopes": scopes}, reader)
            assert (answer.status, answer.code) == (403, "scope_required")
        say = {"id": "c", "do": "post", "key": KEY, "role": "user", "content": "x"}
        ways: list[tuple[dict[str, str], list[str] | None, str | None]] = [
            (everybody, None, None),
            (everybody, ["read", "write"], None),
            (everybody, ["read"], "scope_required"),
            (reader, None, "scope_required"),
        ]
        for headers, wanted, code in ways:
            asked = {"transport": "websocket", **({} if wanted is None else {"scopes": wanted})}
            ticket = await issued(app, address, headers, **asked)
            answer = await app.upgrade(f"{address}/ws", query=f"ticket={ticket['ticket']}", texts=[say])
            assert answer.frames[-1].get("code") == code


@pytest.mark.parametrize(
    ("asked", "status", "field"),
    [
        ({"transport": "ndjson"}, 422, "transport"),
        ({"scopes": []}, 422, "scopes"),
        ({"scopes": ["everything"]}, 422, "scopes.0"),
        ({"scopes": "read"}, 422, "scopes"),
        ({"stream": "x"}, 422, "stream"),
        ({"transport": "websocket"}, 422, "transport"),
    ],
)
async def test_what_a_ticket_may_not_be(asked: dict[str, object], status: int, field: str) -> None:
    """Each with the field that is wrong; a generation has no WebSocket."""
    async with web(require_keys=True, fake=HUNG) as app:
        signed = bearer(await SignedApp(app).key(ALL_SCOPES)).headers
        run = await app.post("/v1/generations", {"model": "fake", "input": "x"}, signed)
        answer = await app.post(f"{run.headers['location']}/tickets", asked, signed)
        assert answer.status == status
        named = answer.json.get("field") or answer.json["errors"][0]["field"]
        assert named == field


async def test_where_nobody_has_to_sign_in_a_ticket_works_too() -> None:
    """So a page can always ask for one; and it ends when the first key is made."""
    async with web() as app:
        address = await conversation(app, {})
        ticket = await issued(app, address, {})
        answer = await connect(app, ticket["url"])
        assert (answer.status, first_id(answer)) == (200, "0")
        frames = sse.Parser().feed((await connect(app, ticket["url"], seen="0")).body)
        assert frames is not None
        await SignedApp(app).key(ALL_SCOPES)
        await app.authenticator.look_again()
        assert (await connect(app, ticket["url"], seen="2")).status == 401
