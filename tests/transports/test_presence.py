"""Presence over real sockets: who comes and goes is told to all, and troubles nobody's events."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from urllib.parse import quote

import pytest
import trio

from server.web.transports.websocket_endpoint import AUTHOR_MOST
from tests.clients.api import TERMINAL, Api
from tests.clients.raw_websocket import RawWebSocket
from tests.clients.websocket import Message, Talk, talk


def arriving(api: Api, conversation: str, author: str, after: object = 0) -> AbstractAsyncContextManager[Talk]:
    """Connects under a name."""
    return talk(api.port, conversation, f"{after}&author={quote(author)}")


def authors(frame: Message) -> list[str | None]:
    """Who is there."""
    return [one["author"] for one in frame["people"]]


async def until_there(socket: Talk, *expected: str | None) -> Message:
    """Reads on until just these are there."""
    while True:
        frame = await socket.until("presence")
        if authors(frame) == list(expected):
            return frame


async def test_it_is_told_after_hello_and_at_each_change(api: Api) -> None:
    """The names, who came first, which one is oneself; two of one name are two."""
    conversation = await api.conversation()
    async with arriving(api, conversation, "Ann") as ann:
        first = await ann.until("presence")
        assert [message["kind"] for message in ann.seen] == ["hello", "presence"]
        assert (authors(first), first["count"]) == (["Ann"], 1)
        assert first["you"] == first["people"][0]["connection"]
        async with talk(api.port, conversation) as nobody:
            told = await until_there(nobody, "Ann", None)
            assert (await until_there(ann, "Ann", None))["people"] == told["people"]
            assert (told["you"], told["count"]) == (told["people"][1]["connection"], 2)
            assert [one["by"] for one in told["people"]] == ["anonymous"] * 2
            assert told["people"] == sorted(told["people"], key=lambda one: one["since"])
            async with arriving(api, conversation, "Ann"):
                await until_there(ann, "Ann", None, "Ann")
            await until_there(ann, "Ann", None)
            await nobody.cut()
        assert (await until_there(ann, "Ann"))["people"] == first["people"]
        await ann.command("post", role="user", content="alone again")
    assert [event["type"] for event in await api.log(conversation)] == ["conversation.started", "message.posted"]


async def test_it_stays_in_its_conversation(api: Api) -> None:
    one, other = await api.conversation(), await api.conversation()
    async with arriving(api, one, "Ann") as ann:
        await ann.until("caught_up")
        async with arriving(api, other, "Bob") as bob:
            assert authors(await bob.until("presence")) == ["Bob"]
        await ann.command("post", role="user", content="who is there?")
        assert [message["kind"] for message in ann.seen].count("presence") == 1


@pytest.mark.parametrize(
    "author", ["Ann", "é\U0001f600 ", "a b&c=d+e", "x" * AUTHOR_MOST, "\u2028\x1b"], ids=ascii
)
async def test_names(api: Api, author: str) -> None:
    """As they came."""
    async with arriving(api, await api.conversation(), author) as socket:
        assert authors(await socket.until("presence")) == [author]


@pytest.mark.parametrize(
    ("author", "code"),
    [("", "invalid_author"), ("x" * (AUTHOR_MOST + 1), "invalid_author"), ("\0", "invalid_text")],
)
async def test_what_is_no_name_is_refused(api: Api, author: str, code: str) -> None:
    """Told and closed, as a bad cursor is; nobody sees them."""
    conversation = await api.conversation()
    async with arriving(api, conversation, "Ann") as ann:
        await ann.until("caught_up")
        async with arriving(api, conversation, author) as socket:
            assert (await socket.end())[0] == 4400
        assert [(message["kind"], message["code"]) for message in socket.seen] == [("error", code)]
        await ann.command("post", role="user", content="x")
        assert [message["kind"] for message in ann.seen].count("presence") == 1


async def test_frames_stay_whole_while_many_come_and_go(api: Api) -> None:
    """A reader of a running answer gets each event once, in order, and at last who is there."""
    conversation = await api.conversation()
    async with await RawWebSocket.open(api.port, f"{conversation}/ws?author=Ann") as reader:
        over = trio.Event()
        messages: list[Message] = []

        async def come_and_go(name: str) -> None:
            while not over.is_set():
                async with arriving(api, conversation, name, "now") as socket:
                    await socket.until("presence")

        async def read_to_the_end() -> None:
            while not any(one["kind"] == "event" and one["event"]["type"] in TERMINAL for one in messages):
                data = await reader.receive()
                assert data
                messages.extend(reader.feed(data))  # fails where bytes are no frames
            over.set()

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(come_and_go, f"P{number}")
            await api.generate(conversation, tokens=600, rate=400)
            with trio.fail_after(30):
                await read_to_the_end()
        with trio.fail_after(10):
            while authors([one for one in messages if one["kind"] == "presence"][-1]) != ["Ann"]:
                messages.extend(reader.feed(await reader.receive()))
    kinds = {one["kind"] for one in messages}
    assert kinds == {"hello", "presence", "event", "caught_up"}
    assert [one["event"] for one in messages if one["kind"] == "event"] == await api.log(conversation)
    assert len([one for one in messages if one["kind"] == "presence"]) > 4


async def test_who_does_not_read_gets_the_newest_only(api: Api) -> None:
    """Behind more than any socket holds, a hundred changes are one frame; the others are told meanwhile."""
    conversation = await api.conversation()
    for _ in range(16):
        await api.message(conversation, content="x" * 900_000)
    async with AsyncExitStack() as stack:
        stalled = await stack.enter_async_context(
            await RawWebSocket.open(api.port, f"{conversation}/ws?author=Ann")
        )
        watcher = await stack.enter_async_context(arriving(api, conversation, "Bob", "now"))
        await until_there(watcher, "Ann", "Bob")
        heard = b""
        while b'"kind":"event"' not in heard:  # then the rest is on its way, and stays there
            heard += await stalled.receive()
        for number in range(50):
            async with arriving(api, conversation, f"P{number}", "now"):
                await until_there(watcher, "Ann", "Bob", f"P{number}")
        await until_there(watcher, "Ann", "Bob")
        messages = stalled.feed(heard)
        with trio.fail_after(30):
            while "caught_up" not in [one["kind"] for one in messages]:
                messages += stalled.feed(await stalled.receive())
            while authors([one for one in messages if one["kind"] == "presence"][-1]) != ["Ann", "Bob"]:
                messages += stalled.feed(await stalled.receive())
    told = [authors(one) for one in messages if one["kind"] == "presence"]
    assert told[0] == ["Ann"]
    # One for each of the changes that fell between two of the seventeen events; not one for each of the hundred.
    assert len(told) <= 2 + 17, told
    assert [one["event"]["position"] for one in messages if one["kind"] == "event"] == list(range(1, 18))


async def test_those_who_are_stopped_are_gone(api: Api) -> None:
    """However a connection ends: a close, a cut, a frame that is not text."""
    conversation = await api.conversation()
    async with arriving(api, conversation, "Ann") as ann:
        for number in range(3):
            async with arriving(api, conversation, "Bob") as bob:
                await until_there(ann, "Ann", "Bob")
                if number == 0:
                    await bob.cut()
                elif number == 1:
                    await bob.connection.send_message(b"\0")
                    assert (await bob.end())[0] == 1003
            await until_there(ann, "Ann")
        ids = {one["connection"] for frame in ann.seen if frame["kind"] == "presence" for one in frame["people"]}
        assert len(ids) == 4
        assert all(re.fullmatch("[0-9a-f]{12}", one) for one in ids)
