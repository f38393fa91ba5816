"""Streams are cut after any byte, and the client resumes with its cursor.

What it had before the cut and what it gets afterwards must together be exactly the log.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
import trio

from tests.clients.api import Api, Event

from .stream_clients import NdjsonClient, Place, SseClient, StreamClient, WebSocketClient

MANY, FEW = 200, 80
"""Tokens of a run; few where the cost is that of cuts times tokens."""
CHANCES = 200
"""Number of cuts at random places, in addition to those around each frame's end."""
AT_ONCE = 30
PATIENCE = 100.0
POSITION = re.compile(rb'"position": ?(\d+)')
on_wires = pytest.mark.parametrize("wire", [SseClient, NdjsonClient, WebSocketClient])


@dataclass
class Run:
    """A generation, and the log that a client reads it from."""

    generation: str
    conversation: str
    tokens: int

    def log(self, wire: type[StreamClient]) -> str:
        """The path of the log; WebSockets exist for conversations only."""
        return self.conversation if wire is WebSocketClient else self.generation


async def start_run(api: Api, tokens: int, rate: float) -> Run:
    """Starts a run of that many tokens; a rate of 0 means all at once."""
    conversation = await api.conversation()
    return Run(await api.generate(conversation, tokens=tokens, rate=rate), conversation, tokens)


def after_bytes(count: int) -> Place:
    """Cuts after exactly that many bytes."""
    return lambda heard: count if len(heard) >= count else None


async def cut_once(wire: type[StreamClient], port: int, log: str, place: Place) -> list[Event]:
    """Cuts the client at that place and resumes it. Returns all events it got."""
    async with wire("") as first:
        await first.connect(port, log)
        await first.read(place)
    async with wire(first.cursor, first.over) as second:
        await second.connect(port, log)
        await second.read()
    return first.events + second.events


async def cut_at_each(wire: type[StreamClient], api: Api, run: Run, cuts: Iterable[int]) -> None:
    """Cuts a new client of a finished run after each of these numbers of bytes."""
    log = await api.log(run.log(wire))
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(count: int) -> None:
        async with limiter:
            events = await cut_once(wire, api.port, run.log(wire), after_bytes(count))
        assert events == log, f"cut after {count} bytes"

    async with trio.open_nursery() as nursery:
        for count in cuts:
            nursery.start_soon(one, count)


async def read_all_bytes(wire: type[StreamClient], port: int, log: str) -> bytes:
    """All bytes of a finished run's stream."""
    async with wire("") as reader:
        await reader.connect(port, log)
        await reader.read()
    return reader.heard


@pytest.mark.parametrize("wire", [SseClient, NdjsonClient])
async def test_finished_run_cut_around_each_frame(api: Api, wire: type[StreamClient]) -> None:
    """At each frame's end, one byte before and after it, and at random places."""
    run = await start_run(api, FEW, rate=0)
    await api.finished(run.generation)
    heard = await read_all_bytes(wire, api.port, run.log(wire))
    boundaries = {end + d for end in [0, *wire.ends(heard)] for d in (-1, 0, 1)}
    chances = random.Random(f"finished {wire.__name__}").sample(range(len(heard) + 1), CHANCES)
    cuts = sorted(cut for cut in {*boundaries, *chances} if 0 <= cut <= len(heard))
    assert len(cuts) > 3 * FEW + 0.8 * CHANCES
    with trio.fail_after(PATIENCE):
        await cut_at_each(wire, api, run, cuts)


@pytest.mark.soak
@on_wires
async def test_finished_run_cut_at_every_byte(api: Api, wire: type[StreamClient]) -> None:
    run = await start_run(api, MANY, rate=0)
    await api.finished(run.generation)
    heard = await read_all_bytes(wire, api.port, run.log(wire))
    await cut_at_each(wire, api, run, range(len(heard) + 1))


@dataclass(frozen=True)
class CutPoint:
    """A place to cut, by the event whose frame it is in: a share of the frame's bytes, or its end plus some
    bytes.
    """

    position: int
    share: float | None = None
    beyond: int = 0

    def place(self, wire: type[StreamClient]) -> Place:
        """Finds the place in a stream whose earlier bytes cannot be known beforehand."""

        def find(heard: bytes) -> int | None:
            start = 0
            for end in wire.ends(heard):
                found = POSITION.search(heard, start, end)
                if found and int(found[1]) == self.position:
                    at = end + self.beyond if self.share is None else start + int(self.share * (end - start))
                    return at if at <= len(heard) else None
                start = end
            return None

        return find


@dataclass
class ReconnectingClient:
    """A client that is cut at each of its marks and resumes, until the run is over."""

    marks: Sequence[CutPoint]
    events: list[Event] = field(default_factory=list)
    live_cuts: int = 0

    async def follow(self, wire: type[StreamClient], port: int, log: str, over: trio.Event) -> None:
        """Reads the whole run."""
        cursor, marks = "", list(self.marks)
        while True:
            place = marks.pop(0).place(wire) if marks else None
            async with wire(cursor) as reader:
                await reader.connect(port, log)
                cut = await reader.read(place)
            self.events += reader.events
            cursor = reader.cursor
            if not cut:
                break
            self.live_cuts += not over.is_set()


async def follow_all(wire: type[StreamClient], api: Api, run: Run, phones: Sequence[ReconnectingClient]) -> int:
    """Lets all clients follow a run and compares each with the log. Returns how many cuts came before the run's
    end.
    """
    over = trio.Event()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for phone in phones:
                nursery.start_soon(phone.follow, wire, api.port, run.log(wire), over)
            await api.finished(run.generation)
            over.set()
    log = await api.log(run.log(wire))
    for phone in phones:
        assert phone.events == log, phone.marks
    return sum(phone.live_cuts for phone in phones)


def clients_cut_around_each_frame(seed: str, tokens: int) -> list[ReconnectingClient]:
    """Clients whose cuts fall at each frame's end, one byte before and after it, and at random places."""
    events = range(2, tokens + 4)  # all but the last: after its end nothing comes that could be cut
    edges = [CutPoint(position, None, d) for position in events for d in (-1, 0, 1)]
    rng = random.Random(seed)
    chances = [CutPoint(rng.choice(events), rng.random()) for _ in range(CHANCES)]
    marks = sorted([*edges, *chances], key=lambda mark: (mark.position, rng.random()))
    # A client that is cut behind a frame does not hear that frame again: one mark of a position each.
    dealt = [{mark.position: mark for mark in marks[start::36]} for start in range(36)]
    assert sum(map(len, dealt)) == len(marks)
    return [ReconnectingClient(list(mine.values())) for mine in dealt]


@on_wires
async def test_live_run_cut_around_each_frame(api: Api, wire: type[StreamClient]) -> None:
    phones = clients_cut_around_each_frame(f"live {wire.__name__}", FEW)
    assert await follow_all(wire, api, await start_run(api, FEW, rate=30), phones) > 50


async def test_finished_run_cut_around_each_frame_on_websocket(api: Api) -> None:
    """Each client is cut repeatedly, because replaying the whole log for every cut takes too long."""
    run = await start_run(api, FEW, rate=0)
    await api.finished(run.generation)
    await follow_all(WebSocketClient, api, run, clients_cut_around_each_frame("finished", FEW))


@on_wires
@pytest.mark.parametrize("round_", [1, 2])
async def test_fast_run_cut_at_random(api: Api, wire: type[StreamClient], round_: int) -> None:
    """At 400 events/s, where replayed and live events are hardest to keep apart."""
    rng = random.Random(f"fast {wire.__name__} {round_}")
    phones = [
        ReconnectingClient(
            [CutPoint(position, rng.random()) for position in sorted(rng.sample(range(2, MANY + 4), 5))]
        )
        for _ in range(AT_ONCE)
    ]
    assert await follow_all(wire, api, await start_run(api, MANY, rate=400), phones) > 0


@pytest.mark.parametrize("wait", [0, 5])
async def test_polls_of_random_size_and_time_read_the_whole_log(api: Api, wait: int) -> None:
    """Some responses are lost on the way."""
    run = await start_run(api, MANY, rate=400)
    found: list[list[Event]] = []

    async def poll(rng: random.Random) -> None:
        events: list[Event] = []
        page = {"next": 0, "closed": False}
        while not page["closed"]:
            query = {"after": page["next"], "limit": rng.randint(1, 60), "wait": wait}
            with trio.move_on_after(rng.choice([0.001, 0.01, 60])):
                page = await api.get(f"{run.generation}/events", **query)
                events += page["events"]
            await trio.sleep(rng.random() / 10)
        found.append(events)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(poll, random.Random(number))
    log = await api.log(run.generation)
    assert len(log) == MANY + 3
    assert len(found) == 20
    assert all(events == log for events in found)
