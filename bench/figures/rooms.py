"""Which room a sample's CPU time belongs to, and which stage of a token's way. Pure.

The innermost frame of a known room pays. Frames of nobody (the standard library, a socket's own methods) are
looked through: what they do, they do for their caller.
"""

from collections.abc import Sequence

# The first fragment that a file's path contains decides; None looks through to the caller.
_ROOMS: tuple[tuple[str, str | None], ...] = (
    ("/bench/", None),
    ("/server/upstream/", "upstream"),
    ("/server/generation/", "generation"),
    ("/server/events.py", "generation"),
    ("/eventstore/postgres/bridge.py", "asyncpg and bridge"),
    ("/eventstore/postgres/", "eventstore: postgres"),
    ("/eventstore/tail_cache.py", "eventstore: tail"),
    ("/eventstore/wakeups.py", "eventstore: wake-ups"),
    ("/eventstore/subscription.py", "eventstore: subscriptions"),
    ("/eventstore/", "eventstore: appends"),
    ("/server/wire/", "wire"),
    ("/server/http/", "http"),
    ("/server/runtime/", "runtime"),
    ("/server/web/", "web"),
    ("/server/metrics", "metrics"),
    ("/prometheus_client/", "metrics"),
    ("/server/logs.py", "logs"),
    ("/structlog/", "logs"),
    ("/logging/", "logs"),
    ("/server/", "server, the rest"),
    ("/trio_asyncio/", "asyncpg and bridge"),
    ("/asyncpg/", "asyncpg and bridge"),
    ("/asyncio/", "asyncpg and bridge"),
    ("/quart_trio/", "quart"),
    ("/quart/", "quart"),
    ("/flask/", "quart"),
    ("/werkzeug/", "quart"),
    ("/hypercorn/", "hypercorn and h11"),
    ("/h11/", "hypercorn and h11"),
    ("/h2/", "hypercorn and h11"),
    ("/hpack/", "hypercorn and h11"),
    ("/wsproto/", "hypercorn and h11"),
    ("/trio/_socket.py", None),
    ("/trio/_highlevel_", None),
    ("/trio/_ssl.py", None),
    ("/trio/", "trio"),
)

_STAGES = {
    "upstream": "reading the upstream",
    "generation": "reading the upstream",
    "eventstore: appends": "appending",
    "eventstore: postgres": "appending",
    "asyncpg and bridge": "appending",
    "eventstore: tail": "waking",
    "eventstore: wake-ups": "waking",
    "eventstore: subscriptions": "waking",
    "runtime": "waking",
    "wire": "encoding",
    "web": "sending",
    "quart": "sending",
    "http": "sending",
    "hypercorn and h11": "sending",
    "trio": "scheduling",
}

REST = "elsewhere"


def room(stack: Sequence[str]) -> str:
    """The room of a stack of `file:function`, innermost first."""
    for frame in stack:
        for fragment, name in _ROOMS:
            if fragment in frame:
                if name is not None:
                    return name
                break
    return REST


def stage(name: str) -> str:
    """The stage of a token's way that a room belongs to."""
    return _STAGES.get(name, REST)


def short(frame: str) -> str:
    """`file:function` without the folders that are the same for all: what a picture has room for."""
    file, _, function = frame.rpartition(":")
    return f"{file.rpartition('/site-packages/')[2].rpartition('/')[2].removesuffix('.py')}.{function}"


def task(stack: Sequence[str]) -> list[str]:
    """The part of a stack above the scheduler's loop, outermost first; all of it where there is none."""
    for n in range(len(stack) - 1, -1, -1):
        if "/trio/_core/" in stack[n] and stack[n].endswith("unrolled_run"):
            return list(reversed(stack[:n]))
    return list(reversed(stack))
