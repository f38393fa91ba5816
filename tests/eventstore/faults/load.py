"""Writers that append without end, readers that follow, and a check that nothing was lost or doubled."""

from collections import defaultdict

import trio

from eventstore import EventStore, Writer
from tests.eventstore.sample_events import is_gapless, names, read_all, sample_append

WRITERS, STREAMS = 20, 7
GROWTH_SECONDS = 40.0


class Load:
    """Fenced writers on shared streams, and for each stream one reader from its start."""

    def __init__(self, writes: EventStore, reads: EventStore) -> None:
        self._writes = writes
        self._reads = reads
        self._over = False
        self._writing = trio.CancelScope()
        self._idle = trio.Event()
        self._running = WRITERS
        self.acknowledged: dict[str, list[int]] = defaultdict(list)  # the position of each sequence, by writer
        self.followed: dict[str, list[str]] = defaultdict(list)

    async def run(self, nursery: trio.Nursery) -> None:
        """Starts all; the readers end with the nursery."""
        for n in range(WRITERS):
            nursery.start_soon(self._write, f"s{n % STREAMS}", f"w{n}")
        await self.grown(1)
        for n in range(STREAMS):
            nursery.start_soon(self._follow, f"s{n}")

    async def _write(self, stream: str, writer: str) -> None:
        while not self._over:
            seq = len(self.acknowledged[writer]) + 1
            appended = await self._writes.append(
                sample_append(stream, f"{writer}.{seq}", writer=Writer(writer, 1, seq))
            )
            assert appended.first == appended.last
            self.acknowledged[writer].append(appended.first)
        self._running -= 1
        if self._running == 0:
            self._idle.set()

    async def _follow(self, stream: str) -> None:
        with self._reads.subscribe(stream) as reader:
            while True:
                self.followed[stream] += names(await reader.next())

    async def grown(self, by: int) -> None:
        """Until each writer has that many more acknowledged."""
        goal = {f"w{n}": len(self.acknowledged[f"w{n}"]) + by for n in range(WRITERS)}
        with trio.fail_after(GROWTH_SECONDS):
            while any(len(self.acknowledged[writer]) < count for writer, count in goal.items()):
                await trio.sleep(0.01)

    async def reckon(self) -> None:
        """Ends the writing and compares what was acknowledged, what stands in the log, and what was followed."""
        self._over = True
        with trio.fail_after(GROWTH_SECONDS):
            await self._idle.wait()
        for n in range(STREAMS):
            events = await read_all(self._writes, f"s{n}")
            assert is_gapless(events)
            for writer in (f"w{k}" for k in range(n, WRITERS, STREAMS)):
                mine = [event for event in events if names([event])[0].startswith(f"{writer}.")]
                assert names(mine) == [f"{writer}.{seq}" for seq in range(1, len(mine) + 1)]
                assert [event.position for event in mine] == self.acknowledged[writer]
            with trio.fail_after(GROWTH_SECONDS):
                while len(self.followed[f"s{n}"]) < len(events):
                    await trio.sleep(0.01)
            assert self.followed[f"s{n}"] == names(events)
