"""The endpoints of logs and snapshots, and the list of conversations.

Owns which parameters each GET takes, and which transport serves the format that the client asked for. Every
parameter is checked in every format, also where the format has no use for it. Must not know how a response is
sent. The dispatcher calls those of `by_route` itself; the list of conversations is asked for rarely, through Quart
alone.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

import trio

from eventstore import StoreUnavailable, StreamUnknown
from server.auth.principal import Principal
from server.conversations.conversation_state import Conversation
from server.event_types import conversation_category
from server.ids import is_valid_id
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.web.edge.http_messages import JSON, Endpoint, PlainRequest, PlainResponse, Response, end_line
from server.web.edge.problem_json import as_problem
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


def refuse_event_source(request: PlainRequest, problem: Problem) -> PlainResponse | None:
    """The answer to an `EventSource` whose log is refused for a moment; None for any other reader or refusal.

    It would give up for ever on the status of the problem. One that sends wrong credentials may give up.
    """
    if problem.retry_after is None or problem.code == "too_many_attempts" or request.method != "GET":
        return None
    try:
        if read_form(request.headers, request.args) is not Form.SSE:
            return None
    except Problem:
        return None  # asks for a form that there is none of
    cursor = cursor_text(request.headers, request.args)
    if cursor is None and "ticket" in request.args:
        cursor = "0"  # a ticket lets its reader come back only with a position
    return sse_refusal_response(problem, cursor)


FindLog = Callable[[ConversationService, str, int, TypeFilter | None], Awaitable[LogSelection]]
"""Resolves a name, a cursor and a filter of types: `find_conversation` or `find_generation`."""
DEFAULT_PAGE, MAX_PAGE = 50, 200
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
            selection = await find(self._runtime, name, cursor, types)
            return await read_page(self._runtime, request.granted, selection, limit, wait)
        try:
            selection = await find(self._runtime, name, cursor, types)
            if request.method == "HEAD":
                return end_of_log() if selection.nothing_follows else PlainResponse(200, HEADERS[form])
            return open_stream(
                self._runtime,
                request.granted,
                selection,
                form,
                heartbeat=self._heartbeat,
                options=options,
                requested_cursor=cursor,
            )
        except (StoreUnavailable, Problem) as error:
            refusal = refuse_event_source(request, as_problem(error, self._runtime.public))
            if refusal is None:
                raise
            return refusal

    async def conversation_list(self, request: PlainRequest) -> PlainResponse:
        """`GET /v1/conversations`: those of the caller's tenant. Raises `Problem` 400; `StoreUnavailable`."""
        limit = read_count(request.args, "limit", DEFAULT_PAGE, MAX_PAGE)
        before = request.args.get("before")
        order = None
        if before is not None:
            if not (before.isascii() and before.isdigit() and len(before) < 19):
                raise Problem(400, "invalid_cursor", "before is the `next` of an earlier page, unchanged.")
            order = int(before)
        if request.principal.conversations is not None:
            lines, following = await self._list_limited(request.principal, order or 0, limit)
        else:
            lines, following = await self._list_all(request.principal.tenant, order, limit)
        shown = snapshot_json.ConversationList(
            conversations=lines, next=None if following is None else str(following)
        )
        headers = [(b"cache-control", b"private, no-cache"), (b"content-type", JSON.encode())]
        return PlainResponse(200, headers, end_line(snapshot_json.encode(shown)))

    async def _list_all(
        self, tenant: str, before: int | None, limit: int
    ) -> tuple[list[snapshot_json.ConversationLine], int | None]:
        """A page of a tenant's conversations, and where the next one begins."""
        rows = await self._runtime.store.list_streams(conversation_category(tenant), before, limit + 1)
        firsts = await self._first_states(row.name for row in rows[:limit])
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
        return lines, rows[limit - 1].order if len(rows) > limit else None

    async def _list_limited(
        self, principal: Principal, skipped: int, limit: int
    ) -> tuple[list[snapshot_json.ConversationLine], int | None]:
        """As `_list_all`, of the only conversations that the principal may touch: ids sort by time."""
        names = sorted((one for one in principal.conversations or () if is_valid_id(one, "conv")), reverse=True)
        firsts = await self._first_states(names[skipped : skipped + limit])
        lines = [
            snapshot_json.ConversationLine(
                id=name,
                title=state.title,
                created_at=state.created_at,
                position=(await self._runtime.head_of(name)).position,
            )
            for name, state in firsts.items()
            if state.created_at is not None and state.tenant == principal.tenant
        ]
        return lines, skipped + limit if len(names) > skipped + limit else None

    async def _first_states(self, names: Iterable[str]) -> dict[str, Conversation]:
        """Each conversation as of its first event; one that does not exist is empty."""
        firsts = {name: Conversation(name) for name in names}

        async def read_first(name: str) -> None:
            with suppress(StreamUnknown):
                firsts[name] = await self._runtime.first(name)

        async with trio.open_nursery() as nursery:  # at the same time, so that the store joins them in one read
            for name in firsts:
                nursery.start_soon(read_first, name)
        return firsts
