"""All libraries of one runtime at once, each in a process of its own, following the same generation."""

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
"""The program that asks by itself asks for an answer that outlasts what is done to it."""

slow_to_start = pytest.mark.timeout(300)
"""A process each: on a busy machine that alone may take a minute."""
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


def libraries(runtime: str, scenario: str, transports: Sequence[str] | None = None) -> list[Library]:
    """Those of a runtime (a shell's are with Python's) that take part, perhaps of some transports only."""
    return [
        library
        for library in LIBRARIES
        if library.program.endswith(".mjs") == (runtime == ".mjs")
        and library.expects(scenario) != "not run"
        and (transports is None or library.transport in transports)
    ]


@dataclass(frozen=True)
class Crowd:
    """A follower of each."""

    members: Mapping[Library, Follower]
    processes: Sequence[Followers]

    async def shown(self, count: int, seconds: float = 60.0) -> None:
        """Waits until each has been shown so many events; two snapshots, where it polls snapshots."""
        with trio.fail_after(seconds):
            for library, follower in self.members.items():
                if not library.program.endswith(".sh"):  # shows them when its connection has ended
                    await follower.shown(2 if library.transport == "snapshots" else count)

    async def outcomes(
        self, api: Api, conversation: str, generation: str, seconds: float = 60.0
    ) -> dict[str, str]:
        """What became of each; those that go on for so long do so for ever."""
        with trio.move_on_after(seconds):
            for follower in self.members.values():
                await follower.ended.wait()
        return {
            library.name: await judge(library, follower, api, conversation, generation)
            for library, follower in self.members.items()
        }

    def complaints(self) -> str:
        """What they wrote to standard error."""
        return "\n".join(process.complaint() for process in self.processes)


@asynccontextmanager
async def crowd(
    members: Sequence[Library], address: Callable[[Library], str], folder: Path, *replacing: tuple[str, str]
) -> AsyncIterator[Crowd]:
    """They run for as long as the context; `address` tells each what to follow.

    Programs of Python share a process, for their imports take longer than their work; each of Node's has its own.
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
        yield Crowd(dict(zip(members, followers, strict=True)), processes)


def differences(came: Mapping[str, str], members: Sequence[Library], scenario: str) -> dict[str, tuple[str, str]]:
    """Where something else came than is expected: what came, and what was expected."""
    expected = {library.name: library.expects(scenario) for library in members}
    return {
        name: (one, expected[name])
        for name, one in came.items()
        if one != expected[name] and not (expected[name] == "broken" and one != "exact")
    }
