"""The WebSocket: a conversation's log in order, and commands back, on one connection.

Owns the life of one WebSocket. One task reads commands, one after the other, so that they take effect in the order
in which the client sent them. Another task sends the log, and between its events who is connected. Every message
is sent whole, under one lock; one that tells a state is made when the lock is held, so that it is never out of
date. A slow client delays only its own reader, whose whole state is a position. Must not know how a command is
carried out: the functions are those of POST.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import trio
from quart import Blueprint, websocket

from eventstore import Erased, Event, StoreUnavailable, Trimmed
from eventstore.subscription import Waker
from server import wire_formats
from server.conversations.command_types import Caller
from server.conversations.idempotency_keys import check_command_key
from server.http.websocket import SEND_TEXTS
from server.problem import Problem, not_found
from server.runtime.conversation_service import ConversationService
from server.runtime.stream_drain import StreamLease
from server.web.commands import command_endpoints as commands
from server.web.commands.command_endpoints import CommandResult, caller_of
from server.web.commands.request_models import check_clean, decode
from server.web.edge.authorization import Authorization, Grant
from server.web.edge.http_messages import PlainRequest
from server.web.edge.ownership import Ownership
from server.web.edge.problem_json import as_problem, from_store
from server.web.edge.quart_adapter import plain_request
from server.web.edge.route_scopes import COMMAND_SCOPES, RouteScope
from server.web.transports.log_reader import LogSelection, find_conversation
from server.web.transports.presence import Participant, Presence
from server.web.transports.read_params import parse_cursor, read_cursor, read_types, resolve_cursor
from server.web.transports.sse_ndjson import CHUNK_BYTES

ROUTE = "/v1/conversations/<conv:name>/ws"
UNSUPPORTED, RESTART, LATER = 1003, 1012, 1013
"""Close codes of https://www.iana.org/assignments/websocket: text only; come back now; come back later."""
BAD_REQUEST, EXPIRED = 4400, 4410
CLOSE_CODES = {400: BAD_REQUEST, 401: 4401, 403: 4403, 404: 4404, 410: EXPIRED}
"""Close codes of our own, after which a client must not come back: 4000 and the status of a refused GET."""
MAX_AUTHOR = 200
"""Characters of an author's name."""

Body = dict[str, Any]


class WebSocket(Protocol):
    """One WebSocket, as the endpoint needs it: the dispatcher's or Quart's."""

    @property
    def scope(self) -> Any:
        """The ASGI scope, with the extension `SEND_TEXTS`."""
        ...

    @property
    def requested_subprotocols(self) -> list[str]:
        """The subprotocols that the client offers."""
        ...

    async def accept(self, *, subprotocol: str | None) -> None:
        """Completes the upgrade."""
        ...

    async def receive(self) -> str | bytes | None:
        """The next message; None when the client has gone."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Closes the WebSocket (RFC 6455 section 7.4)."""
        ...


class WebSocketEndpoint:
    """Serves the WebSockets of one process."""

    def __init__(self, runtime: ConversationService, authorization: Authorization) -> None:
        self._runtime = runtime
        self._authorization = authorization
        self._presence = Presence()

    async def authorize(self, route: RouteScope, socket: WebSocket, request: PlainRequest, name: str) -> bool:
        """As `Authorization.authorize`, for the upgrade. False: it was refused for good, and has its answer.

        Raises `Problem` for a refusal that passes, and for a foreign page.
        """
        self._runtime.drain.refuse_stream()
        try:
            await self._authorization.authorize(route, request, [name])
        except Problem as problem:
            if problem.retry_after is not None or problem.code == "origin_required":
                raise
            await _refuse_for_good(socket, problem)
            return False
        return True

    async def __call__(self, socket: WebSocket, request: PlainRequest, name: str) -> None:
        """Serves one WebSocket whose request was granted, from before its upgrade to its end.

        Raises `Problem` 503 and `StoreUnavailable` before the upgrade. Client libraries back off when an upgrade
        is refused with a status; after an upgrade that is closed they reconnect at once, a hundred times a second.
        """
        runtime, grant, args = self._runtime, request.granted, request.args
        grant.check_stream(runtime.drain)
        # Enter before the first await: WebSockets that come meanwhile have to see that this place is taken.
        stay = grant.enter(runtime.drain, "websocket")
        try:
            try:
                author = _author(args.get("author"))
                cursor, types = read_cursor({}, args), read_types(args)
                selection = await find_conversation(runtime, name, cursor, types)
            except (Problem, Trimmed, Erased) as error:
                problem = as_problem(error, runtime.public)
                if problem.retry_after is not None:
                    raise
                await _refuse_for_good(socket, problem)
                return
            await _accept(socket)
            if selection.behind is not None:
                runtime.metrics.resumed("websocket", selection.behind)
            with self._presence.enter(name, author, grant.principal.subject) as participant:
                ownership, caller = self._authorization.ownership, caller_of(request)
                session = _Session(runtime, socket, ownership, grant, caller, name, selection, stay, participant)
                await session.serve()
        finally:
            runtime.drain.leave(stay)


def routes(endpoint: WebSocketEndpoint) -> Blueprint:
    """The one address, for upgrades that the dispatcher passes on. A bad name is refused by the endpoint."""
    blueprint = Blueprint("websocket", __name__)

    @blueprint.websocket("/v1/conversations/<name>/ws")
    async def serve(name: str) -> None:
        socket = websocket._get_current_object()  # type: ignore[attr-defined]  # websocket is a werkzeug proxy
        await endpoint(socket, plain_request(), name)

    return blueprint


class _Session:
    """One WebSocket that has been accepted."""

    def __init__(
        self,
        runtime: ConversationService,
        socket: WebSocket,
        ownership: Ownership,
        grant: Grant,
        caller: Caller,
        conversation: str,
        selection: LogSelection,
        stay: StreamLease,
        participant: Participant,
    ) -> None:
        self._runtime = runtime
        self._socket = socket
        self._ownership = ownership
        self._grant = grant
        self._caller = caller
        self._conversation = conversation
        self._selection = selection
        self._stay = stay
        self._participant = participant
        self._send_texts = socket.scope["extensions"][SEND_TEXTS]["send"]
        self._sending = trio.Lock()
        self._waker: Waker | None = None
        self._resync: _Resync | None = None
        self._closing = (RESTART, "")  # code and reason

    async def serve(self) -> None:
        """Runs until the client goes, the server stops, or the log can be read no further."""
        hello = wire_formats.ws_hello(self._conversation, self._selection.cursor, self._selection.head)
        await self._send_texts([hello, self._participant.message()])
        self._participant.on_change = self._wake_sender
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_commands, nursery.cancel_scope)
            self._closing = await self._send_log()
            nursery.cancel_scope.cancel()
        await self._socket.close(*self._closing)

    def _wake_sender(self) -> None:
        """Makes the sending task look whether there is anything to send besides events."""
        if self._waker is not None:
            self._waker.interrupt()

    async def _send(self, message: str) -> None:
        async with self._sending:
            await self._send_texts([message])

    # -- out: the log, and who is connected

    async def _send_log(self) -> tuple[int, str]:
        """Sends the log to its end, or to the end of the stay. Returns the close code and its reason."""
        after = self._selection.cursor
        seen = self._selection.head
        while True:
            try:
                await self._send_events_after(after, seen)
            except (StoreUnavailable, Trimmed, Erased) as error:
                if isinstance(error, StoreUnavailable):
                    self._runtime.metrics.streams_cut.add("store_away", "websocket")
                problem = from_store(error, self._runtime.public)
                await self._send(wire_formats.ws_error(None, problem.code, problem.detail, problem.extra))
                return (LATER if isinstance(error, StoreUnavailable) else EXPIRED), problem.code
            why = self._grant.authenticator.why_ended(self._grant.principal) if self._stay.over else None
            if why is not None:
                await self._send(wire_formats.ws_error(None, why.code, why.detail, why.extra))
                return CLOSE_CODES[why.status], why.code
            resync = self._resync
            if resync is None:
                return RESTART, "draining" if self._runtime.drain.begun else "time is up, come back"
            after, seen = resync.after, resync.head
            self._resync = None
            resync.taken.set()
            await self._send(wire_formats.ws_reply(resync.command, {"status": 200, "body": {"after": after}}))

    async def _send_events_after(self, after: int, seen: int) -> None:
        """Runs until the stay is over, or a resync asks for another position. `seen`: the head, as it was read."""
        with self._runtime.store.subscribe(self._conversation, after, seen=seen) as subscription:
            self._waker = subscription.waker
            caught_up = False
            while not self._stay.over and self._resync is None:
                if self._participant.due <= trio.current_time():
                    async with self._sending:
                        await self._send_texts([self._participant.message()])
                if caught_up and not await self._stay.sleep(subscription.waker, self._participant.due):
                    continue
                events = await subscription.poll()
                if self._stay.revoked:
                    return
                if events:
                    await self._send_events(event for event in events if self._selection.includes(event))
                elif not caught_up:
                    caught_up = True
                    await self._send(wire_formats.ws_caught_up(subscription.position))

    async def _send_events(self, events: Iterable[Event]) -> None:
        """Sends events in chunks of bounded size: more memory is never held for a client that stops reading."""
        texts: list[str] = []
        size = 0
        for event in events:
            texts.append(wire_formats.ws_event(event))
            size += len(texts[-1])
            if size >= CHUNK_BYTES:
                async with self._sending:
                    await self._send_texts(texts)
                texts, size = [], 0
        if texts:
            async with self._sending:
                await self._send_texts(texts)

    # -- in: commands

    async def _read_commands(self, both: trio.CancelScope) -> None:
        while True:
            text = await self._socket.receive()
            if text is None:
                both.cancel()
                return
            if not isinstance(text, str):
                self._closing = UNSUPPORTED, "text frames only"
                both.cancel()
            else:
                await self._answer(text)

    async def _answer(self, text: str) -> None:
        command: Any = None
        refusal: Problem | None = None
        try:
            try:
                self._grant.count_command()  # before all else: a flood of what is no command counts too
            except Problem as too_many:
                refusal = too_many
            body = decode(text)
            check_clean({"id": body.get("id")})  # before all else: the error message has to hold the id
            if not isinstance(body.get("id"), str | int | None) or len(str(body.get("id"))) > 200:
                raise Problem(422, "invalid_request", "id: it has to be a short string or a number.")
            command = body.pop("id", None)
            if refusal is not None:
                raise refusal
            check_clean(body)
            result = await self._carry_out(command, body)
        except Exception as error:  # not closed: the client would reconnect and send the command again
            problem = as_problem(error, self._runtime.public)
            await self._send(
                wire_formats.ws_error(
                    command, problem.code, problem.detail, {"status": problem.status, **problem.extra}
                )
            )
            return
        if result is not None:
            fields = {"status": result.status, "location": result.location, "body": msgspec.Raw(result.body)}
            await self._send(wire_formats.ws_reply(command, fields))

    async def _carry_out(self, command: Any, body: Body) -> CommandResult | None:
        self._grant.check()
        verb = body.pop("do", None)
        key = body.pop("key", None)
        if not isinstance(verb, str) or verb not in COMMAND_SCOPES:
            raise Problem(
                422, "unknown_command", f"do: one of {', '.join(COMMAND_SCOPES)}; not {str(verb)[:100]!a}."
            )
        self._grant.check_command(verb)
        if verb == "resync":
            await self._request_resync(command, body)
            return None
        key = check_command_key(key, required=verb != "cancel")  # to cancel twice does no harm
        endpoint, named = _VERBS[verb]
        ids = [_pop_id(body, field) for field in named]
        if ids:
            await self._check_generation(ids[0])
        return await endpoint(self._runtime, self._caller, *(ids or [self._conversation]), body, key)

    async def _check_generation(self, generation: str) -> None:
        """Raises `Problem` 404 for an unknown generation.

        One of another conversation counts as unknown: a client of one conversation may not act in others.
        """
        if await self._ownership.check_generation(self._grant.principal, generation) != self._conversation:
            raise not_found("generation")

    async def _request_resync(self, command: Any, body: Body) -> None:
        after = body.get("after")
        if isinstance(after, bool) or not isinstance(after, int | str):
            raise Problem(400, "invalid_cursor", "after: a whole number ≥ 0, or now.")
        head = await self._runtime.head_of(self._conversation)
        position = resolve_cursor(parse_cursor(str(after)), head.position)
        if position < head.earliest - 1:
            raise Trimmed(self._conversation, position, head.earliest, head.position)
        self._runtime.metrics.resumed("websocket", head.position - position)
        resync = self._resync = _Resync(command, position, head.position)
        self._wake_sender()
        await resync.taken.wait()  # a second resync, sent right after, would replace this one, which got no reply


@dataclass(eq=False, slots=True)
class _Resync:
    """A client's wish to read on from another position. `taken` is set when the sending task has moved there."""

    command: Any
    after: int
    head: int
    taken: trio.Event = field(default_factory=trio.Event)


def _pop_id(body: Body, field: str) -> str:
    name = body.pop(field, None)
    if not isinstance(name, str):
        raise Problem(422, "invalid_request", f"{field}: the id of the {field} this is for.")
    return name


_VERBS: Mapping[str, tuple[Callable[..., Awaitable[CommandResult]], Sequence[str]]] = {
    "post": (commands.message_endpoint, ()),
    "generate": (commands.generation_endpoint, ()),
    "cancel": (commands.cancel_endpoint, ("generation",)),
    "steer": (commands.steer_endpoint, ("generation",)),
    "budget": (commands.budget_endpoint, ("generation",)),
    "decide": (commands.decision_endpoint, ("generation",)),
    "tool_result": (commands.tool_result_endpoint, ("generation", "call")),
}
"""The command of each `do`, and the ids that its message holds beside the fields of the POST. One without a
generation is for the conversation of the WebSocket."""


def _author(name: str | None) -> str | None:
    """The name under which the client wants to be seen. Raises `Problem` 400, 422."""
    if name is None:
        return None
    check_clean({"author": name})
    if not 0 < len(name) <= MAX_AUTHOR:
        raise Problem(
            400, "invalid_author", f"author: a name of 1 to {MAX_AUTHOR} characters; leave it out to have none."
        )
    return name


async def _accept(socket: WebSocket) -> None:
    offered = wire_formats.SUBPROTOCOL in socket.requested_subprotocols
    await socket.accept(subprotocol=wire_formats.SUBPROTOCOL if offered else None)


async def _refuse_for_good(socket: WebSocket, problem: Problem) -> None:
    """Completes the upgrade, and closes with an error frame that says why.

    A page cannot see the status of a refused upgrade, and its library would reconnect for ever.
    """
    await _accept(socket)
    send_texts = socket.scope["extensions"][SEND_TEXTS]["send"]
    await send_texts([wire_formats.ws_error(None, problem.code, problem.detail, problem.extra)])
    await socket.close(CLOSE_CODES.get(problem.status, BAD_REQUEST), problem.code)
