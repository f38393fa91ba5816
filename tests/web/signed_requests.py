"""Requests of every route and every WebSocket command, signed in by every way there is: for tables of refusals.

The routes are those that the app has, so a new one is in every table unasked.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from eventstore.memory_backend import MemoryBackend
from server.auth.authenticator import Presented, Reader
from server.auth.credentials import NewCredential, generate
from server.auth.principal import ALL_SCOPES, Principal
from server.ids import new_id
from server.web.edge.authorization import LOOPBACK_COOKIE, TICKET_PROTOCOL
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.unreliable_logs import T, Wrapped

from .asgi import HOST, Answered, Web

ORIGIN = f"http://{HOST}"
PAGE = {"Origin": ORIGIN}
SSE = {"Accept": "text/event-stream"}
SHORT = FakeUpstream(("a",), ("b",))
READS = ("read", "heads", "find_key", "load_snapshot", "list_streams", "append")
KEY = "a-key-of-sixteen-characters"
COMMANDS: dict[str, dict[str, Any]] = {
    "post": {"role": "user", "content": "x"},
    "generate": {"model": "fake", "input": "x"},
    "cancel": {"generation": ""},
    "steer": {"generation": "", "name": "x", "value": 1},
    "budget": {"generation": "", "tokens": 5},
    "decide": {"generation": "", "call": "", "decision": "approved", "proposed_digest": "0" * 64},
    "tool_result": {"generation": "", "call": "", "result": 1},
    "resync": {"after": 1},
}
"""Each command of a WebSocket, with a body that nothing is wrong with."""
BODIES: dict[str, Any] = {
    "messages": {"role": "user", "content": "x"},
    "generations": {"model": "fake", "input": "x", "if_running": "queue"},
    "steer": {"name": "x", "value": 1},
    "budget": {"tokens": 5},
    "decisions": {"call": "call_" + "0" * 26, "decision": "approved", "proposed_digest": "0" * 64},
    "result": {"result": 1},
    "files": b"a file",
}
"""Bodies of POSTs by the last part of their address; any other takes an empty object. Bytes are no JSON."""


class CountedLog(Wrapped):
    """A log that says which calls were made to it."""

    def __init__(self, shared: MemoryBackend | None = None) -> None:
        self.shared = shared or MemoryBackend()
        super().__init__(self.shared.process())
        self.calls: list[str] = []

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        if name in READS:
            self.calls.append(name)
        return await call()


@dataclass(frozen=True)
class Route:
    """One address and method, or form of it. `query`: which form."""

    method: str
    rule: str
    websocket: bool = False
    query: str = ""

    def __str__(self) -> str:
        return f"{'WEBSOCKET' if self.websocket else self.method} {self.rule}?{self.query}"

    @property
    def takes_id(self) -> str | None:
        """What its address names: `conversation`, `generation`, `file`, or nothing."""
        found = re.match("/v1/(conversation|generation|file)s/<", self.rule)
        return found[1] if found else None

    @property
    def is_stream(self) -> bool:
        """Whether a ticket opens it."""
        return self.websocket or self.rule.endswith("/events")

    def path(self, name: str) -> str:
        """The address, of this conversation or generation."""
        with_name = re.sub(r"<(\w+:)?(name|digest)>", name, self.rule)
        return with_name.replace("<call:call>", "call_" + "0" * 26)


def every_route(app: Web) -> list[Route]:
    """All that the app serves, each GET as HEAD too, a log in each of its forms, a snapshot also of the past."""
    found = []
    for rule in app.quart.url_map.iter_rules():
        if rule.websocket:
            found.append(Route("GET", rule.rule, websocket=True))
            continue
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            queries = [""]
            if rule.rule.endswith("/events") and method == "GET":
                queries = ["format=sse", "format=ndjson", "format=json", "wait=0"]
            elif re.search("/<(conv|gen):name>$", rule.rule) and method == "GET":
                queries = ["", "at=3"]
            found += [Route(method, rule.rule, query=query) for query in queries]
    return found


@dataclass
class Signed:
    """How a request is signed in: what stands in its headers, its query, its subprotocols."""

    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    subprotocols: tuple[str, ...] = ()


async def ask(app: Web, route: Route, name: str, signed: Signed, texts: Iterable[object] = ()) -> Answered:
    """One request; of a stream the first chunk."""
    query = "&".join(part for part in (route.query, signed.query) if part)
    path = route.path(name)
    if route.websocket:
        protocols = ("tokentape.v1", *signed.subprotocols) if signed.subprotocols else ()
        return await app.upgrade(path, signed.headers, query=query, texts=list(texts), subprotocols=protocols)
    body = BODIES.get(path.rpartition("/")[2], {}) if route.method == "POST" else None
    headers = {"Content-Type": "text/plain", **signed.headers} if isinstance(body, bytes) else signed.headers
    return await app.ask(route.method, path, headers, body, query=query)


class SignedApp:
    """An app with conversations of two tenants, and everybody who may want something of them.

    `log`: where it says which calls are made to it.
    """

    def __init__(self, app: Web, log: CountedLog | None = None) -> None:
        self.app, self.log = app, log or CountedLog()
        self.names: dict[tuple[str, str], str] = {}

    async def fill(self) -> None:
        """A conversation and a generation of `own` and of `other`; ids that name nothing are `unknown`."""
        for owner, tenant in (("own", "acme"), ("other", "rival")):
            signed = bearer(await self.key(ALL_SCOPES, tenant))
            made = await self.app.post("/v1/conversations", {"title": "T"}, signed.headers)
            self.names["conversation", owner] = made.json["id"]
            run = await self.app.post(
                f"/v1/conversations/{made.json['id']}/generations", {"model": "fake", "input": "x"}, signed.headers
            )
            self.names["generation", owner] = run.json["id"]
            await self.app.ask("GET", f"{run.headers['location']}/events", {**signed.headers, **SSE}, whole=True)
            text = {**signed.headers, "Content-Type": "text/plain"}
            file = await self.app.ask("POST", "/v1/files", text, owner.encode(), whole=True)
            self.names["file", owner] = file.json["digest"]
        self.names["file", "unknown"] = "0" * 64
        self.names["conversation", "unknown"] = new_id("conv")
        self.names["generation", "unknown"] = new_id("gen")

    def name(self, route: Route, owner: str) -> str:
        """The id for the address of a route."""
        return self.names.get((route.takes_id or "", owner), "")

    async def key(
        self, scopes: Iterable[str], tenant: str = "acme", seconds: float | None = None
    ) -> NewCredential:
        """A new API key."""
        key = generate("key")
        await self.app.keys.add_key(key, tenant, "", frozenset(scopes), seconds)
        return key

    async def principal(self, key: NewCredential) -> Principal:
        """Who a key is of."""
        return await self.app.authenticator.authenticate(
            Presented(f"Bearer {key.text}", None, None, Reader("192.0.2.1"))
        )

    async def session(self, key: NewCredential) -> str:
        """A session made with the key."""
        return (await self.app.authenticator.create_session(await self.principal(key))).text

    async def ticket(self, key: NewCredential, route: Route, name: str, scopes: Iterable[str]) -> str:
        """A ticket for that stream."""
        transport = "websocket" if route.websocket else "sse"
        principal = await self.principal(key)
        return (await self.app.authenticator.issue_ticket(principal, name, transport, scopes)).text  # type: ignore[arg-type]


def bearer(credential: NewCredential | str) -> Signed:
    """By `Authorization`."""
    text = credential if isinstance(credential, str) else credential.text
    return Signed({"Authorization": f"Bearer {text}"})


def cookie(text: str, name: str = LOOPBACK_COOKIE) -> Signed:
    """By the session's cookie, from a page of the server's own."""
    return Signed({"Cookie": f"theme=dark; {name}={text}", **PAGE})


def ticketed(text: str) -> Signed:
    """By a ticket in the address."""
    return Signed(query=f"ticket={text}")


def subprotocol(text: str) -> Signed:
    """By a ticket among the subprotocols."""
    return Signed(subprotocols=(TICKET_PROTOCOL + text,))


def told(answer: Answered) -> tuple[object, ...]:
    """All that a client can see of an answer, but for the id of the request."""
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status, headers, answer.body, answer.accepted, answer.closed, answer.frames


def code(answer: Answered) -> str | None:
    """The problem's code, of an HTTP response or of a WebSocket that was refused."""
    errors = [frame["code"] for frame in answer.frames if frame["kind"] == "error"]
    return errors[0] if errors else answer.code if answer.body else None
