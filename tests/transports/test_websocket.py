"""WebSockets: order of messages, commands and replies, resync, and commands that act once."""

from __future__ import annotations

import json

import pytest

from tests.clients.api import TERMINAL, Api, Event, demo, new_key
from tests.clients.http1 import Connection
from tests.clients.websocket import Message, Talk, talk


def positions(events: list[Event]) -> list[int]:
    """Positions of these events."""
    return [event["position"] for event in events]


@pytest.mark.parametrize(("after", "start"), [(None, 0), (0, 0), (3, 3), ("now", 9), (9, 9)])
async def test_hello_presence_events_and_caught_up_come_in_order(api: Api, after: object, start: int) -> None:
    """Events that are appended later follow."""
    conversation = await api.conversation()
    await api.finished(await api.generate(conversation))
    log = await api.log(conversation)
    async with talk(api.port, conversation, after) as socket:
        await socket.until("caught_up")
        hello = {"kind": "hello", "conversation": conversation.rpartition("/")[2], "after": start, "head": 9}
        told = [{"kind": "event", "event": event} for event in log[start:]]
        assert socket.seen[1]["kind"] == "presence"
        assert [socket.seen[0], *socket.seen[2:]] == [hello, *told, {"kind": "caught_up", "position": 9}]
        message = await api.message(conversation)
        assert await socket.receive() == {"kind": "event", "event": message}


async def test_subprotocol_is_optional_and_echoed_when_offered(api: Api) -> None:
    """One that was not offered is never sent."""
    conversation = await api.conversation()
    async with talk(api.port, conversation) as socket:
        assert socket.connection.subprotocol is None
    async with talk(api.port, conversation, subprotocols=["tokentape.v1"]) as socket:
        assert socket.connection.subprotocol == "tokentape.v1"
    async with talk(api.port, conversation, subprotocols=["other", "tokentape.v1"]) as socket:
        assert socket.connection.subprotocol == "tokentape.v1"
        await socket.until("caught_up")


async def test_compression_is_declined(api: Api) -> None:
    """It costs hundreds of kilobytes a connection, and inflates messages before any size limit applies."""
    conversation = await api.conversation()
    connection = await Connection.open(api.port)
    try:
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", **key}
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
        head = await connection.ask("GET", f"{conversation}/ws", {**upgrade, **offer})
        assert head.status == 101
        assert "sec-websocket-extensions" not in head.headers
    finally:
        await connection.close()


async def test_commands_have_the_effect_of_the_posts(api: Api) -> None:
    """Each reply has the status, location and body of the POST."""
    conversation = await api.conversation()
    async with talk(api.port, conversation) as socket:
        posted = await socket.command("post", role="user", content="é\U0001f600", author="Ada")
        assert (posted["kind"], posted["status"]) == ("reply", 201)
        asked = await socket.command("generate", **demo(1000, 1))
        assert (asked["status"], asked["location"].startswith("/v1/generations/")) == (202, True)
        generation = asked["body"]["id"]
        assert asked["body"]["conversation"] == conversation.rpartition("/")[2]
        await socket.until_event("token")
        cancelled = await socket.command("cancel", generation=generation, reason="enough")
        assert (cancelled["status"], cancelled["body"]["status"]) == (200, "cancelled")
        assert "upstream_closed" in cancelled["body"]
        head = cancelled["body"]["position"]
        while not socket.events or socket.events[-1]["position"] < head:
            await socket.receive()
    log = await api.log(conversation)
    assert socket.events == log
    assert posted["body"] == log[1]
    assert (log[1]["content"], log[1]["author"]) == ("é\U0001f600", "Ada")
    assert (log[-1]["type"], log[-1]["reason"]) == ("generation.cancelled", "enough")


async def test_refused_command_gets_an_error_with_its_id(api: Api) -> None:
    """Nothing is appended, and the connection stays open."""
    conversation = await api.conversation()
    async with api.busy(conversation), talk(api.port, conversation, "now") as socket:
        refused = [
            (await socket.command("generate", **demo()), "generation_running"),
            (await socket.command("cancel", generation="gen_unknown"), "not_found"),
            (await socket.command("post", role="user"), None),
            (await socket.command("post", role="user", content="\0"), None),
            (await socket.command("fly"), None),
            (await socket.command("resync", after=10_000), "cursor_ahead"),
            (await socket.command("resync", after=-1), "invalid_cursor"),
            (await socket.command("post", key="short", role="user", content="x"), None),
        ]
        for message, code in refused:
            assert message["kind"] == "error", message
            assert "id" in message, message
            assert message["code"] == (code or message["code"])
            assert message["detail"]
        assert (await socket.command("post", role="user", content="x"))["status"] == 201
    assert [event["type"] for event in await api.log(conversation)].count("message.posted") == 1


async def test_resync_replays_from_the_new_cursor(api: Api) -> None:
    """The reply, then every event after the cursor, then `caught_up` again."""
    conversation = await api.conversation()
    await api.finished(await api.generate(conversation))
    log = await api.log(conversation)
    async with talk(api.port, conversation, "now") as socket:
        await socket.until("caught_up")
        for after in (0, 5, 0, 9):
            before = len(socket.seen)
            reply = await socket.command("resync", after=after)
            assert (reply["kind"], reply["status"]) == ("reply", 200)
            await socket.until("caught_up")
            told = [{"kind": "event", "event": event} for event in log[after:]]
            assert socket.seen[before:] == [reply, *told, {"kind": "caught_up", "position": 9}]


async def test_resync_during_a_run_leaves_no_gap(api: Api) -> None:
    """After each reply the events continue from the new cursor."""
    conversation = await api.conversation()
    async with talk(api.port, conversation) as socket:
        await socket.command("generate", **demo(150, 150))
        replies: list[tuple[Message, int]] = []
        for after in (0, 3, 1, 2, 0):
            while not socket.events or socket.events[-1]["position"] < 30 + 10 * len(replies):
                await socket.receive()
            replies.append(((await socket.command("resync", after=after)), after))
        await socket.until_event(*TERMINAL)
    starts = [socket.seen.index(reply) for reply, _ in replies]
    for start, end, (_, after) in zip(starts, [*starts[1:], None], replies, strict=True):
        part = [message["event"] for message in socket.seen[start:end] if message["kind"] == "event"]
        assert positions(part) == list(range(after + 1, after + 1 + len(part)))
    assert part == await api.log(conversation)


async def test_pipelined_resyncs_are_all_answered_and_the_last_wins(api: Api) -> None:
    """Each reply comes before the first event after its cursor."""
    conversation = await api.conversation()
    await api.finished(await api.generate(conversation, tokens=200))
    log = await api.log(conversation)
    async with talk(api.port, conversation) as socket:
        for number in range(20):
            await socket.send({"id": f"r{number}", "key": new_key(), "do": "resync", "after": number})
        await socket.until("reply", id="r19")
        start = len(socket.seen)
        await socket.until("caught_up", position=len(log))
    told = [message["event"] for message in socket.seen[start:-1]]
    assert told == log[19:]
    replies = [message["id"] for message in socket.seen if message["kind"] == "reply"]
    assert replies == [f"r{number}" for number in range(20)]


async def test_key_acts_once_across_connections_and_post(api: Api) -> None:
    """Repeated on this connection, on the next, and by POST, it gets the first response; nothing is appended."""
    conversation = await api.conversation()
    post, generate = {"role": "user", "content": "once"}, demo(3)
    keys = new_key(), new_key()

    async def send_both(socket: Talk) -> list[Message]:
        answers = [
            await socket.command("post", key=keys[0], **post),
            await socket.command("generate", key=keys[1], **generate),
        ]
        return [{"status": answer["status"], "body": answer["body"]["position"]} for answer in answers]

    async with talk(api.port, conversation) as socket:
        first = await send_both(socket)
        generation = await socket.until_event(*TERMINAL)
        assert await send_both(socket) == first
    async with talk(api.port, conversation) as socket:
        assert await send_both(socket) == first
    again = await api.post(f"{conversation}/messages", post, idempotency_key=keys[0])
    assert (again.status_code, again.json()["position"]) == (201, first[0]["body"])
    again = await api.post(f"{conversation}/generations", generate, idempotency_key=keys[1])
    assert (again.status_code, again.json()["id"]) == (202, generation["generation"])
    assert len(await api.log(conversation)) == 1 + 1 + 6


async def test_key_of_a_post_acts_once_on_a_websocket(api: Api) -> None:
    """Another body with it is refused."""
    conversation, key = await api.conversation(), new_key()
    first = await api.post(f"{conversation}/messages", {"content": "x", "role": "user"}, idempotency_key=key)
    async with talk(api.port, conversation) as socket:
        reply = await socket.command("post", key=key, role="user", content="x")
        assert (reply["status"], reply["body"]) == (201, first.json())
        error = await socket.command("post", key=key, role="user", content="y")
        assert error["kind"] == "error"
    assert len(await api.log(conversation)) == 2


async def test_repeated_command_after_a_lost_reply_acts_once(api: Api) -> None:
    """The connection is cut right after the command is sent."""
    conversation = await api.conversation()
    for number in range(10):
        key, fields = new_key(), {"role": "user", "content": str(number)}
        async with talk(api.port, conversation, "now") as socket:
            await socket.send({"id": "lost", "key": key, "do": "post", **fields})
            await socket.cut()
        async with talk(api.port, conversation, "now") as socket:
            assert (await socket.command("post", key=key, **fields))["status"] == 201
    contents = [event["content"] for event in await api.log(conversation) if event["type"] == "message.posted"]
    assert contents == [str(number) for number in range(10)]


async def test_two_people_see_the_same_events(api: Api) -> None:
    conversation = await api.conversation()
    async with talk(api.port, conversation) as one, talk(api.port, conversation) as two:
        for number in range(5):
            await one.command("post", role="user", content=f"one {number}")
            await two.command("post", role="user", content=f"two {number}")
        for socket in (one, two):
            while len(socket.events) < 11:
                await socket.receive()
        assert one.events == two.events == await api.log(conversation)
        assert json.dumps(one.events[-1]).count("two 4") == 1
