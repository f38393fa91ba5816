"""Client programs that run: processes, the addresses that they follow, and what each follower was shown."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from . import scripts

Event = dict[str, Any]


@dataclass(eq=False)
class Follower:
    """One address that a program follows.

    `outcome`: None until its `follow` has come back, then "returned" or what it raised. `ended`: it holds no
    connection and no timer any more. In Python that is when its `follow` came back; in Node, where that may happen
    at once, when its process has ended by itself.
    """

    events: list[Event] = field(default_factory=list)
    outcome: str | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    changed: trio.Event = field(default_factory=trio.Event)

    async def shown(self, count: int) -> None:
        """Waits until it has been shown so many events; fails when it ends before."""
        while len(self.events) < count:
            assert not self.ended.is_set(), f"{self.outcome} after {len(self.events)} events"
            await self.changed.wait()

    def tell(self) -> None:
        """Wakes who waits for it."""
        self.changed.set()
        self.changed = trio.Event()

    def end(self) -> None:
        """There is nothing left of it."""
        self.ended.set()
        self.tell()


@dataclass(eq=False)
class Followers:
    """A process, and its followers in the order of their addresses."""

    process: trio.Process
    errors: Path
    returning_ends: bool
    all: list[Follower]

    async def ended(self) -> None:
        """Waits for the end of each."""
        for follower in self.all:
            await follower.ended.wait()

    def complaint(self) -> str:
        """The end of its standard error."""
        return self.errors.read_text(encoding="utf-8", errors="replace")[-2000:]

    async def read(self) -> None:
        """Takes what it prints, until it ends."""
        assert self.process.stdout is not None
        rest = b""
        while data := await self.process.stdout.receive_some(65_536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(*json.loads(line))
        await self.process.wait()
        for follower in self.all:
            follower.end()

    def _take(self, index: int, what: Event | str | None) -> None:
        follower = self.all[index]
        if isinstance(what, dict):
            follower.events.append(what)
            follower.tell()
            return
        follower.outcome = what or "returned"
        if self.returning_ends:
            follower.end()


@asynccontextmanager
async def following(asked: Sequence[tuple[Path, str]], errors: Path) -> AsyncIterator[Followers]:
    """Programs on addresses, in one process, killed at the end if it still runs. `errors`: where it complains."""
    (folder, *_) = (program.parent for program, _ in asked)
    with errors.open("w+b") as complaints:
        process = await trio.lowlevel.open_process(
            scripts.command(asked),
            stdout=subprocess.PIPE,
            stderr=complaints,
            # The package sseclient lies beside its program: sseclient-py's has the same name.
            env=os.environ | {"PYTHONPATH": str(folder)},
        )
        in_python = asked[0][0].suffix != ".mjs"
        followers = Followers(process, errors, in_python, [Follower() for _ in asked])
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(followers.read)
                yield followers
                nursery.cancel_scope.cancel()
        finally:
            process.kill()
            with trio.CancelScope(shield=True), trio.move_on_after(10):
                await process.wait()
            assert process.stdout is not None
            with trio.CancelScope(shield=True):
                await process.stdout.aclose()
