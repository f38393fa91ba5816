"""Two people and a running workflow write to one conversation, 200 times in random order.

Readers on all transports must see the log, and the workflow must have known, at each word it wrote, the
messages and steering before it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest
import trio

from tests.clients import readers
from tests.clients.api import Api, Event
from tests.clients.http1 import Connection
from tests.clients.websocket import Talk, talk
from tests.harness.servers import Server

from .command_clients import start_run, wait_until
from .event_checks import check_log

CONVERSATIONS, PART = 200, 50
AT_ONCE = 20
PATIENCE = 100.0
CUE, LAST = "And?", "That was all."


def over(events: Sequence[Event]) -> bool:
    """Whether the last message has been read."""
    return bool(events) and events[-1].get("content") == LAST


async def person(socket: Talk, generation: str, rng: random.Random) -> None:
    """Posts and steers a few times at random moments."""
    for number in range(rng.randint(1, 3)):
        await trio.sleep(rng.random() * 0.03)
        if rng.random() < 0.5:
            answer = await socket.command("post", role="user", content=f"word {number}")
            assert answer["status"] == 201, answer
        else:
            name = generation.rpartition("/")[2]
            value = rng.randrange(1_000_000)
            answer = await socket.command("steer", generation=name, name="strictness", value=value)
            assert answer["status"] == 200 or answer["code"] == "generation_ended", answer


async def poll(port: int, conversation: str, wait: float, rng: random.Random) -> list[Event]:
    """Reads by pages of random size, held or repeated."""
    events: list[Event] = []
    after = 0
    async with await Connection.open(port) as connection:
        while not over(events):
            query = f"after={after}&limit={rng.randint(1, 12)}&wait={wait}"
            head = await connection.ask("GET", f"{conversation}/events?{query}")
            page = json.loads(await connection.body())
            assert head.status == 200, page
            events += page["events"]
            after = page["next"]
            if page["up_to_date"]:
                await trio.sleep(rng.random() * (0.05 if wait else 0.2))
    return events


async def run_conversation(api: Api, seed: int) -> None:
    """Runs one conversation and compares what each reader got with the log."""
    rng = random.Random(f"interleaved {seed}")
    conversation = await api.conversation()
    found: list[list[Event]] = []

    async def follow(read: readers.Reader) -> None:
        found.append(await read(api.port, conversation, 0, over, trio.Event()))

    async def follow_pages(wait: float) -> None:
        found.append(await poll(api.port, conversation, wait, random.Random(f"{seed} {wait}")))

    async def take_part(generation: str, done: trio.Event, rng: random.Random) -> None:
        async with talk(api.port, conversation, 0) as socket:
            await person(socket, generation, rng)
            done.set()
            while not over(socket.events):
                await socket.receive()
            found.append(socket.events)

    async with trio.open_nursery() as nursery:
        for read in readers.STREAMS.values():
            nursery.start_soon(follow, read)
        nursery.start_soon(follow_pages, 0)
        nursery.start_soon(follow_pages, 20)
        speech = {"words": rng.randint(2, 6), "pauses": [rng.random() * 0.05 for _ in range(3)]}
        speech["cue"] = CUE
        generation = await start_run(api, conversation, {"workflow": "duet", "input": speech})
        people = [trio.Event(), trio.Event()]
        for done in people:
            nursery.start_soon(take_part, generation, done, random.Random(rng.random()))
        for done in people:
            await done.wait()
        await wait_until(api, generation, lambda found: found["text"])
        await api.message(conversation, CUE)  # between its first word and its last, however busy the machine is
        await api.finished(generation)
        await api.message(conversation, LAST)
    log = await api.log(conversation)
    check_log(log)
    assert len(found) == 6
    for events in found:
        assert events == log, f"seed {seed}"
    check_words(log, seed)
    words = [event["position"] for event in log if event["type"] == "token"]
    assert words[-1] - words[0] >= len(words), f"seed {seed}"


def check_words(log: Sequence[Event], seed: int) -> None:
    """Checks that each word shows the steering and the number of messages the run knew when it wrote it."""
    strictness, heard = {0: 3}, {0: 0}
    known = 0
    for event in log:
        at = event["position"]
        steered = event["type"] == "steering.changed"
        strictness[at] = event["value"] if steered else strictness[at - 1]
        heard[at] = heard[at - 1] + (event["type"] == "message.posted")
        if event["type"] == "token":
            slider, count = event["delta"].split("/")
            assert int(slider) == strictness[known], f"seed {seed}, position {at}"
            assert heard[known] <= int(count) <= heard[at], f"seed {seed}, position {at}"
        if event["type"] in ("generation.started", "token"):
            known = at


@pytest.mark.parametrize("first", range(0, CONVERSATIONS, PART))
async def test_two_people_and_a_workflow_write_concurrently(server: Server, first: int) -> None:
    """Seeded; some conversations run at once."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(seed: int) -> None:
        async with limiter:
            await run_conversation(api, seed)

    # Without a judge of each answer: there are thousands, all of few kinds.
    with trio.fail_after(PATIENCE):
        async with Api.open(server.port) as api, trio.open_nursery() as nursery:
            for seed in range(first, first + PART):
                nursery.start_soon(one, seed)
