"""Server processes for whole test modules, started and killed outside of any test's trio run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import trio

from tests.harness.servers import Server

APP = {"TOKENTAPE_WORKFLOWS": "tests.harness.apps.interactive_workflows"}
"""Settings of a server with workflows and tools."""


@contextmanager
def serving(database_url: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server that is ready; killed at the end."""
    server = Server(database_url, env or {})
    try:
        trio.run(server.start)
        yield server
        server.check_log()
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.wait()
        server.log.close()
