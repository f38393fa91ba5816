"""The endpoints of snapshots: of a conversation or a generation, now or at a position.

Owns the cache of encoded snapshots and the answers to conditional requests. A poll costs one read of the primary's
head, shared with all requests that wait at the same time, and a read of what is new since the last poll. The JSON
of a generation is encoded once for each of its positions, and kept for all its pollers; one that has ended is
never folded again. Polling changes nothing and asks no provider. Must not know how a snapshot is folded or
encoded.
"""

from collections import OrderedDict
from dataclasses import dataclass

from werkzeug.http import parse_etags

from eventstore import Rewound
from server.conversations.conversation_state import Conversation
from server.problem import not_found
from server.runtime.conversation_service import ConversationService
from server.web.edge.http_messages import JSON, Headers, PlainRequest, PlainResponse, end_line
from server.web.snapshots import snapshot_json
from server.web.transports.log_reader import LogSelection
from server.web.transports.polling import hold, preference_applied
from server.web.transports.read_params import (
    NOW,
    Wait,
    parse_cursor,
    read_count,
    read_wait,
    resolve_cursor,
    wants_pending,
)

CACHE_BYTES = 16 * 1024 * 1024
"""Encoded snapshots that are kept, in bytes; beyond it those that were not asked for longest are dropped."""
ENTRY_BYTES = 600
"""Memory that an entry of the cache takes besides its JSON."""
ENDED_RETRY = 30
"""Seconds of `Retry-After` with the 304 of an ended generation: a client that loops on it missed its end."""


@dataclass(frozen=True, slots=True)
class _EncodedSnapshot:
    """A snapshot as JSON. `retry_after` is in seconds, None for a generation that has ended."""

    stream: str
    position: int
    retry_after: int | None
    body: bytes

    @property
    def ended(self) -> bool:
        return self.retry_after is None


class SnapshotEndpoint:
    """The snapshot endpoints of one process, with their cache."""

    def __init__(self, runtime: ConversationService) -> None:
        self._runtime = runtime
        self._cache: OrderedDict[str, _EncodedSnapshot] = OrderedDict()
        self._cache_bytes = 0
        self._incarnation = runtime.store.incarnation

    async def generation(self, request: PlainRequest, name: str) -> PlainResponse:
        """`GET /v1/generations/{id}`. Raises `Problem` 400, 404, 410, 503; `StoreUnavailable`."""
        pending = wants_pending(request.headers, request.args)
        wait = read_wait(request.headers, request.args)
        if (at := request.args.get("at")) is not None:
            return await self._generation_at(request, name, at)
        snapshot = await self._latest(name)
        unchanged = _unchanged(request, snapshot.position)
        if unchanged and wait.seconds > 0:
            # Nothing of an ended generation will come: do not read what others appended to its conversation since.
            after = (
                (await self._runtime.head_of(snapshot.stream)).position if snapshot.ended else snapshot.position
            )
            selection = LogSelection(snapshot.stream, name, after, after, after, nothing_follows=False)
            wait = await _hold(self._runtime, request, selection, wait)
            snapshot = await self._latest(name)
            unchanged = _unchanged(request, snapshot.position)
        applied = ("respond-async",) if pending and "pending" not in request.args else ()
        headers = [
            *preference_applied(wait, *applied),
            *_retry_after(snapshot.retry_after, unchanged=unchanged),
            _VARY,
        ]
        if pending and not snapshot.ended and not unchanged:
            return PlainResponse(202, [*_headers(snapshot.position), *_JSON, *headers], snapshot.body)
        return _respond(snapshot.body, snapshot.position, headers, unchanged=unchanged)

    async def conversation(self, request: PlainRequest, name: str) -> PlainResponse:
        """`GET /v1/conversations/{id}`. Raises as `generation`."""
        runtime = self._runtime
        wait = read_wait(request.headers, request.args)
        before = read_count(request.args, "before", 0, 10**9 - 1) if "before" in request.args else None
        if (at := request.args.get("at")) is not None:
            state = await self._at(name, (await runtime.head(name)).position, at)
            if state.position == 0:
                raise not_found("conversation at that position")
            return _respond(
                end_line(snapshot_json.conversation(state, before)), state.position, [], request=request
            )
        state = await runtime.conversation(name)
        if wait.seconds > 0 and _unchanged(request, state.position):
            position = state.position
            selection = LogSelection(name, None, position, position, position, nothing_follows=False)
            wait = await _hold(runtime, request, selection, wait)
            state = await runtime.conversation(name)
        retry_after = snapshot_json.retry_after(state.open[0]) if state.open else None
        headers = [*preference_applied(wait), *_retry_after(retry_after, unchanged=False)]
        if _unchanged(request, state.position):
            return _respond(b"", state.position, headers, unchanged=True)
        if before is not None:
            return _respond(end_line(snapshot_json.conversation(state, before)), state.position, headers)
        cached = self._cached(name)
        if cached is None or cached.position != state.position:
            cached = _EncodedSnapshot(
                name, state.position, retry_after, end_line(snapshot_json.conversation(state))
            )
            self._store(name, cached)
        return _respond(cached.body, state.position, headers)

    # -- the cache

    async def _latest(self, name: str) -> _EncodedSnapshot:
        cached = self._cached(name)
        if cached is not None and cached.ended:
            # Nothing follows the terminal event. Read the head only to see that the conversation still exists, and
            # that the log did not go back to before that event.
            self._cache.move_to_end(name)
            if (await self._runtime.head_of(cached.stream)).position >= cached.position:
                return cached
            cached = None
        conversation, found = await self._runtime.generation(name)
        if cached is not None and cached.position == found.position:
            return cached
        body = end_line(snapshot_json.encode(snapshot_json.generation(found)))
        retry_after = None if found.ended else snapshot_json.retry_after(found)
        snapshot = _EncodedSnapshot(conversation.id, found.position, retry_after, body)
        self._store(name, snapshot)
        return snapshot

    def _cached(self, name: str) -> _EncodedSnapshot | None:
        """The cached snapshot, if any; empties the cache first if the log went back since."""
        if self._incarnation != self._runtime.store.incarnation:
            self._incarnation = self._runtime.store.incarnation
            self._cache.clear()
            self._cache_bytes = 0
        return self._cache.get(name)

    def _store(self, name: str, snapshot: _EncodedSnapshot) -> None:
        before = self._cached(name)
        if before is not None:
            if before.position > snapshot.position:
                return  # a concurrent poll has stored a newer one
            self._cache_bytes -= len(before.body) + ENTRY_BYTES
        self._cache[name] = snapshot
        self._cache.move_to_end(name)
        self._cache_bytes += len(snapshot.body) + ENTRY_BYTES
        while self._cache_bytes > CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= len(dropped.body) + ENTRY_BYTES

    # -- snapshots at an earlier position

    async def _generation_at(self, request: PlainRequest, name: str, at: str) -> PlainResponse:
        stream = (await self._runtime.place(name)).stream
        past = (await self._at(stream, (await self._runtime.head_of(stream)).position, at)).generation(name)
        if past is None:
            raise not_found("generation at that position")
        body = end_line(snapshot_json.encode(snapshot_json.generation(past)))
        return _respond(body, past.position, [], request=request)

    async def _at(self, stream: str, head: int, text: str) -> Conversation:
        position = parse_cursor(text)
        return await self._runtime.states.at(stream, head if position == NOW else resolve_cursor(position, head))


_VARY = (b"vary", b"Prefer")
"""A generation's snapshot depends on `Prefer: respond-async`, which decides its status."""
_JSON: Headers = [(b"content-type", JSON.encode())]


async def _hold(runtime: ConversationService, request: PlainRequest, selection: LogSelection, wait: Wait) -> Wait:
    """As `polling.hold`; a log that goes back meanwhile counts as news: the snapshot is of what is left."""
    try:
        return await hold(runtime, request.granted, selection, wait)
    except Rewound:
        return wait


def _headers(position: int) -> Headers:
    return [(b"etag", snapshot_json.etag(position).encode()), (b"cache-control", b"private, no-cache")]


def _respond(
    body: bytes, position: int, headers: Headers, *, unchanged: bool = False, request: PlainRequest | None = None
) -> PlainResponse:
    if unchanged or (request is not None and _unchanged(request, position)):
        return PlainResponse(304, [*_headers(position), *headers])
    return PlainResponse(200, [*_headers(position), *_JSON, *headers], body)


def _retry_after(seconds: int | None, *, unchanged: bool) -> Headers:
    if seconds is None:
        return [(b"retry-after", b"%d" % ENDED_RETRY)] if unchanged else []
    return [(b"retry-after", b"%d" % seconds)]


def _unchanged(request: PlainRequest, position: int) -> bool:
    """Whether `If-None-Match` names this version, so that the client has it (RFC 9110 section 13.1.2)."""
    text = request.headers.get("if-none-match")
    if text is None:
        return False
    if text == f'"{position}"':
        return True
    tags = parse_etags(text)
    return tags.contains_weak(str(position)) or tags.star_tag
