"""Both backends against the reference model: for any commands of two processes, answers and contents are
the same.
"""

from collections.abc import Callable
from itertools import count

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from trio.testing import MockClock

from eventstore import (
    Append,
    Backend,
    Erased,
    EventStore,
    Fenced,
    Head,
    KeyReused,
    StoreOptions,
    StreamUnknown,
    Subscription,
    Trimmed,
    WrongExpectedPosition,
)
from eventstore.memory_backend import MemoryBackend
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.random_commands import (
    Burst,
    Command,
    DrawnAppend,
    Erase,
    Poll,
    Read,
    Subscribe,
    Trim,
    commands,
)
from tests.eventstore.reference_model import Accepted, Model, Refused
from tests.eventstore.sample_events import BOUND, is_gapless, names, read_all, sample_event
from tests.harness.databases import TestDatabase

# Small tails and pages, so that both are left behind; a poll that comes too late to help.
OPTIONS = StoreOptions(call_timeout=BOUND, safety_poll=600.0, read_limit=4, tail_stream_bytes=6 * 450)


class ModelComparison:
    """Runs commands on two processes, and compares each answer with the model's."""

    def __init__(self, stores: tuple[EventStore, EventStore], prefix: str) -> None:
        self.stores = stores
        self.prefix = prefix
        self.model = Model()
        self.readers: list[Subscription] = []
        self.numbers = count(1)

    async def do(self, command: Command) -> None:
        match command:
            case DrawnAppend():
                await self.put(command)
            case Burst():
                await self.burst(command)
            case Trim():
                await self.trim(command)
            case Erase():
                gone = await self.stores[command.process].erase_streams(self.prefix, -1.0)
                assert set(gone) == self.model.erase()
            case Read():
                await self.look(command)
            case Subscribe():
                stream, after = self.place(command.stream, command.share)
                self.readers.append(self.stores[command.process].subscribe(stream, after))
            case Poll():
                if self.readers:
                    await self.follow(self.readers[command.which % len(self.readers)])

    def place(self, stream: str, share: float) -> tuple[str, int]:
        head = self.model.head(self.prefix + stream)
        return self.prefix + stream, round(head * share) + (share > 1)

    def fresh(self, number: int) -> list[str]:
        return [str(next(self.numbers)) for _ in range(number)]

    async def put(self, command: DrawnAppend) -> None:
        said = self.fresh(command.count)
        append = command.append(self.model, self.prefix, said)
        assert await outcome_of(self.stores[command.process], append) == self.model.append(
            append, said, command.process
        )

    async def burst(self, command: Burst) -> None:
        came: list[tuple[Accepted, Append, list[str], int]] = []

        async def one(process: int, stream: str, number: int) -> None:
            said = self.fresh(number)
            append = Append(self.prefix + stream, tuple(map(sample_event, said)), category=self.prefix)
            stands = await outcome_of(self.stores[process], append)
            if self.model.erased(append.stream):
                assert stands == Refused("erased")
                return
            assert isinstance(stands, Accepted)
            came.append((stands, append, said, process))

        async with trio.open_nursery() as nursery:
            for put in command.puts:
                nursery.start_soon(one, *put)
        for stands, append, said, process in sorted(came, key=lambda one: one[0].first):
            assert self.model.add(append, said, process) == stands

    async def trim(self, command: Trim) -> None:
        stream, before = self.place(command.stream, command.share)
        if self.model.erased(stream):
            with pytest.raises(Erased):
                await self.stores[0].trim(stream, before)
        elif self.model.head(stream):
            earliest = self.model.trim(stream, before)
            assert await self.stores[0].trim(stream, before) == Head(self.model.head(stream), earliest)

    async def look(self, command: Read) -> None:
        stream, after = self.place(command.stream, command.share)
        store, known = self.stores[command.process], self.model.streams.get(stream)
        try:
            page = await store.read(stream, after, command.limit)
        except StreamUnknown:
            assert known is None
        except Erased:
            assert self.model.erased(stream)
        except Trimmed:
            assert known is not None
            assert after < known.earliest - 1
        else:
            assert known is not None
            assert not known.erased
            assert after >= known.earliest - 1
            assert (page.head, page.earliest) == (known.head, known.earliest)
            assert names(page.events) == self.model.after(stream, after)[: command.limit]

    async def follow(self, reader: Subscription) -> bool:
        """One look; whether it can come to anything more."""
        known, before = self.model.streams.get(reader.stream), reader.position
        try:
            events = await reader.poll()
        except StreamUnknown:
            assert known is None
            return False
        except Erased:
            assert self.model.erased(reader.stream)
            return False
        except Trimmed:
            assert known is not None
            assert before < known.earliest - 1
            return False
        assert known is not None
        assert names(events) == self.model.after(reader.stream, before)[: len(events)]
        assert reader.position == before + len(events)
        if known.erased:
            assert events  # what this process still held of it
            return True
        assert events or before >= known.head
        return reader.position < known.head

    async def reckon(self) -> None:
        """All that is left to follow, and the whole contents, seen from both processes."""
        for reader in self.readers:
            with trio.fail_after(BOUND), reader:
                while await self.follow(reader):
                    pass
        for store in self.stores:
            rows = await store.list_streams(self.prefix, None, 100)
            assert {row.name: row.head for row in rows} == {
                name: known.head for name, known in self.model.streams.items() if not known.erased
            }
            for name, known in self.model.streams.items():
                if known.erased:
                    with pytest.raises(Erased):
                        await store.head(name)
                    continue
                events = await read_all(store, name, known.earliest - 1)
                assert names(events) == self.model.after(name, known.earliest - 1)
                assert is_gapless(events, known.earliest)
                for writer, mine in known.writers.items():
                    state = await store.writer(name, writer)
                    assert state is not None
                    owner = self.stores[mine.process].owner
                    assert (state.epoch, state.closed, state.owner) == (mine.epoch, mine.closed, owner)
            for (scope, key), (place, _) in self.model.keys.items():
                found = await store.find_key(scope, key)
                assert found is not None
                assert (found.stream, found.first, found.last) == (place.stream, place.first, place.last)


async def outcome_of(store: EventStore, append: Append) -> Accepted | Refused:
    """The outcome of the append, in the model's terms."""
    try:
        appended = await store.append(append)
    except WrongExpectedPosition as refusal:
        return Refused("position", refusal.head)
    except Erased:
        return Refused("erased")
    except KeyReused:
        return Refused("key")
    except Fenced as refusal:
        return Refused(refusal.reason)
    return Accepted(appended.stream, appended.first, appended.last, appended.repeated)


async def run_plan(process: Callable[[], Backend], plan: list[Command], prefix: str) -> None:
    async with EventStore(process(), OPTIONS).open() as one, EventStore(process(), OPTIONS).open() as two:
        run = ModelComparison((one, two), prefix)
        for command in plan:
            await run.do(command)
        await run.reckon()


FEW = settings().max_examples // 4


@given(commands)
@settings(deadline=None)
def test_memory_backend_equals_the_model(plan: list[Command]) -> None:
    trio.run(run_plan, MemoryBackend().process, plan, "", clock=MockClock(autojump_threshold=0))


@pytest.mark.hypothesis
def test_postgres_backend_equals_the_model(database: TestDatabase) -> None:
    examples = count(1)

    def process() -> Backend:
        return PostgresBackend(PostgresOptions(database.app_url, database.owner_url))

    @given(commands)
    @settings(max_examples=FEW, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def on(plan: list[Command]) -> None:
        trio.run(run_plan, process, plan, f"{next(examples)}/")

    on()
