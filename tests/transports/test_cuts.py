"""The connection is cut after any byte: what the client had, and what it gets when it comes back, is the log."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
import trio

from tests.clients.api import Api, Event

from .stream_clients import NdjsonWire, Place, SseWire, WebSocketWire, Wire

TOKENS = 200
AT_ONCE = 30
PATIENCE = 100.0
POSITION = re.compile(rb'"position": ?(\d+)')
on_wires = pytest.mark.parametrize("wire", [SseWire, NdjsonWire, WebSocketWire])


@dataclass
class Run:
    """A generation, and the log that a wire reads it from."""

    generation: str
    conversation: str

    def log(self, wire: type[Wire]) -> str:
        """WebSockets are of conversations."""
        return self.conversation if wire is WebSocketWire else self.generation


async def begin(api: Api, rate: float) -> Run:
    """A run of 200 tokens."""
    conversation = await api.conversation()
    return Run(await api.generate(conversation, tokens=TOKENS, rate=rate), conversation)


def after_bytes(count: int) -> Place:
    """After exactly so many."""
    return lambda heard: count if len(heard) >= count else None


async def cut_once(wire: type[Wire], port: int, log: str, place: Place) -> list[Event]:
    """Cut there, and back with what the client knows then; all it has at the end."""
    async with wire("") as first:
        await first.connect(port, log)
        await first.read(place)
    async with wire(first.cursor, first.over) as second:
        await second.connect(port, log)
        await second.read()
    return first.events + second.events


async def cut_at_each(wire: type[Wire], api: Api, run: Run, cuts: Iterable[int]) -> None:
    """Each cut of its own from the start of a finished run, many at a time."""
    log = await api.log(run.log(wire))
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(count: int) -> None:
        async with limiter:
            events = await cut_once(wire, api.port, run.log(wire), after_bytes(count))
        assert events == log, f"cut after {count} bytes"

    async with trio.open_nursery() as nursery:
        for count in cuts:
            nursery.start_soon(one, count)


async def whole(wire: type[Wire], port: int, log: str) -> bytes:
    """Every byte of a finished run's stream."""
    async with wire("") as reader:
        await reader.connect(port, log)
        await reader.read()
    return reader.heard


@pytest.mark.parametrize("wire", [SseWire, NdjsonWire])
async def test_a_finished_run_is_cut_everywhere(api: Api, wire: type[Wire]) -> None:
    """At each frame's end, a byte before, a byte after, and at 500 places of chance."""
    run = await begin(api, rate=0)
    await api.finished(run.generation)
    heard = await whole(wire, api.port, run.log(wire))
    boundaries = {end + d for end in [0, *wire.ends(heard)] for d in (-1, 0, 1)}
    chances = random.Random(f"finished {wire.__name__}").sample(range(len(heard) + 1), 500)
    cuts = sorted(cut for cut in {*boundaries, *chances} if 0 <= cut <= len(heard))
    assert len(cuts) > 3 * TOKENS + 400
    with trio.fail_after(PATIENCE):
        await cut_at_each(wire, api, run, cuts)


@pytest.mark.soak
@on_wires
async def test_a_finished_run_is_cut_at_every_byte(api: Api, wire: type[Wire]) -> None:
    """All of them."""
    run = await begin(api, rate=0)
    await api.finished(run.generation)
    heard = await whole(wire, api.port, run.log(wire))
    await cut_at_each(wire, api, run, range(len(heard) + 1))


@dataclass(frozen=True)
class Mark:
    """A place by the event whose frame it is in: a share of that frame's bytes, or its end plus so many."""

    position: int
    share: float | None = None
    beyond: int = 0

    def place(self, wire: type[Wire]) -> Place:
        """For a stream whose bytes before that frame nobody can foresee."""

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
class Phone:
    """One client with a bad connection: it is cut at each of its marks and comes back, until the run is over."""

    marks: Sequence[Mark]
    events: list[Event] = field(default_factory=list)
    live_cuts: int = 0

    async def follow(self, wire: type[Wire], port: int, log: str, over: trio.Event) -> None:
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


async def follow_all(wire: type[Wire], api: Api, run: Run, phones: Sequence[Phone]) -> int:
    """All of them follow a run; each has to have the log. How many cuts were made before the run's end."""
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


def everywhere(seed: str) -> list[Phone]:
    """Each event's frame at its end, a byte before, a byte after, and 500 places of chance."""
    events = range(2, TOKENS + 4)  # all but the last: after its end nothing comes that could be cut
    edges = [Mark(position, None, d) for position in events for d in (-1, 0, 1)]
    rng = random.Random(seed)
    chances = [Mark(rng.choice(events), rng.random()) for _ in range(500)]
    marks = sorted([*edges, *chances], key=lambda mark: (mark.position, rng.random()))
    # A client that is cut behind a frame does not hear that frame again: one mark of a position each.
    dealt = [{mark.position: mark for mark in marks[start::36]} for start in range(36)]
    assert sum(map(len, dealt)) == len(marks)
    return [Phone(list(mine.values())) for mine in dealt]


@on_wires
async def test_a_live_run_is_cut_everywhere(api: Api, wire: type[Wire]) -> None:
    """As its events come."""
    assert await follow_all(wire, api, await begin(api, 40), everywhere(f"live {wire.__name__}")) > 50


async def test_a_finished_run_is_cut_everywhere_on_websocket(api: Api) -> None:
    """Cut again and again instead of once: replaying it all for each cut takes a WebSocket too long."""
    run = await begin(api, rate=0)
    await api.finished(run.generation)
    await follow_all(WebSocketWire, api, run, everywhere("finished"))


@on_wires
@pytest.mark.parametrize("round_", [1, 2])
async def test_a_fast_run_is_cut_by_chance(api: Api, wire: type[Wire], round_: int) -> None:
    """400 events/s, where what was and what comes are hardest to keep apart."""
    rng = random.Random(f"fast {wire.__name__} {round_}")
    phones = [
        Phone([Mark(position, rng.random()) for position in sorted(rng.sample(range(2, TOKENS + 4), 5))])
        for _ in range(AT_ONCE)
    ]
    assert await follow_all(wire, api, await begin(api, 400), phones) > 0


@pytest.mark.parametrize("wait", [0, 5])
async def test_polls_at_any_time(api: Api, wait: int) -> None:
    """Pages of any size, asked for whenever; some answers are lost on the way."""
    run = await begin(api, rate=400)
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
    assert len(log) == TOKENS + 3
    assert len(found) == 20
    assert all(events == log for events in found)
