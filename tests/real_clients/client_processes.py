"""Runs all client libraries of one runtime at once, each following the same generation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.clients.api import Api

from . import scripts
from .followers import Follower, Followers, following
from .libraries import LIBRARIES, Library
from .outcomes import judge

LONG_QUESTION = ("tokens: 40, rate: 20", "tokens: 5000, rate: 20")
"""For the program that sends its own request: an answer that lasts longer than the test's faults."""

slow_to_start = pytest.mark.timeout(300)
"""Each program is a process; on a busy machine starting them may take a minute."""
on_runtimes = pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(
            ".mjs",
            id="node",
            marks=pytest.mark.skipif(scripts.missing_node() is not None, reason=scripts.missing_node() or ""),
        ),
        pytest.param(".py", id="python"),
    ],
)


def libraries_of(runtime: str, scenario: str, transports: Sequence[str] | None = None) -> list[Library]:
    """The libraries of a runtime that take part in the scenario; shell programs count as Python's."""
    return [
        library
        for library in LIBRARIES
        if library.program.endswith(".mjs") == (runtime == ".mjs")
        and library.expects(scenario) != "not run"
        and (transports is None or library.transport in transports)
    ]


@dataclass(frozen=True)
class LibraryProcesses:
    """A follower for each library."""

    members: Mapping[Library, Follower]
    processes: Sequence[Followers]

    async def shown(self, count: int, seconds: float = 60.0) -> None:
        """Waits until each has shown that many events; two snapshots if it polls snapshots."""
        with trio.fail_after(seconds):
            for library, follower in self.members.items():
                if not library.program.endswith(".sh"):  # shows them when its connection has ended
                    await follower.shown(2 if library.transport == "snapshots" else count)

    async def outcomes(
        self, api: Api, conversation: str, generation: str, seconds: float = 60.0
    ) -> dict[str, str]:
        """Returns each library's outcome. A library that has not ended after `seconds` counts as going on
        forever.
        """
        with trio.move_on_after(seconds):
            for follower in self.members.values():
                await follower.ended.wait()
        return {
            library.name: await judge(library, follower, api, conversation, generation)
            for library, follower in self.members.items()
        }

    def complaints(self) -> str:
        """What the programs wrote to standard error."""
        return "\n".join(process.complaint() for process in self.processes)


@asynccontextmanager
async def run_libraries(
    members: Sequence[Library], address: Callable[[Library], str], folder: Path, *replacing: tuple[str, str]
) -> AsyncIterator[LibraryProcesses]:
    """Runs the libraries within the context; `address` gives the URL each of them follows.

    Python programs share a process, because their imports take longer than their work; each Node program has
    its own.
    """
    asked = [
        (library.write(folder, *(replacing if library.transport == "post" else ())), address(library))
        for library in members
    ]
    together = [asked] if asked and asked[0][0].suffix != ".mjs" else [[one] for one in asked]
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(following(group, group[0][0].with_name("errors")))
            for group in together
        ]
        followers = [follower for process in processes for follower in process.all]
        yield LibraryProcesses(dict(zip(members, followers, strict=True)), processes)


def differences(came: Mapping[str, str], members: Sequence[Library], scenario: str) -> dict[str, tuple[str, str]]:
    """Outcomes that differ from the expected ones: the actual and the expected outcome."""
    expected = {library.name: library.expects(scenario) for library in members}
    return {
        name: (one, expected[name])
        for name, one in came.items()
        if one != expected[name] and not (expected[name] == "broken" and one != "exact")
    }
