"""GET of logs and snapshots: what a client asks for, handed to the form it asked for.

Every endpoint takes a `ReadRequest` and gives a reply, whoever carries both. A mistake in a parameter is told in
every form, also in one that has no use for the parameter.
"""

from collections.abc import Awaitable, Callable

from eventstore import StoreUnavailable
from server.errors import Problem
from server.runtime.runtime import Runtime
from server.web.edge.http_messages import ReadRequest, Reply
from server.web.edge.problems import as_problem
from server.web.snapshots.snapshot_endpoint import SnapshotEndpoint
from server.web.transports.log_reader import Source, find_conversation, find_generation
from server.web.transports.polling import read_page
from server.web.transports.read_params import (
    Form,
    TypeFilter,
    cursor_text,
    read_cursor,
    read_form,
    read_limit,
    read_stream_options,
    read_types,
    read_wait,
)
from server.web.transports.sse_ndjson import HEADERS, nothing_follows, open_stream, refuse
from server.web.transports.stream_body import StreamReply

Endpoint = Callable[[ReadRequest, str], Awaitable[Reply | StreamReply]]
Find = Callable[[Runtime, str, int, TypeFilter | None], Awaitable[Source]]


class ReadEndpoints:
    """The four addresses that are read again and again. `heartbeat`: seconds between signs of life."""

    def __init__(self, runtime: Runtime, heartbeat: float) -> None:
        self._runtime = runtime
        self._heartbeat = heartbeat
        snapshots = SnapshotEndpoint(runtime)
        self.conversation_snapshot = snapshots.conversation
        self.generation_snapshot = snapshots.generation

    async def conversation_events(self, asked: ReadRequest, name: str) -> Reply | StreamReply:
        """`GET /v1/conversations/{id}/events`."""
        return await self._events(asked, find_conversation, name)

    async def generation_events(self, asked: ReadRequest, name: str) -> Reply | StreamReply:
        """`GET /v1/generations/{id}/events`."""
        return await self._events(asked, find_generation, name)

    async def _events(self, asked: ReadRequest, find: Find, name: str) -> Reply | StreamReply:
        headers, args = asked.headers, asked.args
        form = read_form(headers, args)
        cursor = read_cursor(headers, args)
        types = read_types(args)
        options = read_stream_options(args)
        limit = read_limit(args)
        wait = read_wait(headers, args)
        if form is Form.JSON:
            return await read_page(self._runtime, await find(self._runtime, name, cursor, types), limit, wait)
        try:
            source = await find(self._runtime, name, cursor, types)
            if asked.method == "HEAD":
                return nothing_follows() if source.over else Reply(200, HEADERS[form])
            return open_stream(
                self._runtime, source, form, heartbeat=self._heartbeat, options=options, asked=cursor
            )
        except (StoreUnavailable, Problem) as error:
            problem = as_problem(error, self._runtime.public)
            if form is Form.NDJSON or problem.retry_after is None:
                raise
            return refuse(problem, cursor_text(headers, args))
