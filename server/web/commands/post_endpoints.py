"""What every POST is answered, whoever carries it: an `Answer` of `command_endpoints` as status, headers and body.

A POST that is refused says so by its status in every form, with `Retry-After` where it passes: who can post can
read a status. Only once a run is in the log is its stream a 200, whatever becomes of it, for the run goes on.
It takes and gives plain values and knows no framework.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eventstore import StoreUnavailable
from server.errors import Problem
from server.runtime.runtime import Runtime
from server.web.commands import command_endpoints as commands
from server.web.commands.command_endpoints import Answer, Body
from server.web.commands.request_body import read_body
from server.web.edge.http_messages import Headers, Reply, pick_headers, query_args
from server.web.edge.problems import as_problem, plain
from server.web.edge.responses import end_line
from server.web.transports.log_reader import find_generation
from server.web.transports.read_params import (
    Form,
    StreamOptions,
    TypeFilter,
    accepted_form,
    cursor_text,
    preferences,
    read_cursor,
    read_stream_options,
    read_types,
)
from server.web.transports.sse_ndjson import HEADERS, open_stream, refuse
from server.web.transports.stream_body import StreamReply
from server.wire import sse

_WANTED = frozenset(
    (
        *(b"accept", b"prefer", b"host", b"origin", b"last-event-id"),
        *(b"idempotency-key", b"content-type", b"content-encoding"),
    )
)


@dataclass(frozen=True, slots=True)
class PostRequest:
    """One POST: the headers that it depends on, by their names in small letters, and the query's parameters."""

    headers: Mapping[str, str]
    args: Mapping[str, str]

    @classmethod
    def from_scope(cls, scope: Mapping[str, Any]) -> "PostRequest":
        """From an ASGI connection scope."""
        headers = pick_headers(scope["headers"], _WANTED)
        return cls(headers, query_args(scope["query_string"]))

    @property
    def key(self) -> str | None:
        """The client's `Idempotency-Key`."""
        return self.headers.get("idempotency-key")

    @property
    def form(self) -> Form:
        """What the answer is to be, of a run that can be answered with its stream."""
        return accepted_form(self.headers.get("accept", ""))


Endpoint = Callable[[PostRequest, bytes, tuple[str, ...]], Awaitable[Reply | StreamReply]]
"""A request, its body as it came, and the ids in its address."""


@dataclass(frozen=True, slots=True)
class _Wishes:
    """How a run that is answered with its stream is to be read."""

    cursor: int
    text: str | None
    options: StreamOptions
    types: TypeFilter | None


class PostEndpoints:
    """All of one process. `heartbeat`: seconds between signs of life on a stream. Each raises as its command."""

    def __init__(self, runtime: Runtime, heartbeat: float) -> None:
        self._runtime = runtime
        self._heartbeat = heartbeat
        self.by_route: Mapping[str, Endpoint] = {
            "/v1/conversations": self._start,
            "/v1/conversations/<conv:name>/messages": self._named(commands.post_message),
            "/v1/conversations/<conv:name>/generations": self._generate,
            "/v1/generations": self._generate,
            "/v1/generations/<gen:name>/cancel": self._named(commands.cancel_generation),
            "/v1/generations/<gen:name>/steer": self._named(commands.steer_generation),
            "/v1/generations/<gen:name>/decisions": self._named(commands.decide_call),
            "/v1/generations/<gen:name>/tools/<call:call>/result": self._named(commands.finish_call),
        }

    def _named(self, command: Callable[..., Awaitable[Answer]]) -> Endpoint:
        """The endpoint of a command on what its address names."""

        async def endpoint(asked: PostRequest, body: bytes, ids: tuple[str, ...]) -> Reply:
            return _reply(await command(self._runtime, *ids, read_body(asked.headers, body), asked.key))

        return endpoint

    async def _start(self, asked: PostRequest, body: bytes, _ids: tuple[str, ...]) -> Reply:
        return _reply(await commands.start_conversation(self._runtime, read_body(asked.headers, body), asked.key))

    async def _generate(self, asked: PostRequest, body: bytes, ids: tuple[str, ...]) -> Reply | StreamReply:
        # All that is asked is read before anything is begun: a mistake is told in either form, and starts no run.
        headers, args = asked.headers, asked.args
        wishes = _Wishes(
            read_cursor(headers, args), cursor_text(headers, args), read_stream_options(args), read_types(args)
        )
        given = read_body(headers, body)
        if asked.form is not Form.SSE:
            return _accepted(await self._run(ids, given, asked.key), headers.get("prefer", ""))
        self._runtime.drain.refuse_stream()
        answer = await self._run(ids, given, asked.key)
        reply = await self._stream(answer, wishes)
        location = (b"location", answer.location.encode())
        if isinstance(reply, StreamReply):
            return StreamReply(reply.body, [*reply.headers, location])
        return Reply(reply.status, [*reply.headers, location], reply.body)

    async def _run(self, ids: tuple[str, ...], given: Body, key: str | None) -> Answer:
        return await commands.request_generation(self._runtime, ids[0] if ids else None, given, key)

    async def _stream(self, answer: Answer, wishes: _Wishes) -> Reply | StreamReply:
        """The run's log behind the cursor. The run is detached: this only reads, and may be cut and come back."""
        # A new run has nothing that its client could have read: the cursor is of another one, and a client that
        # sends the same headers with every POST gets all of this one.
        cursor, text = (wishes.cursor, wishes.text) if answer.repeated else (0, None)
        try:
            source = await find_generation(self._runtime, answer.generation or "", cursor, wishes.types)
            if source.over:
                # 204 would tell an EventSource to stop, but that one cannot post; those who can take a 204 for an
                # error and ask again for ever.
                return Reply(200, HEADERS[Form.SSE], sse.DONE)
            return open_stream(
                self._runtime,
                source,
                Form.SSE,
                heartbeat=self._heartbeat,
                options=wishes.options,
                asked=cursor,
            )
        except (Problem, StoreUnavailable) as error:
            problem = as_problem(error, self._runtime.public)
            if problem.retry_after is not None:
                return refuse(problem, text)
            status, told, body = plain(problem, self._runtime.public)
            return Reply(status, [*told], body)


def _accepted(answer: Answer, prefer: str) -> Reply:
    """202. With `Prefer: respond-async` (RFC 7240 section 4.1) its `Location` answers 202 until the end."""
    more: Headers = [(b"retry-after", b"%d" % (answer.retry_after or 1))]
    if "respond-async" in preferences(prefer):
        more.append((b"preference-applied", b"respond-async"))
        return _reply(answer, answer.location + "?pending=202", more)
    return _reply(answer, answer.location, more)


def _reply(answer: Answer, location: str | None = None, more: Headers | None = None) -> Reply:
    headers = [
        (b"content-type", b"application/json"),
        (b"location", (location or answer.location).encode()),
        (b"cache-control", b"no-store"),
        *(more or ()),
    ]
    return Reply(answer.status, headers, end_line(answer.body))
