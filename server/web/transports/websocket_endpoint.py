"""The WebSocket: the conversation's log in order, and commands back, on one connection.

One task reads commands, one after the other, so that what a client sends takes effect in its order; another sends
the log, and between its events who is there. A slow client slows only its own reader, whose whole state is a
position. Every frame goes out whole, under one lock, and what a frame holds is settled when the lock is had.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
import trio
from quart import Blueprint, Websocket, websocket

from eventstore import Erased, Event, StoreUnavailable, Trimmed
from eventstore.wakeups import Waker
from server.errors import Problem, not_found
from server.http.asgi import SEND_TEXTS
from server.runtime.runtime import Runtime
from server.runtime.stream_drain import Stay
from server.web.commands import command_endpoints as answers
from server.web.commands.command_endpoints import Answer
from server.web.commands.idempotency import CALLER, check_command_key
from server.web.commands.request_body import check_clean, decode
from server.web.edge.problems import as_problem, from_store
from server.web.transports.log_reader import Source, find_conversation
from server.web.transports.presence import Presence, Present
from server.web.transports.read_params import parse_cursor, read_cursor, read_types, resolve_cursor
from server.web.transports.sse_ndjson import CHUNK_BYTES
from server.wire import websocket as frames

UNSUPPORTED, BAD_ADDRESS, UNKNOWN, EXPIRED, RESTART, LATER = 1003, 4400, 4404, 4410, 1012, 1013
AUTHOR_MOST = 200

Body = dict[str, Any]


class Client(Protocol):
    """The client of one WebSocket: of Quart's, or of the direct way."""

    @property
    def scope(self) -> Any:
        """ASGI's, with the extension `SEND_TEXTS`."""
        ...

    @property
    def requested_subprotocols(self) -> list[str]:
        """What it offers to speak."""
        ...

    async def accept(self, *, subprotocol: str | None) -> None:
        """Completes the upgrade."""
        ...

    async def receive(self) -> str | bytes | None:
        """The next message; None when it has gone."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Says goodbye."""
        ...


class WebSocketEndpoint:
    """Answers upgrades at the one WebSocket address."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._presence = Presence()

    async def __call__(self, client: Client, args: Mapping[str, str], name: str) -> None:
        """Serves one WebSocket, from before its upgrade to its end. `args`: the query's parameters.

        Raises `Problem` and `StoreUnavailable` before the upgrade, for what passes: refused by status, client
        libraries back off; accepted and then closed, they come back at once, a hundred times a second.
        """
        runtime = self._runtime
        runtime.drain.refuse_stream()
        # At once: those that come while this one is looked up have to see it.
        stay = runtime.drain.enter("websocket")
        try:
            try:
                author = _author(args.get("author"))
                cursor, types = read_cursor({}, args), read_types(args)
                source = await find_conversation(runtime, name, cursor, types)
            except (Problem, Trimmed, Erased) as error:
                problem = as_problem(error, runtime.public)
                if problem.retry_after is not None:
                    raise
                # What is final is told after it: a page cannot see the status of a refused upgrade, and its
                # library would ask for ever.
                await _accept(client)
                await _close_with(client, problem)
                return
            await _accept(client)
            if source.behind is not None:
                runtime.metrics.resumed("websocket", source.behind)
            with self._presence.enter(name, author, CALLER) as present:
                await _Socket(runtime, client, name, source, stay, present).serve()
        finally:
            runtime.drain.leave(stay)


def routes(endpoint: WebSocketEndpoint) -> Blueprint:
    """The one WebSocket address."""
    blue = Blueprint("sockets", __name__)

    @blue.websocket("/v1/conversations/<name>/ws")
    async def socket(name: str) -> None:
        client: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # a werkzeug proxy
        await endpoint(client, client.args, name)

    return blue


class _Socket:
    def __init__(
        self,
        runtime: Runtime,
        client: Client,
        conversation: str,
        source: Source,
        stay: Stay,
        present: Present,
    ) -> None:
        self._runtime = runtime
        self._client = client
        self._conversation = conversation
        self._source = source
        self._stay = stay
        self._present = present
        self._send_texts = client.scope["extensions"][SEND_TEXTS]["send"]
        self._sending = trio.Lock()
        self._waker: Waker | None = None
        self._rewind: tuple[Any, int, int] | None = None
        self._rewound: trio.Event | None = None
        self._closing = (RESTART, "")

    async def serve(self) -> None:
        """Until the client goes, the server drains, or something is wrong with either."""
        hello = frames.hello(self._conversation, self._source.cursor, self._source.head)
        await self._send_texts([hello, self._present.frame()])
        self._present.on_news = self._look_up
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, nursery.cancel_scope)
            self._closing = await self._tell_all()
            nursery.cancel_scope.cancel()
        await self._client.close(*self._closing)

    def _look_up(self) -> None:
        """Who sends looks what there is to send besides events."""
        if self._waker is not None:
            self._waker.nudge()

    async def _send(self, frame: str) -> None:
        async with self._sending:
            await self._send_texts([frame])

    # -- the log and who is there, out

    async def _tell_all(self) -> tuple[int, str]:
        """The close code and reason when the log, or the stay, is over."""
        after = self._source.cursor
        seen = self._source.head
        while True:
            try:
                await self._tell_from(after, seen)
            except (StoreUnavailable, Trimmed, Erased) as error:
                if isinstance(error, StoreUnavailable):
                    self._runtime.metrics.streams_cut.add("store_away", "websocket")
                problem = from_store(error, self._runtime.public)
                await self._send(frames.error(None, problem.code, problem.detail, problem.extra))
                return (LATER if isinstance(error, StoreUnavailable) else EXPIRED), problem.code
            if self._rewind is None:
                return RESTART, "draining" if self._runtime.drain.begun else "time is up, come back"
            command, after, seen = self._rewind
            self._rewind = None
            if self._rewound is not None:
                self._rewound.set()
            await self._send(frames.reply(command, {"status": 200, "body": {"after": after}}))

    async def _tell_from(self, after: int, seen: int) -> None:
        """Until the stay is over or a resync wants another position. `seen`: the head as it was read."""
        with self._runtime.store.subscribe(self._conversation, after, seen=seen) as subscription:
            self._waker = subscription.waker
            told = False
            while not self._stay.over and self._rewind is None:
                if self._present.due <= trio.current_time():
                    async with self._sending:
                        await self._send_texts([self._present.frame()])
                if told and not await self._stay.sleep(subscription.waker, self._present.due):
                    continue
                events = await subscription.look()
                if events:
                    await self._tell_events(event for event in events if self._source.wants(event))
                elif not told:
                    told = True
                    await self._send(frames.caught_up(subscription.position))

    async def _tell_events(self, events: Iterable[Event]) -> None:
        """Sends them in pieces of some size: what a reader that takes nothing holds besides the log."""
        texts: list[str] = []
        size = 0
        for event in events:
            texts.append(frames.event(event))
            size += len(texts[-1])
            if size >= CHUNK_BYTES:
                async with self._sending:
                    await self._send_texts(texts)
                texts, size = [], 0
        if texts:
            async with self._sending:
                await self._send_texts(texts)

    # -- commands, in

    async def _hear(self, both: trio.CancelScope) -> None:
        while True:
            text = await self._client.receive()
            if text is None:
                both.cancel()
                return
            if not isinstance(text, str):
                self._closing = UNSUPPORTED, "text frames only"
                both.cancel()
            else:
                await self._obey(text)

    async def _obey(self, text: str) -> None:
        command: Any = None
        try:
            body = decode(text)
            check_clean({"id": body.get("id")})  # first: only an id that can be sent back is
            if not isinstance(body.get("id"), str | int | None) or len(str(body.get("id"))) > 200:
                raise Problem(422, "invalid_request", "id: it has to be a short string or a number.")
            command = body.pop("id", None)
            check_clean(body)
            answer = await self._do(command, body)
        except Exception as error:  # a fault is this command's alone; closed, the client would come back with it
            problem = as_problem(error, self._runtime.public)
            await self._send(
                frames.error(command, problem.code, problem.detail, {"status": problem.status, **problem.extra})
            )
            return
        if answer is not None:
            fields = {"status": answer.status, "location": answer.location, "body": msgspec.Raw(answer.body)}
            await self._send(frames.reply(command, fields))

    async def _do(self, command: Any, body: Body) -> Answer | None:
        verb = body.pop("do", None)
        key = body.pop("key", None)
        if verb == "resync":
            await self._resync(command, body)
            return None
        act = _VERBS.get(verb) if isinstance(verb, str) else None
        if act is None:
            raise Problem(
                422, "unknown_command", f"do: one of {', '.join([*_VERBS, 'resync'])}; not {str(verb)[:100]!a}."
            )
        key = check_command_key(key, required=verb != "cancel")  # cancelling twice is cancelling once
        return await act(self._runtime, self._conversation, body, key)

    async def _resync(self, command: Any, body: Body) -> None:
        after = body.get("after")
        if isinstance(after, bool) or not isinstance(after, int | str):
            raise Problem(400, "invalid_cursor", "after: a whole number ≥ 0, or now.")
        head = await self._runtime.head_of(self._conversation)
        position = resolve_cursor(parse_cursor(str(after)), head.position)
        if position < head.earliest - 1:
            raise Trimmed(self._conversation, position, head.earliest, head.position)
        self._runtime.metrics.resumed("websocket", head.position - position)
        self._rewind, self._rewound = (command, position, head.position), trio.Event()
        self._look_up()
        await self._rewound.wait()  # a second resync right behind would take the first one's place and reply


Act = Callable[[Runtime, str, Body, str | None], Awaitable[Answer]]


def _of_generation(act: Act) -> Act:
    """A verb whose frame names its generation beside the fields of the POST."""

    async def do(runtime: Runtime, conversation: str, body: Body, key: str | None) -> Answer:
        return await act(runtime, await _generation_here(runtime, conversation, body), body, key)

    return do


async def _tool_result(runtime: Runtime, conversation: str, body: Body, key: str | None) -> Answer:
    generation, call = await _generation_here(runtime, conversation, body), _named(body, "call")
    return await answers.finish_call(runtime, generation, call, body, key)


async def _generation_here(runtime: Runtime, conversation: str, body: Body) -> str:
    """The generation that a command names. Raises `Problem` 404 for an unknown one.

    One of another conversation is unknown here: who may talk in one conversation may not act in all of them.
    """
    generation = _named(body, "generation")
    if (await runtime.place(generation)).stream != conversation:
        raise not_found("generation")
    return generation


def _named(body: Body, field: str) -> str:
    name = body.pop(field, None)
    if not isinstance(name, str):
        raise Problem(422, "invalid_request", f"{field}: the id of the {field} this is for.")
    return name


_VERBS: Mapping[str, Act] = {
    "post": answers.post_message,
    "generate": answers.request_generation,
    "cancel": _of_generation(answers.cancel_generation),
    "steer": _of_generation(answers.steer_generation),
    "decide": _of_generation(answers.decide_call),
    "tool_result": _tool_result,
}


def _author(name: str | None) -> str | None:
    """The name that a client gives itself. Raises `Problem` 400, 422."""
    if name is None:
        return None
    check_clean({"author": name})
    if not 0 < len(name) <= AUTHOR_MOST:
        raise Problem(
            400, "invalid_author", f"author: a name of 1 to {AUTHOR_MOST} characters; leave it out to have none."
        )
    return name


async def _accept(client: Client) -> None:
    offered = frames.SUBPROTOCOL in client.requested_subprotocols
    await client.accept(subprotocol=frames.SUBPROTOCOL if offered else None)


async def _close_with(client: Client, problem: Problem) -> None:
    send_texts = client.scope["extensions"][SEND_TEXTS]["send"]
    await send_texts([frames.error(None, problem.code, problem.detail, problem.extra)])
    await client.close({404: UNKNOWN, 410: EXPIRED}.get(problem.status, BAD_ADDRESS), problem.code)
