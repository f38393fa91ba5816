"""Delivery of a webhook: from the end of the generation to the receiver's success or the last try."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from eventstore import Event, NewEvent
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.config.web_addresses import PublicUrl
from server.webhooks import delivery, webhook_messages
from server.webhooks.retry_schedule import SCHEDULE
from server.wire_formats import encode_event
from tests.generations.unreliable_logs import events_of

from .receiver import Receiver, silence
from .webhook_post import nowhere
from .webhook_process import (
    CONVERSATION,
    GENERATION,
    HOOK,
    NAMED_URL,
    OPTIONS,
    PATH_SECRET,
    PLAIN_URL,
    PUBLIC,
    FakeResolver,
    process,
    types,
)

ENDS = [
    event_types.generation_completed(GENERATION, "stop", {"output_tokens": 3}, 12),
    event_types.generation_failed(GENERATION, "upstream_cut", "It broke.", retryable=True),
    event_types.generation_cancelled(GENERATION, None, "anonymous"),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.type)
async def test_delivery_is_signed(end: NewEvent, autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register()
        await here.write(event_types.token(GENERATION, "Hi"))
        await here.end(end)
        found = await here.ended()
    assert (found.status, found.url, found.reason) == ("delivered", f"http://{PUBLIC}:8080", None)
    (one,) = found.tries
    assert (one.attempt, one.status, one.error, one.ms) == (1, 200, None, 0)
    (got,) = receiver.posts
    assert got.line == f"POST /{PATH_SECRET} HTTP/1.1"
    assert got.headers["webhook-id"] == "msg_1"
    body = got.verified()
    event = events_of(log, CONVERSATION)[-1]
    assert body["type"] == end.type
    assert datetime.fromisoformat(body["timestamp"]) == event.at
    assert body["data"] == {
        "generation": GENERATION,
        "conversation": CONVERSATION,
        "position": 4,
        "event": json.loads(encode_event(event)),
        "snapshot": f"/v1/generations/{GENERATION}",
    }
    assert types(log) == ["webhook.requested", "webhook.tried", "webhook.delivered"]
    assert is_closed(log)


def test_body_holds_an_absolute_url() -> None:
    """The receiver made no request, so it cannot resolve a path."""
    event = Event(4, "generation.completed", datetime(2026, 11, 22, tzinfo=UTC), GENERATION, "{}")
    for url, start in (
        (None, ""),
        ("https://example.org", "https://example.org"),
        ("https://example.org/tape/", "https://example.org/tape"),
    ):
        told = json.loads(webhook_messages.end_body(GENERATION, CONVERSATION, event, PublicUrl(url)))
        assert told["data"]["snapshot"] == f"{start}/v1/generations/{GENERATION}"


def is_closed(log: MemoryBackend, stream: str = HOOK) -> bool:
    """Whether the webhook's writer is closed, so that no recovery finds it."""
    return log.streams[stream].writers[stream].closed


async def test_nothing_is_sent_before_the_end(autojump_clock: MockClock) -> None:
    """The end of another generation sends nothing either."""
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register()
        await here.write(
            event_types.generation_started(GENERATION, 1, "w"), *[event_types.token(GENERATION, "x")] * 2_000
        )
        await here.write(event_types.generation_completed("gen_2", "stop", None, None))
        await trio.sleep(10_000)
        assert receiver.posts == []
        await here.end()
        await here.ended()
    assert json.loads(receiver.posts[0].body)["data"]["event"]["usage"] == {"output_tokens": 3}


async def test_growing_log_is_read_at_intervals(autojump_clock: MockClock) -> None:
    """Waking at every token would cost as much as a reader."""
    log, options = MemoryBackend(), replace(OPTIONS, pause=1.0)
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect, options) as here:
        await here.register()
        tails = here.store.stats().tail_hits + here.store.stats().tail_misses
        for _ in range(500):
            await here.write(event_types.token(GENERATION, "x"))
            await trio.sleep(0.02)
        looks = here.store.stats().tail_hits + here.store.stats().tail_misses - tails
        assert 5 <= looks <= 25
        await here.end()
        await here.ended()


async def test_retry_times(autojump_clock: MockClock) -> None:
    """The times of Standard Webhooks, one record for each try, then no more."""
    log = MemoryBackend()
    answers: list[Any] = [500, 404, 302, silence, b"nonsense\r\n", 503]
    async with Receiver(*answers, 429).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register()
        await trio.sleep(1_000)
        ended_at = trio.current_time()
        await here.end()
        found = await here.ended()
        await trio.sleep(86_000)
    assert (found.status, found.reason) == ("gave_up", delivery.USED_UP)
    assert [one.attempt for one in found.tries] == list(range(1, 8))
    assert [one.status or one.error for one in found.tries] == [500, 404, 302, "timeout", "malformed", 503, 429]
    assert [one.ms for one in found.tries] == [0, 0, 0, 15_000, 0, 0, 0]
    assert len(receiver.posts) == len(SCHEDULE) == 7
    at = [post.at - ended_at for post in receiver.posts]
    waited = [second - first for first, second in pairwise(at)]
    expected = [*SCHEDULE[1:4], SCHEDULE[4] + 15, *SCHEDULE[5:]]
    assert at[0] == pytest.approx(0, abs=1)
    assert waited == pytest.approx(expected, abs=1)
    assert types(log)[-2:] == ["webhook.tried", "webhook.gave_up"]
    assert json.loads(events_of(log, HOOK)[-1].data) == {"attempts": 7, "reason": delivery.USED_UP}
    assert is_closed(log)
    assert here.webhooks.counter.counts == {("delivered",): 0, ("failed",): 7, ("gave_up",): 1}


async def test_tries_share_one_message_id(autojump_clock: MockClock) -> None:
    """Id and body are the same; each try has its own timestamp and signature."""
    log = MemoryBackend()
    async with Receiver(500, 500, 200).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register()
        await here.end()
        await here.ended()
    assert {post.headers["webhook-id"] for post in receiver.posts} == {"msg_1"}
    assert len({post.body for post in receiver.posts}) == 1
    assert [post.verified()["type"] for post in receiver.posts] == ["generation.completed"] * 3
    assert here.webhooks.counter.counts == {("delivered",): 1, ("failed",): 2, ("gave_up",): 0}
    assert len(here.webhooks) == 0


async def test_retries_are_jittered(autojump_clock: MockClock) -> None:
    """So that a receiver that was down does not get all retries at once."""
    log, options = MemoryBackend(), replace(OPTIONS, schedule=(0.0, 100.0), jitter=0.5)
    async with Receiver(500).in_memory() as receiver, process(log.process(), receiver.connect, options) as here:
        for number in range(30):
            generation, conversation = f"gen_{number}", f"conv_{number}"
            await here.webhooks.register(generation, conversation, PLAIN_URL)
            await here.request(generation, conversation)
            here.webhooks.start(generation)
            await here.end(generation=generation, conversation=conversation)
        await receiver.got(60)
    at = sorted(post.at for post in receiver.posts)
    start = at[0]
    second = [moment - start for moment in at[30:]]
    assert all(100 <= wait <= 152 for wait in second)
    assert second[-1] - second[0] > 15


async def test_status_410_ends_the_retries(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with Receiver(500, 410).in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register()
        await here.end()
        found = await here.ended()
        await trio.sleep(86_000)
    assert (found.status, found.reason, len(found.tries)) == ("gave_up", delivery.GONE, 2)
    assert len(receiver.posts) == 2


async def test_private_address_behind_a_name_is_recorded(autojump_clock: MockClock) -> None:
    names = FakeResolver(hooks_example=[["127.0.0.1"], [PUBLIC]])
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register(NAMED_URL)
        await here.end()
        found = await here.ended()
    assert [(one.status, one.error) for one in found.tries] == [(None, "no_allowed_address"), (200, None)]
    assert receiver.connected == [(PUBLIC, 8080)]
    assert len(names.asked) == 2


async def test_internal_and_unknown_names_look_the_same(
    autojump_clock: MockClock,
) -> None:
    """Both give one error code, no duration and the same time; the server's log has the cause."""
    shown, causes = [], []
    cases: list[dict[str, list[list[str]]]] = [
        {},
        {"hooks_example": [["10.0.0.1"]]},
        {"hooks_example": [["168.63.129.16"]]},
    ]
    for answers in cases:
        FakeResolver(**answers)
        with capture_logs() as lines:
            async with process(MemoryBackend().process(), nowhere) as here:
                start = trio.current_time()
                await here.register(NAMED_URL)
                await here.end()
                with trio.fail_after(60):
                    while not (found := await here.webhooks.snapshot(GENERATION)) or not found.tries:
                        await trio.sleep(0.01)
                first = found.tries[0]
                shown.append((first.status, first.error, first.ms, round(trio.current_time() - start, 1)))
        assert PATH_SECRET not in str(lines)
        causes += [line["why"] for line in lines if line["event"] == "webhook has nowhere to go"]
    assert shown == [(None, "no_allowed_address", 0, 5.0)] * 3
    assert causes == ["name_not_found", "private_address", "private_address"]


async def test_too_large_event_is_left_out_of_the_body(autojump_clock: MockClock) -> None:
    """The receiver fetches the snapshot instead."""
    end = event_types.generation_failed(GENERATION, "upstream_error", "x" * 200_000, retryable=False)
    log = MemoryBackend()
    async with Receiver().in_memory() as receiver, process(log.process(), receiver.connect) as here:
        await here.register()
        await here.end(end)
        await here.ended()
    body = receiver.posts[0].verified()
    assert (body["type"], body["data"]["event"]) == ("generation.failed", None)
    assert len(receiver.posts[0].body) < 1_000


async def test_concurrent_tries_are_bounded(autojump_clock: MockClock) -> None:
    log, options = MemoryBackend(), replace(OPTIONS, most_at_once=3)

    async def slow(stream: trio.abc.Stream) -> None:
        await trio.sleep(2)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with Receiver(slow).in_memory() as receiver, process(log.process(), receiver.connect, options) as here:
        for number in range(10):
            await here.webhooks.register(f"gen_{number}", f"conv_{number}", PLAIN_URL)
            await here.request(f"gen_{number}", f"conv_{number}")
            here.webhooks.start(f"gen_{number}")
            await here.end(generation=f"gen_{number}", conversation=f"conv_{number}")
        for number in range(10):
            assert (await here.ended(f"gen_{number}")).status == "delivered"
    assert receiver.most_under_way == 3
