"""Quart's routes for GET of logs and snapshots, and the list of conversations.

The direct way (`direct_reads.py`) answers most GETs before they come here. Both carry the answers of the same
endpoints.
"""

import trio
from quart import Blueprint, Request, Response, request

from server.errors import Problem
from server.events import CONVERSATION
from server.generation.state import Conversation
from server.runtime.runtime import Runtime
from server.web.edge.http_messages import ReadRequest, Reply
from server.web.snapshots import snapshot_json
from server.web.transports.read_endpoints import Endpoint, ReadEndpoints
from server.web.transports.read_params import read_count
from server.web.transports.stream_body import StreamReply, quart_stream

PAGE_DEFAULT, PAGE_MOST = 50, 200


def routes(runtime: Runtime, endpoints: ReadEndpoints) -> Blueprint:
    """The reading half of the API."""
    blue = Blueprint("reads", __name__)

    @blue.get("/v1/conversations/<conv:name>/events")
    async def conversation_events(name: str) -> Response:
        return await _carry(endpoints.conversation_events, name)

    @blue.get("/v1/generations/<gen:name>/events")
    async def generation_events(name: str) -> Response:
        return await _carry(endpoints.generation_events, name)

    @blue.get("/v1/conversations/<conv:name>")
    async def conversation(name: str) -> Response:
        return await _carry(endpoints.conversation_snapshot, name)

    @blue.get("/v1/generations/<gen:name>")
    async def generation(name: str) -> Response:
        return await _carry(endpoints.generation_snapshot, name)

    @blue.get("/v1/conversations")
    async def conversations() -> Response:
        return await _list(runtime, request)

    return blue


async def _carry(endpoint: Endpoint, name: str) -> Response:
    return respond(await endpoint(ReadRequest.from_scope(request.scope), name))


def respond(reply: Reply | StreamReply) -> Response:
    """A reply as Quart's response."""
    if isinstance(reply, StreamReply):
        return quart_stream(reply)
    response = Response(reply.body, reply.status)
    response.headers.clear()
    response.headers.extend((name.decode("latin-1"), value.decode("latin-1")) for name, value in reply.headers)
    if reply.body:
        response.headers["Content-Length"] = str(len(reply.body))
    return response


async def _list(runtime: Runtime, asked: Request) -> Response:
    limit = read_count(asked.args, "limit", PAGE_DEFAULT, PAGE_MOST)
    before = asked.args.get("before")
    order = None
    if before is not None:
        if not (before.isascii() and before.isdigit() and len(before) < 19):
            raise Problem(400, "invalid_cursor", "before is the `next` of an earlier page, unchanged.")
        order = int(before)
    rows = await runtime.store.list_streams(CONVERSATION, order, limit + 1)
    begun: dict[str, Conversation] = {}

    async def look(name: str) -> None:
        begun[name] = await runtime.first(name)

    async with trio.open_nursery() as nursery:  # side by side: the store makes one read of them
        for row in rows[:limit]:
            nursery.start_soon(look, row.name)
    lines = [
        snapshot_json.ConversationLine(
            id=row.name,
            title=begun[row.name].title,
            # The event's time, as the snapshot has it; where it is not kept any more, the row's.
            created_at=begun[row.name].created_at or row.created_at,
            position=row.head,
        )
        for row in rows[:limit]
    ]
    following = str(rows[limit - 1].order) if len(rows) > limit else None
    body = snapshot_json.encode(snapshot_json.ConversationList(conversations=lines, next=following)) + b"\n"
    return Response(body, 200, headers={"Cache-Control": "private, no-cache"}, content_type="application/json")
