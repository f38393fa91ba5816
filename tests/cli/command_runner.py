"""Runs `tokentape …` as a person would: as a process. Returns its exit status and what it printed."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import trio

from tests.harness.processes import start


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


def clean_environment() -> dict[str, str]:
    """The environment of the tests, without variables that configure Tokentape or colours."""
    configuring = ("TOKENTAPE_", "OPENAI_", "ANTHROPIC_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(configuring)}


async def tokentape(
    *words: str, env: Mapping[str, str] | None = None, stdin: str = "", fresh: bool = False
) -> CommandResult:
    """Runs it to its end, within a minute, with `stdin` on a pipe; with `fresh`, in a new interpreter."""
    pipes = [os.pipe() for _ in range(3)]
    (their_in, our_in), (our_out, their_out), (our_err, their_err) = pipes
    process = start(
        ["server", *words],
        env={**clean_environment(), **(env or {})},
        stdin=their_in,
        stdout=their_out,
        stderr=their_err,
        fresh=fresh,
    )
    for theirs in (their_in, their_out, their_err):
        os.close(theirs)
    received = {"out": b"", "err": b""}

    async def write() -> None:
        async with trio.lowlevel.FdStream(our_in) as pipe:
            with suppress(trio.BrokenResourceError):  # the process may end without reading its input
                await pipe.send_all(stdin.encode())

    async def read(name: str, descriptor: int) -> None:
        async with trio.lowlevel.FdStream(descriptor) as pipe:
            async for data in pipe:
                received[name] += data

    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                nursery.start_soon(read, "out", our_out)
                nursery.start_soon(read, "err", our_err)
            status = await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
    finally:
        process.kill()
        process.wait()
    return CommandResult(status, _text(received["out"]), _text(received["err"]))


def _text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")  # as text=True of subprocess has it
