"""How a child process of a benchmark is controlled: commands in, answers out, as JSON lines.

Commands come on standard input, answers go to standard output. The end of the input ends the process, so that no
child outlives the benchmark, however that ends. It must not know what the commands mean.
"""

import gc
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

Command = dict[str, Any]


def prepare() -> None:
    """Sets up the process. Every child calls it first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the measuring process's; that one ends its children
    gc.freeze()
    gc.disable()  # recordings grow, and are all kept: collecting them would only cost the benchmark time
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.stdin.isatty():
        raise SystemExit("this is a part of `python -m bench`, and of no use alone")


def send(**fields: Any) -> None:
    """Sends one answer."""
    os.write(1, msgspec.json.encode(fields) + b"\n")


def take_commands(buffer: bytearray) -> list[Command]:
    """The complete commands at the beginning of a buffer. They are removed from it."""
    found = []
    while (end := buffer.find(b"\n")) >= 0:
        found.append(msgspec.json.decode(bytes(buffer[:end]), type=Command))
        del buffer[: end + 1]
    return found


def commands() -> Iterator[Command]:
    """Waits for commands and yields them one by one, until the input ends."""
    buffer = bytearray()
    while data := os.read(0, 65_536):
        buffer += data
        yield from take_commands(buffer)


def first_command() -> Command:
    """Waits for one command. Exits the process when the input ends without one."""
    for command in commands():
        return command
    raise SystemExit(0)
