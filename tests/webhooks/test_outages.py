"""Webhooks through outages of the store, trimmed and erased logs and internal errors; and what is logged."""

import json
from typing import Any

import trio
from trio.testing import MockClock

from eventstore import Append, NewEvent
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.webhooks import delivery
from tests.generations.unreliable_logs import Forgetful

from .receiver import Receiver
from .webhook_process import (
    CONVERSATION,
    GENERATION,
    HOOK,
    OPTIONS,
    PATH_SECRET,
    PLAIN_URL,
    Process,
    process,
    types,
)

ENDS = [
    event_types.generation_completed(GENERATION, "stop", {"output_tokens": 3}, 12),
    event_types.generation_failed(GENERATION, "upstream_cut", "It broke.", retryable=True),
    event_types.generation_cancelled(GENERATION, None, "anonymous"),
]


async def test_store_outage_at_any_time_delivers_once(autojump_clock: MockClock) -> None:
    """While it waits for the end, before a try, and before the record of a try."""
    log = MemoryBackend()

    async def then_away(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n")
        log.available = False

    receiving = Receiver(then_away, 200)
    async with receiving.in_memory() as receiver, process(log.process(), receiver.connect, patience=2.0) as here:
        await here.register()
        log.available = False
        await trio.sleep(100)
        log.available = True
        await trio.sleep(10)
        await here.end()
        await receiver.got(1)
        await trio.sleep(1_000)
        log.available = True
        found = await here.ended()
    assert [one.status for one in found.tries] == [500, 200]
    assert len(receiver.posts) == 2


async def test_lost_store_answers_duplicate_nothing(autojump_clock: MockClock) -> None:
    """Neither the registration nor a record."""
    log = MemoryBackend()
    forgetful = Forgetful(log.process())
    receiving = Receiver(500, 200)
    async with receiving.in_memory() as receiver, process(forgetful, receiver.connect, patience=0.2) as here:
        forgetful.losing = 1
        await here.register()
        assert forgetful.forgot
        await here.end()
        forgetful.losing = 4
        assert [one.status for one in (await here.ended()).tries] == [500, 200]
        assert forgetful.losing == 0
    assert types(log).count("webhook.tried") == 2
    assert len(receiver.posts) == 2


async def test_end_is_found_in_a_trimmed_log(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.request()
        await here.write(*[event_types.token(GENERATION, "x")] * 50)
        await here.store.trim(CONVERSATION, 40)
        here.webhooks.start(GENERATION)
        await trio.sleep(5)
        await here.end()
        assert (await here.ended()).status == "delivered"
    assert receiver.posts[0].verified()["data"]["position"] == 53


async def test_end_is_found_where_only_it_is_left(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.request()
        await here.write(*[event_types.token(GENERATION, "x")] * 5)
        await here.end()
        await here.store.trim(CONVERSATION, 8)
        here.webhooks.start(GENERATION)
        assert (await here.ended()).status == "delivered"


async def test_trimmed_end_gives_up(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.request()
        await here.end()
        await here.write(*[event_types.message_posted("msg_1", "user", "hi", None, "me")] * 20)
        await here.store.trim(CONVERSATION, 15)
        here.webhooks.start(GENERATION)
        found = await here.ended()
    assert (found.status, found.reason, found.tries) == ("gave_up", delivery.EXPIRED, [])
    assert receiver.posts == []


async def test_erased_conversation_gives_up(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.request()
        await here.end()
        await trio.sleep(10)
        assert await here.store.erase_streams("conversation", 5) == [CONVERSATION]
        here.webhooks.start(GENERATION)
        found = await here.ended()
    assert (found.status, found.reason) == ("gave_up", delivery.EXPIRED)


async def test_internal_error_leaves_other_webhooks_alone(
    lines: list[dict[str, Any]], autojump_clock: MockClock
) -> None:
    """The process goes on, and the broken webhook is left alone for a while."""
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        await here.request()
        broken = NewEvent("webhook.tried", json.dumps({"what": PATH_SECRET}))
        await here.store.append(Append(HOOK, (broken,)))
        here.webhooks.start(GENERATION)
        await trio.sleep(10)
        assert here.webhooks.unattended.keys() == {HOOK}
        assert await assert_other_webhook_ends(here) == "delivered"
    assert len(receiver.posts) == 1
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["why"], line["webhook"]) == ("webhook crashed", "KeyError", HOOK)


async def assert_other_webhook_ends(here: Process) -> str:
    """Another webhook is delivered to its end."""
    await here.webhooks.register("gen_2", "conv_2", PLAIN_URL)
    await here.request("gen_2", "conv_2")
    here.webhooks.start("gen_2")
    await here.end(generation="gen_2", conversation="conv_2")
    return (await here.ended("gen_2")).status


async def test_one_log_line_a_webhook(lines: list[dict[str, Any]], autojump_clock: MockClock) -> None:
    """With its ids. The fixture checks that no line holds the URL or the secret."""
    log = MemoryBackend()
    async with Receiver(500, 410).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register()
        await here.end()
        await here.ended()
        await assert_other_webhook_ends(here)
    told = {line["generation"]: line for line in lines}
    assert len(lines) == len(told) == 2
    assert told[GENERATION]["event"] == "webhook given up"
    assert (told[GENERATION]["conversation"], told[GENERATION]["webhook"]) == (CONVERSATION, HOOK)
    assert (told[GENERATION]["attempts"], told[GENERATION]["why"]) == (2, delivery.GONE)


async def test_reprs_hold_no_secrets(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        await here.webhooks.register(GENERATION, CONVERSATION, PLAIN_URL)
        hook = await delivery.read_webhook(here.store, HOOK)
        found = await here.webhooks.snapshot(GENERATION)
    for text in (repr(hook), repr(found), repr(OPTIONS), str(OPTIONS.secret)):
        assert PATH_SECRET not in text
        assert "MfKQ9r8" not in text
