"""GET of a snapshot: a conversation's or a generation's, at the head or at a position, held or not.

A poll costs one read of the primary's head, which it shares with all that wait at the same time, and what is new
since the last one. The JSON of a generation is made once for each of its positions and kept for all who poll it;
one that has ended is never folded again. Polling changes nothing and asks no provider.
"""

from collections import OrderedDict
from dataclasses import dataclass

from werkzeug.http import parse_etags

from eventstore import Rewound
from server.errors import not_found
from server.generation.state import Conversation
from server.runtime.runtime import Runtime
from server.web.edge.http_messages import Headers, ReadRequest, Reply
from server.web.snapshots import snapshot_json
from server.web.transports.log_reader import Source
from server.web.transports.polling import applied, hold
from server.web.transports.read_params import (
    NOW,
    Wait,
    parse_cursor,
    read_count,
    read_wait,
    resolve_cursor,
    wants_pending,
)

KEPT_BYTES = 16 * 1024 * 1024
ENTRY_BYTES = 600
"""What an entry takes besides its JSON: key, objects and place in the dictionary."""
ENDED_RETRY = 30
"""Seconds of `Retry-After` with a 304 that will be 304 for ever: a program that loops on it has missed the end."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A snapshot, encoded. `retry_after` is in seconds, None for a generation that has ended."""

    stream: str
    position: int
    retry_after: int | None
    body: bytes

    @property
    def ended(self) -> bool:
        return self.retry_after is None


class SnapshotEndpoint:
    """The snapshots of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._kept: OrderedDict[str, _Shown] = OrderedDict()
        self._size = 0
        self._incarnation = runtime.store.incarnation

    async def generation(self, asked: ReadRequest, name: str) -> Reply:
        """`GET /v1/generations/{id}`. Raises `Problem` 400, 404, 410, 503; `StoreUnavailable`."""
        pending = wants_pending(asked.headers, asked.args)
        wait = read_wait(asked.headers, asked.args)
        if (at := asked.args.get("at")) is not None:
            return await self._generation_at(asked, name, at)
        shown = await self._look(name)
        unchanged = _unchanged(asked, shown.position)
        if unchanged and wait.seconds > 0:
            # Nothing of one that has ended will come: its reader need not look through what others wrote since.
            after = (await self._runtime.head_of(shown.stream)).position if shown.ended else shown.position
            source = Source(shown.stream, name, after, after, after, over=False)
            wait = await _hold(self._runtime, source, wait)
            shown = await self._look(name)
            unchanged = _unchanged(asked, shown.position)
        heeded = ("respond-async",) if pending and "pending" not in asked.args else ()
        headers = [*applied(wait, *heeded), *_retry_after(shown.retry_after, unchanged=unchanged), _VARY]
        if pending and not shown.ended and not unchanged:
            return Reply(202, [*_headers(shown.position), *_JSON, *headers], shown.body)
        return _snapshot(shown.body, shown.position, headers, unchanged=unchanged)

    async def conversation(self, asked: ReadRequest, name: str) -> Reply:
        """`GET /v1/conversations/{id}`. Raises as `generation`."""
        runtime = self._runtime
        wait = read_wait(asked.headers, asked.args)
        before = read_count(asked.args, "before", 0, 10**9 - 1) or None
        if (at := asked.args.get("at")) is not None:
            state = await self._at(name, (await runtime.head(name)).position, at)
            if state.position == 0:
                raise not_found("conversation at that position")
            return _snapshot(snapshot_json.conversation(state, before) + b"\n", state.position, [], asked=asked)
        state = await runtime.conversation(name)
        if wait.seconds > 0 and _unchanged(asked, state.position):
            position = state.position
            wait = await _hold(runtime, Source(name, None, position, position, position, over=False), wait)
            state = await runtime.conversation(name)
        retry_after = snapshot_json.retry_after(state.open[0]) if state.open else None
        headers = [*applied(wait), *_retry_after(retry_after, unchanged=False)]
        if _unchanged(asked, state.position):
            return _snapshot(b"", state.position, headers, unchanged=True)
        if before is not None:
            return _snapshot(snapshot_json.conversation(state, before) + b"\n", state.position, headers)
        kept = self._known(name)
        if kept is None or kept.position != state.position:
            kept = _Shown(name, state.position, retry_after, snapshot_json.conversation(state) + b"\n")
            self._keep(name, kept)
        return _snapshot(kept.body, state.position, headers)

    # -- what is shown of a generation

    async def _look(self, name: str) -> _Shown:
        kept = self._known(name)
        if kept is not None and kept.ended:
            # Its terminal event is its last. The head says whether the conversation is still there, and that far.
            self._kept.move_to_end(name)
            if (await self._runtime.head_of(kept.stream)).position >= kept.position:
                return kept
            kept = None
        conversation, found = await self._runtime.generation(name)
        if kept is not None and kept.position == found.position:
            return kept
        body = snapshot_json.encode(snapshot_json.generation(found)) + b"\n"
        retry_after = None if found.ended else snapshot_json.retry_after(found)
        shown = _Shown(conversation.id, found.position, retry_after, body)
        self._keep(name, shown)
        return shown

    def _known(self, name: str) -> _Shown | None:
        """What was shown last; nothing of what was shown before the log went back."""
        if self._incarnation != self._runtime.store.incarnation:
            self._incarnation = self._runtime.store.incarnation
            self._kept.clear()
            self._size = 0
        return self._kept.get(name)

    def _keep(self, name: str, shown: _Shown) -> None:
        before = self._known(name)
        if before is not None:
            if before.position > shown.position:
                return  # another poll has moved on meanwhile
            self._size -= len(before.body) + ENTRY_BYTES
        self._kept[name] = shown
        self._kept.move_to_end(name)
        self._size += len(shown.body) + ENTRY_BYTES
        while self._size > KEPT_BYTES:
            _, gone = self._kept.popitem(last=False)
            self._size -= len(gone.body) + ENTRY_BYTES

    # -- at a position

    async def _generation_at(self, asked: ReadRequest, name: str, at: str) -> Reply:
        stream = (await self._runtime.place(name)).stream
        then = (await self._at(stream, (await self._runtime.head_of(stream)).position, at)).generation(name)
        if then is None:
            raise not_found("generation at that position")
        body = snapshot_json.encode(snapshot_json.generation(then)) + b"\n"
        return _snapshot(body, then.position, [], asked=asked)

    async def _at(self, stream: str, head: int, text: str) -> Conversation:
        position = parse_cursor(text)
        return await self._runtime.states.at(stream, head if position == NOW else resolve_cursor(position, head))


_VARY = (b"vary", b"Prefer")
"""Of a generation's snapshot: `respond-async` decides its status."""
_JSON: Headers = [(b"content-type", b"application/json")]


async def _hold(runtime: Runtime, source: Source, wait: Wait) -> Wait:
    """As `hold`. A log that goes back meanwhile is news as well: the answer is what it holds now."""
    try:
        return await hold(runtime, source, wait)
    except Rewound:
        return wait


def _headers(position: int) -> Headers:
    return [(b"etag", snapshot_json.etag(position).encode()), (b"cache-control", b"private, no-cache")]


def _snapshot(
    body: bytes, position: int, headers: Headers, *, unchanged: bool = False, asked: ReadRequest | None = None
) -> Reply:
    if unchanged or (asked is not None and _unchanged(asked, position)):
        return Reply(304, [*_headers(position), *headers])
    return Reply(200, [*_headers(position), *_JSON, *headers], body)


def _retry_after(seconds: int | None, *, unchanged: bool) -> Headers:
    if seconds is None:
        return [(b"retry-after", b"%d" % ENDED_RETRY)] if unchanged else []
    return [(b"retry-after", b"%d" % seconds)]


def _unchanged(asked: ReadRequest, position: int) -> bool:
    """Whether the client has this version already (RFC 9110 section 13.1.2)."""
    text = asked.headers.get("if-none-match")
    if text is None:
        return False
    if text == f'"{position}"':
        return True
    tags = parse_etags(text)
    return tags.contains_weak(str(position)) or tags.star_tag
