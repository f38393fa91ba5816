"""How a helper process is spoken to: JSON lines in, JSON lines out, the end of its input is its end."""

import gc
import os
import resource
import signal
import sys
from typing import Any

import msgspec


def begin() -> None:
    """What every helper does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the measuring process's; it ends us
    gc.freeze()
    gc.disable()  # recordings grow, and are all kept: collecting them would only cost the benchmark time
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.stdin.isatty():
        raise SystemExit("this is a part of `python -m bench`, and of no use alone")


def say(**fields: Any) -> None:
    """One answer."""
    os.write(1, msgspec.json.encode(fields) + b"\n")


def lines(buffer: bytearray) -> list[dict[str, Any]]:
    """The whole commands that a buffer holds, taken out of it."""
    found = []
    while (end := buffer.find(b"\n")) >= 0:
        found.append(msgspec.json.decode(bytes(buffer[:end]), type=dict[str, Any]))
        del buffer[: end + 1]
    return found
