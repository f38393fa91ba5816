"""GET of logs and snapshots: what the client asks, handed to the form it asked for."""

from collections.abc import Awaitable, Callable, Mapping

import trio
from quart import Blueprint, Request, Response, request

from eventstore import StoreUnavailable
from server.errors import Problem, not_found
from server.events import CONVERSATION
from server.generation.state import Conversation, Generation
from server.runtime.runtime import Runtime
from server.web import views
from server.web.bare import bare
from server.web.cursor import (
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
from server.web.pages import read_page
from server.web.problems import from_store
from server.web.reading import Reading, Source, find_conversation, find_generation
from server.web.streams import MEDIA_TYPES, NO_BUFFERING, refuse, stream

Find = Callable[[Runtime, str, int], Awaitable[Source]]
RUNNING_RETRY = "1"
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
        state = await runtime.conversation(name)
        if at is not None:
            state = await _at(runtime, state, at)
            if state.position == 0:
                raise not_found("conversation at that position")
            return _snapshot(views.encode(views.conversation_fields(state)), state.position, {})
        wait, applied = read_wait(request.headers, request.args)
        if _unchanged(state.position) and wait > 0:
            await _hold(runtime, Source(name, None, state.position, state.position, 0, over=False), wait)
            state = await runtime.conversation(name)
        headers = {"Retry-After": RUNNING_RETRY} if state.running else {}
        body = views.encode(views.conversation_fields(state))
        return _snapshot(body, state.position, {**applied, **headers})

    @blue.get("/v1/generations/<name>")
    async def generation(name: str) -> Response:
        at = request.args.get("at")
        state, found = await runtime.generation(name)
        if at is not None:
            then = (await _at(runtime, state, at)).generation(name)
            if then is None:
                raise not_found("generation at that position")
            return _snapshot(views.encode(views.generation_fields(then)), then.position, {})
        wait, applied = read_wait(request.headers, request.args)
        if _unchanged(found.position) and wait > 0 and not found.ended:
            await _hold(runtime, Source(state.id, name, state.position, state.position, 0, over=False), wait)
            state, found = await runtime.generation(name)
        headers = {} if found.ended else {"Retry-After": RUNNING_RETRY}
        return _generation_snapshot(found, {**applied, **headers})

    @blue.get("/v1/conversations")
    async def conversations() -> Response:
        return await _list(runtime, request)

    return blue


async def _events(runtime: Runtime, find: Find, name: str, heartbeat: float) -> Response:
    form = read_form(request.headers, request.args)
    if request.method == "HEAD" and form is not Form.JSON:
        await find(runtime, name, read_cursor(request.headers, request.args))
        return Response(b"", 200, headers=NO_BUFFERING, content_type=MEDIA_TYPES[form])
    if form is not Form.SSE:
        source = await find(runtime, name, read_cursor(request.headers, request.args))
        if form is Form.NDJSON:
            return stream(runtime, source, form, heartbeat=heartbeat)
        limit = read_limit(request.args)
        wait, applied = read_wait(request.headers, request.args)
        return await read_page(runtime, source, limit, wait, applied)
    try:
        source = await find(runtime, name, read_cursor(request.headers, request.args))
        return stream(runtime, source, form, heartbeat=heartbeat, options=read_stream_options(request.args))
    except StoreUnavailable as error:
        return refuse(from_store(error))
    except Problem as problem:
        if problem.retry_after is None:
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
    stay = runtime.drain.enter()
    try:
        with Reading(runtime, source) as reading, stay.scope(wait):
            await reading.next()
    finally:
        runtime.drain.leave(stay)


def _unchanged(position: int) -> bool:
    """Whether the client has this version already (RFC 9110 section 13.1.2)."""
    return request.if_none_match.contains_weak(str(position)) or request.if_none_match.star_tag


def _generation_snapshot(found: Generation, headers: Mapping[str, str]) -> Response:
    return _snapshot(views.encode(views.generation_fields(found)), found.position, headers)


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
    fields = [
        {"id": row.name, "title": titles[row.name], "created_at": row.created_at, "position": row.head}
        for row in rows[:limit]
    ]
    following = str(rows[limit - 1].order) if len(rows) > limit else None
    body = views.encode({"conversations": fields, "next": following})
    return Response(body, 200, headers={"Cache-Control": "private, no-cache"}, content_type="application/json")
