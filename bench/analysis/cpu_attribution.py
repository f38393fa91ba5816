"""Attributes samples of CPU time: to a component of the server, and to a stage of a token's way. Pure.

A sample counts for the component of its innermost frame that belongs to one. Frames that belong to none (the
standard library, a socket's own methods) count for their caller. It must not know how samples are taken.
"""

from collections.abc import Sequence

# The first fragment that a file's path contains decides; None: the frame counts for its caller.
_COMPONENTS: tuple[tuple[str, str | None], ...] = (
    ("/bench/", None),
    ("/server/providers/", "upstream"),
    ("/server/http_client/", "upstream"),
    ("/server/generations/", "generation"),
    ("/server/event_types.py", "generation"),
    ("/eventstore/postgres/asyncpg_trio.py", "asyncpg and bridge"),
    ("/eventstore/postgres/", "eventstore: postgres"),
    ("/eventstore/tail_cache.py", "eventstore: tail"),
    ("/eventstore/subscription.py", "eventstore: subscriptions"),
    ("/eventstore/", "eventstore: appends"),
    ("/server/wire_formats.py", "wire"),
    ("/server/http/", "http"),
    ("/server/runtime/", "runtime"),
    ("/server/conversations/", "runtime"),
    ("/server/web/", "web"),
    ("/server/observability/logs.py", "logs"),
    ("/server/observability/", "metrics"),
    ("/prometheus_client/", "metrics"),
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
    "eventstore: subscriptions": "waking",
    "runtime": "waking",
    "wire": "encoding",
    "web": "sending",
    "quart": "sending",
    "http": "sending",
    "hypercorn and h11": "sending",
    "trio": "scheduling",
}

UNKNOWN = "elsewhere"


def component_of(stack: Sequence[str]) -> str:
    """The component that a stack of `file:function`, innermost first, counts for."""
    for frame in stack:
        for fragment, name in _COMPONENTS:
            if fragment in frame:
                if name is not None:
                    return name
                break
    return UNKNOWN


def stage_of(component: str) -> str:
    """The stage of a token's way that a component belongs to."""
    return _STAGES.get(component, UNKNOWN)


def short_name(frame: str) -> str:
    """`file.function` of a `path:function`, short enough for a picture."""
    file, _, function = frame.rpartition(":")
    return f"{file.rpartition('/site-packages/')[2].rpartition('/')[2].removesuffix('.py')}.{function}"


def task_frames(stack: Sequence[str]) -> list[str]:
    """The part of a stack inside trio's scheduler loop, outermost first; the whole stack if that is not in it."""
    for n in range(len(stack) - 1, -1, -1):
        if "/trio/_core/" in stack[n] and stack[n].endswith("unrolled_run"):
            return list(reversed(stack[:n]))
    return list(reversed(stack))
