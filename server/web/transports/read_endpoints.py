"""The endpoints of logs and snapshots, and the list of conversations.

Owns which parameters each GET takes, and which transport serves the format that the client asked for. Every
parameter is checked in every format, also where the format has no use for it. Must not know how a response is
sent. The dispatcher calls those of `by_route` itself; the list of conversations is asked for rarely, through Quart
alone.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio

from eventstore import StoreUnavailable
from server.conversations.conversation_state import Conversation
from server.event_types import CONVERSATION
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.web.edge.plain_http import JSON, PlainRequest, PlainResponse, end_line
from server.web.edge.problem_json import as_problem
from server.web.edge.stream_response import Endpoint, Response
from server.web.snapshots import snapshot_json
from server.web.snapshots.snapshot_endpoint import SnapshotEndpoint
from server.web.transports.log_reader import LogSelection, find_conversation, find_generation
from server.web.transports.polling import read_page
from server.web.transports.read_params import (
    Form,
    TypeFilter,
    cursor_text,
    read_count,
    read_cursor,
    read_form,
    read_limit,
    read_stream_options,
    read_types,
    read_wait,
)
from server.web.transports.sse_ndjson import HEADERS, end_of_log, open_stream, sse_refusal_response

FindLog = Callable[[ConversationService, str, int, TypeFilter | None], Awaitable[LogSelection]]
"""Resolves a name, a cursor and a filter of types: `find_conversation` or `find_generation`."""
PAGE_DEFAULT, PAGE_MOST = 50, 200
"""Conversations on a page of the list."""


class ReadEndpoints:
    """The endpoints of logs and snapshots, in `by_route` by the rules of their routes.

    `heartbeat`: seconds between those of a stream, where the client names none.
    """

    def __init__(self, runtime: ConversationService, heartbeat: float) -> None:
        self._runtime = runtime
        self._heartbeat = heartbeat
        snapshots = SnapshotEndpoint(runtime)
        self.by_route: Mapping[str, Endpoint] = {
            "/v1/conversations/<conv:name>/events": partial(self._read_log, find_conversation),
            "/v1/generations/<gen:name>/events": partial(self._read_log, find_generation),
            "/v1/conversations/<conv:name>": snapshots.conversation,
            "/v1/generations/<gen:name>": snapshots.generation,
        }

    async def _read_log(self, find: FindLog, request: PlainRequest, name: str) -> Response:
        headers, args = request.headers, request.args
        form = read_form(headers, args)
        cursor = read_cursor(headers, args)
        types = read_types(args)
        options = read_stream_options(args)
        limit = read_limit(args)
        wait = read_wait(headers, args)
        if form is Form.JSON:
            return await read_page(self._runtime, await find(self._runtime, name, cursor, types), limit, wait)
        try:
            selection = await find(self._runtime, name, cursor, types)
            if request.method == "HEAD":
                return end_of_log() if selection.nothing_follows else PlainResponse(200, HEADERS[form])
            return open_stream(
                self._runtime,
                selection,
                form,
                heartbeat=self._heartbeat,
                options=options,
                requested_cursor=cursor,
            )
        except (StoreUnavailable, Problem) as error:
            problem = as_problem(error, self._runtime.public)
            if form is Form.NDJSON or problem.retry_after is None:
                raise
            return sse_refusal_response(problem, cursor_text(headers, args))

    async def conversation_list(self, request: PlainRequest) -> PlainResponse:
        """`GET /v1/conversations`. Raises `Problem` 400; `StoreUnavailable`."""
        runtime = self._runtime
        limit = read_count(request.args, "limit", PAGE_DEFAULT, PAGE_MOST)
        before = request.args.get("before")
        order = None
        if before is not None:
            if not (before.isascii() and before.isdigit() and len(before) < 19):
                raise Problem(400, "invalid_cursor", "before is the `next` of an earlier page, unchanged.")
            order = int(before)
        rows = await runtime.store.list_streams(CONVERSATION, order, limit + 1)
        firsts: dict[str, Conversation] = {}

        async def read_first(name: str) -> None:
            firsts[name] = await runtime.first(name)

        async with trio.open_nursery() as nursery:  # at the same time, so that the store joins them in one read
            for row in rows[:limit]:
                nursery.start_soon(read_first, row.name)
        lines = [
            snapshot_json.ConversationLine(
                id=row.name,
                title=firsts[row.name].title,
                # The time of the first event, as in the snapshot; the row's time where that event is no longer
                # kept.
                created_at=firsts[row.name].created_at or row.created_at,
                position=row.head,
            )
            for row in rows[:limit]
        ]
        following = str(rows[limit - 1].order) if len(rows) > limit else None
        body = end_line(snapshot_json.encode(snapshot_json.ConversationList(conversations=lines, next=following)))
        headers = [(b"cache-control", b"private, no-cache"), (b"content-type", JSON.encode())]
        return PlainResponse(200, headers, body)
