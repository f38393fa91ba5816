"""Presence over real sockets: everybody learns who joins and leaves a conversation.

Presence frames must not disturb event frames, and a stalled reader must not pile them up.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from urllib.parse import quote

import pytest
import trio

from server.web.transports.websocket_endpoint import MAX_AUTHOR
from tests.clients.api import TERMINAL, Api
from tests.clients.raw_websocket import RawWebSocket
from tests.clients.websocket import Message, Talk, talk


def join(api: Api, conversation: str, author: str, after: object = 0) -> AbstractAsyncContextManager[Talk]:
    """Connects under this name."""
    return talk(api.port, conversation, f"{after}&author={quote(author)}")


def authors(frame: Message) -> list[str | None]:
    """Names of the people in the frame."""
    return [one["author"] for one in frame["people"]]


async def wait_for_people(socket: Talk, *expected: str | None) -> Message:
    """Reads until exactly these people are present."""
    while True:
        frame = await socket.until("presence")
        if authors(frame) == list(expected):
            return frame


async def test_presence_follows_hello_and_every_change(api: Api) -> None:
    """In order of arrival, with one's own connection; two people of one name are two."""
    conversation = await api.conversation()
    async with join(api, conversation, "Ann") as ann:
        first = await ann.until("presence")
        assert [message["kind"] for message in ann.seen] == ["hello", "presence"]
        assert (authors(first), first["count"]) == (["Ann"], 1)
        assert first["you"] == first["people"][0]["connection"]
        async with talk(api.port, conversation) as nobody:
            told = await wait_for_people(nobody, "Ann", None)
            assert (await wait_for_people(ann, "Ann", None))["people"] == told["people"]
            assert (told["you"], told["count"]) == (told["people"][1]["connection"], 2)
            assert [one["by"] for one in told["people"]] == ["anonymous"] * 2
            assert told["people"] == sorted(told["people"], key=lambda one: one["since"])
            async with join(api, conversation, "Ann"):
                await wait_for_people(ann, "Ann", None, "Ann")
            await wait_for_people(ann, "Ann", None)
            await nobody.cut()
        assert (await wait_for_people(ann, "Ann"))["people"] == first["people"]
        await ann.command("post", role="user", content="alone again")
    assert [event["type"] for event in await api.log(conversation)] == ["conversation.started", "message.posted"]


async def test_presence_is_limited_to_its_conversation(api: Api) -> None:
    one, other = await api.conversation(), await api.conversation()
    async with join(api, one, "Ann") as ann:
        await ann.until("caught_up")
        async with join(api, other, "Bob") as bob:
            assert authors(await bob.until("presence")) == ["Bob"]
        await ann.command("post", role="user", content="who is there?")
        assert [message["kind"] for message in ann.seen].count("presence") == 1


@pytest.mark.parametrize("author", ["Ann", "é\U0001f600 ", "a b&c=d+e", "x" * MAX_AUTHOR, "\u2028\x1b"], ids=ascii)
async def test_names_are_reported_unchanged(api: Api, author: str) -> None:
    async with join(api, await api.conversation(), author) as socket:
        assert authors(await socket.until("presence")) == [author]


@pytest.mark.parametrize(
    ("author", "code"),
    [("", "invalid_author"), ("x" * (MAX_AUTHOR + 1), "invalid_author"), ("\0", "invalid_text")],
)
async def test_invalid_name_closes_with_4400(api: Api, author: str, code: str) -> None:
    """Nobody else sees the person."""
    conversation = await api.conversation()
    async with join(api, conversation, "Ann") as ann:
        await ann.until("caught_up")
        async with join(api, conversation, author) as socket:
            assert (await socket.end())[0] == 4400
        assert [(message["kind"], message["code"]) for message in socket.seen] == [("error", code)]
        await ann.command("post", role="user", content="x")
        assert [message["kind"] for message in ann.seen].count("presence") == 1


async def test_events_stay_complete_while_people_join_and_leave(api: Api) -> None:
    """Each event once, in order, and at the end the current presence."""
    conversation = await api.conversation()
    async with await RawWebSocket.open(api.port, f"{conversation}/ws?author=Ann") as reader:
        over = trio.Event()
        messages: list[Message] = []

        async def come_and_go(name: str) -> None:
            while not over.is_set():
                async with join(api, conversation, name, "now") as socket:
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


async def test_stalled_reader_gets_only_the_newest_presence(api: Api) -> None:
    """A hundred changes become one frame; others are told meanwhile."""
    conversation = await api.conversation()
    for _ in range(16):
        await api.message(conversation, content="x" * 900_000)
    async with AsyncExitStack() as stack:
        stalled = await stack.enter_async_context(
            await RawWebSocket.open(api.port, f"{conversation}/ws?author=Ann")
        )
        watcher = await stack.enter_async_context(join(api, conversation, "Bob", "now"))
        await wait_for_people(watcher, "Ann", "Bob")
        heard = b""
        while b'"kind":"event"' not in heard:  # then the rest is on its way, and stays there
            heard += await stalled.receive()
        for number in range(50):
            async with join(api, conversation, f"P{number}", "now"):
                await wait_for_people(watcher, "Ann", "Bob", f"P{number}")
        await wait_for_people(watcher, "Ann", "Bob")
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


async def test_person_leaves_however_the_connection_ends(api: Api) -> None:
    """By a close, a cut, or a frame that is not text."""
    conversation = await api.conversation()
    async with join(api, conversation, "Ann") as ann:
        for number in range(3):
            async with join(api, conversation, "Bob") as bob:
                await wait_for_people(ann, "Ann", "Bob")
                if number == 0:
                    await bob.cut()
                elif number == 1:
                    await bob.connection.send_message(b"\0")
                    assert (await bob.end())[0] == 1003
            await wait_for_people(ann, "Ann")
        ids = {one["connection"] for frame in ann.seen if frame["kind"] == "presence" for one in frame["people"]}
        assert len(ids) == 4
        assert all(re.fullmatch("[0-9a-f]{12}", one) for one in ids)
