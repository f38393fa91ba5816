"""GET of logs and snapshots: what the client asks, handed to the form it asked for."""

from collections.abc import Awaitable, Callable, Mapping

import trio
from quart import Blueprint, Request, Response, request

from eventstore import StoreUnavailable
from server.errors import Problem, not_found
from server.events import CONVERSATION
from server.generation.state import Conversation, Generation
from server.runtime.runtime import Runtime
from server.web.edge.empty_response import bare
from server.web.edge.problems import from_store
from server.web.snapshots import snapshot_json as views
from server.web.transports.log_reader import Reading, Source, find_conversation, find_generation
from server.web.transports.polling import read_page
from server.web.transports.read_params import (
    NOW,
    Form,
    parse_cursor,
    read_count,
    read_cursor,
    read_form,
    read_limit,
    read_stream_options,
    read_wait,
    resolve_cursor,
)
from server.web.transports.sse_ndjson import MEDIA_TYPES, NO_BUFFERING, nothing_follows, refuse, stream

Find = Callable[[Runtime, str, int], Awaitable[Source]]
PAGE_DEFAULT, PAGE_MOST = 50, 200


def routes(runtime: Runtime, heartbeat: float) -> Blueprint:
    """The reading half of the API."""
    blue = Blueprint("reads", __name__)

    @blue.get("/v1/conversations/<name>/events")
    async def conversation_events(name: str) -> Response:
        return await _events(runtime, find_conversation, name, heartbeat)

    @blue.get("/v1/generations/<name>/events")
    async def generation_events(name: str) -> Response:
        return await _events(runtime, find_generation, name, heartbeat)

    @blue.get("/v1/conversations/<name>")
    async def conversation(name: str) -> Response:
        at = request.args.get("at")
        wait, applied = read_wait(request.headers, request.args)
        state = await runtime.conversation(name)
        if at is not None:
            state = await _at(runtime, state, at)
            if state.position == 0:
                raise not_found("conversation at that position")
            return _snapshot(views.encode(views.conversation(state)), state.position, {})
        if _unchanged(state.position) and wait > 0:
            await _hold(runtime, Source(name, None, state.position, state.position, 0, over=False), wait)
            state = await runtime.conversation(name)
        running = state.open
        headers = {"Retry-After": str(views.retry_after(running[0]))} if running else {}
        body = views.encode(views.conversation(state))
        return _snapshot(body, state.position, {**applied, **headers})

    @blue.get("/v1/generations/<name>")
    async def generation(name: str) -> Response:
        at = request.args.get("at")
        wait, applied = read_wait(request.headers, request.args)
        state, found = await runtime.generation(name)
        if at is not None:
            then = (await _at(runtime, state, at)).generation(name)
            if then is None:
                raise not_found("generation at that position")
            return _snapshot(views.encode(views.generation(then)), then.position, {})
        if _unchanged(found.position) and wait > 0 and not found.ended:
            await _hold(runtime, Source(state.id, name, state.position, state.position, 0, over=False), wait)
            state, found = await runtime.generation(name)
        headers = {} if found.ended else {"Retry-After": str(views.retry_after(found))}
        return _generation_snapshot(found, {**applied, **headers})

    @blue.get("/v1/conversations")
    async def conversations() -> Response:
        return await _list(runtime, request)

    return blue


async def _events(runtime: Runtime, find: Find, name: str, heartbeat: float) -> Response:
    # All that is asked is read first, also what this form has no use for: a mistake is told in every form.
    form = read_form(request.headers, request.args)
    cursor = read_cursor(request.headers, request.args)
    options = read_stream_options(request.args)
    limit = read_limit(request.args)
    wait, applied = read_wait(request.headers, request.args)
    if request.method == "HEAD" and form is not Form.JSON:
        source = await find(runtime, name, cursor)
        if source.over:
            return nothing_follows()
        return Response(b"", 200, headers=NO_BUFFERING, content_type=MEDIA_TYPES[form])
    if form is Form.JSON:
        return await read_page(runtime, await find(runtime, name, cursor), limit, wait, applied)
    try:
        source = await find(runtime, name, cursor)
        return stream(runtime, source, form, heartbeat=heartbeat, options=options)
    except (StoreUnavailable, Problem) as error:
        problem = error if isinstance(error, Problem) else from_store(error)
        if form is Form.NDJSON or problem.retry_after is None:
            raise
        return refuse(problem)


async def _at(runtime: Runtime, state: Conversation, text: str) -> Conversation:
    position = parse_cursor(text)
    if position == NOW:
        return state
    return await runtime.folds.at(state.id, resolve_cursor(position, state.position))


async def _hold(runtime: Runtime, source: Source, wait: float) -> None:
    """Until the source has something newer, the time is over, or the server drains."""
    if not runtime.drain.may_hold:
        return
    stay = runtime.drain.enter("long_poll")
    try:
        with Reading(runtime, source) as reading, stay.scope(wait):
            await reading.next()
    finally:
        runtime.drain.leave(stay)


def _unchanged(position: int) -> bool:
    """Whether the client has this version already (RFC 9110 section 13.1.2)."""
    return request.if_none_match.contains_weak(str(position)) or request.if_none_match.star_tag


def _generation_snapshot(found: Generation, headers: Mapping[str, str]) -> Response:
    return _snapshot(views.encode(views.generation(found)), found.position, headers)


def _snapshot(body: bytes, position: int, headers: Mapping[str, str]) -> Response:
    known = {"ETag": views.etag(position), "Cache-Control": "private, no-cache", **headers}
    if _unchanged(position):
        return bare(304, known)
    return Response(body, 200, headers=known, content_type="application/json")


async def _list(runtime: Runtime, asked: Request) -> Response:
    limit = read_count(asked.args, "limit", PAGE_DEFAULT, PAGE_MOST)
    before = asked.args.get("before")
    order = None
    if before is not None:
        if not (before.isascii() and before.isdigit() and len(before) < 19):
            raise Problem(400, "invalid_cursor", "before is the `next` of an earlier page, unchanged.")
        order = int(before)
    rows = await runtime.store.list_streams(CONVERSATION, order, limit + 1)
    titles: dict[str, str | None] = {}

    async def title(name: str) -> None:
        titles[name] = (await runtime.first(name)).title

    async with trio.open_nursery() as nursery:  # side by side: the store makes one read of them
        for row in rows[:limit]:
            nursery.start_soon(title, row.name)
    lines = [
        views.ConversationLine(id=row.name, title=titles[row.name], created_at=row.created_at, position=row.head)
        for row in rows[:limit]
    ]
    following = str(rows[limit - 1].order) if len(rows) > limit else None
    body = views.encode(views.ConversationList(conversations=lines, next=following))
    return Response(body, 200, headers={"Cache-Control": "private, no-cache"}, content_type="application/json")
