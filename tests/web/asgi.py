"""The whole web app in this process, asked as a host would ask it: requests and upgrades go in, answers come out.

No socket and no server, so that a table of thousands of requests is a matter of seconds.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio

from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from server.auth.authenticator import Authenticator
from server.auth.jwt_verifier import JwtVerifier
from server.auth.limits.limit_list import parse_limits
from server.auth.limits.rate_limiter import RateLimiter
from server.auth.memory_auth_store import MemoryAuthStore
from server.config import Settings
from server.config.price_table import PriceTable
from server.config.web_addresses import PublicUrl
from server.files.memory_file_store import MemoryFileStore
from server.http.websocket import SEND_TEXTS
from server.providers import Provider
from server.runtime.conversation_service import ConversationService
from server.web.app import build
from server.workflows import Registry
from tests.runtime.runtime_process import process

PATIENCE = 10.0
HOST = "localhost:8000"
Headers = Mapping[str, str | bytes]


@dataclass
class Answered:
    """What came back. `ended`: the body is whole. A WebSocket's texts are in `frames`, its close in `closed`."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    accepted: bool = False
    frames: list[Any] = field(default_factory=list)
    closed: int | None = None
    subprotocol: str | None = None

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """Of a problem."""
        problem = self.headers.get("content-type") == "application/problem+json"
        code: str | None = self.json["code"] if problem else None
        return code


class Web:
    """The app around one runtime."""

    def __init__(
        self,
        runtime: ConversationService,
        settings: Settings,
        keys: MemoryAuthStore,
        authenticator: Authenticator,
        limiter: RateLimiter,
    ) -> None:
        self.runtime = runtime
        self.keys = keys
        self.authenticator = authenticator
        self.limiter = limiter
        self._app: Any = build(runtime, settings, authenticator, limiter)

    @property
    def quart(self) -> QuartTrio:
        """Quart's part of it, which knows the routes."""
        app = self._app.framework
        while not isinstance(app, QuartTrio):
            app = app._app
        return app

    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers | None = None,
        body: object = None,
        *,
        query: str = "",
        whole: bool = False,
        version: str = "1.1",
    ) -> Answered:
        """One request. `body`: bytes as they are, anything else as JSON.

        A stream is left at its first chunk, unless it is wanted `whole`.
        """
        sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        typed = {} if body is None else {"Content-Type": "application/json"}
        if body is not None and version == "1.1" and "Transfer-Encoding" not in (headers or {}):
            typed["Content-Length"] = str(len(sent))
        scope = _scope("http", path, {"Host": HOST, **typed, **(headers or {})}, query)
        scope |= {"method": method, "http_version": version}
        incoming = [{"type": "http.request", "body": sent, "more_body": False}]
        return await self._run(scope, incoming, whole=whole)

    async def post(self, path: str, body: object, headers: Headers | None = None) -> Answered:
        """A POST of JSON, with its answer to the end."""
        return await self.ask("POST", path, headers, body, whole=True)

    async def upload(
        self, parts: Sequence[bytes], headers: Headers | None = None, *, cut: bool = False, stall: bool = False
    ) -> Answered:
        """A POST of a file that comes in these parts. Its client then goes (`cut`), or sends nothing (`stall`)."""
        scope = _scope("http", "/v1/files", {"Host": HOST, **(headers or {})}, "") | {"method": "POST"}
        incoming: list[Any] = [
            part if callable(part) else {"type": "http.request", "body": part, "more_body": True} for part in parts
        ]
        if cut:
            incoming.append({"type": "http.disconnect"})
        elif stall:
            incoming.append(trio.sleep_forever)
        else:
            incoming.append({"type": "http.request", "body": b"", "more_body": False})
        return await self._run(scope, incoming, whole=True)

    async def follow(self, path: str, headers: Headers, query: str, heard: Callable[[bytes], object]) -> bool:
        """A stream, chunk by chunk, until whoever waits for it has had enough. Whether the app has ended it."""
        whole = False

        async def receive() -> dict[str, Any]:
            await trio.sleep_forever()
            raise AssertionError

        async def send(message: Any) -> None:
            nonlocal whole
            if message["type"] == "http.response.body":
                whole = not message.get("more_body", False)
                if message["body"]:
                    heard(message["body"])

        scope = _scope("http", path, {"Host": HOST, **headers}, query) | {"method": "GET"}
        await self._app(scope, receive, send)
        return whole

    async def upgrade(
        self,
        path: str,
        headers: Headers | None = None,
        *,
        query: str = "",
        texts: Sequence[object] = (),
        subprotocols: Sequence[str] = (),
        whole: bool = False,
    ) -> Answered:
        """A WebSocket that says these things and goes when the last of them was answered, or it was closed.

        A text that is a function is called when it is its turn, and says what it returns. `whole`: the WebSocket
        stays until it is closed.
        """
        scope = _scope("websocket", path, {"Host": HOST, **(headers or {})}, query)
        scope |= {"scheme": "ws", "subprotocols": list(subprotocols)}
        incoming: list[Any] = [{"type": "websocket.connect"}, *texts]
        return await self._run(scope, incoming, answers=None if whole else len(texts))

    async def _run(
        self,
        scope: dict[str, Any],
        incoming: list[Any],
        answers: int | None = None,
        *,
        whole: bool = False,
    ) -> Answered:
        answered, done = Answered(), trio.Event()
        socket = scope["type"] == "websocket"

        async def receive() -> dict[str, Any]:
            if incoming:
                await trio.lowlevel.checkpoint()
                message = incoming.pop(0)
                if callable(message):
                    message = await message()
                if isinstance(message, dict) and "type" in message:
                    return message
                return {"type": "websocket.receive", "text": json.dumps(message), "bytes": None}
            await done.wait()
            return {"type": "websocket.disconnect", "code": 1000} if socket else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                answered.status = message.get("status", 101)
                answered.accepted = kind == "websocket.accept"
                answered.subprotocol = message.get("subprotocol")
                answered.headers = {
                    name.decode().lower(): value.decode("latin-1") for name, value in message.get("headers", ())
                }
            elif kind in ("http.response.body", "websocket.http.response.body"):
                answered.body += message.get("body", b"")
                answered.ended = not message.get("more_body", False)
                if answered.ended or (answered.body and not whole):
                    done.set()
            elif kind == "websocket.send":
                answered.frames.append(json.loads(message["text"]))
                replies = [one for one in answered.frames if one["kind"] in ("reply", "error")]
                ready = bool(answered.frames) if answers == 0 else len(replies) == answers
                if ready and (answers or answered.frames[-1]["kind"] == "caught_up"):
                    done.set()
            elif kind == "websocket.close":
                answered.closed = message.get("code", 1000)
                done.set()

        async def send_texts(texts: Sequence[str]) -> None:
            for text in texts:
                await send({"type": "websocket.send", "text": text})

        scope["extensions"][SEND_TEXTS] = {"send": send_texts}
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    await self._app(scope, receive, send)
                    done.set()

                nursery.start_soon(serve)
                await done.wait()
                nursery.cancel_scope.cancel()
        return answered


@asynccontextmanager
async def web(
    log: Backend | None = None,
    fake: Provider | None = None,
    *,
    max_runs: int = 100,
    registry: Registry | None = None,
    patience: float = 30.0,
    expected: int = 0,
    require_keys: bool = False,
    jwt: JwtVerifier | None = None,
    limits: str = "",
    store: MemoryAuthStore | None = None,
    files: MemoryFileStore | None = None,
    prices: PriceTable | None = None,
    **settings: Any,
) -> AsyncIterator[Web]:
    """An app on an empty log in memory. Its model is called `fake`. So many requests as `expected` are faults."""
    faults: list[object] = []

    class Backend:
        """Instead of the log of faults."""

        def error(self, what: str, exc_info: object) -> None:
            """Of a request."""
            faults.append((what, exc_info))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.web.edge.problem_json.log", Backend())
        backend = log or MemoryBackend().process()
        known = Settings(**settings)
        public = PublicUrl(known.public_url)
        keys = store or MemoryAuthStore()
        authenticator = Authenticator(keys, jwt=jwt, require_keys=require_keys)
        limiter = RateLimiter(parse_limits(limits), keys)
        async with keys.open(), authenticator.open(), limiter.open():
            async with process(
                backend,
                fake,
                max_runs=max_runs,
                patience=patience,
                registry=registry,
                public=public,
                prices=prices,
                limits=limiter,
                files=files,
            ) as runtime:
                yield Web(runtime, known, keys, authenticator, limiter)
    assert len(faults) == expected, faults


def _scope(kind: str, path: str, headers: Headers, query: str) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"spec_version": "2.3", "version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (
                name.lower().encode(),
                value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape"),
            )
            for name, value in headers.items()
        ],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8_000),
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }
