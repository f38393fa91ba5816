"""Requests and upgrades as Quart would hand them over, without a server."""

import trio
from hypercorn.typing import HTTPScope, WebsocketScope
from quart import Request, Websocket
from quart_trio.wrappers import TrioRequest
from werkzeug.datastructures import Headers


def request(method: str, headers: dict[str, str]) -> Request:
    """A request as Quart would hand it over."""
    scope: HTTPScope = {
        "type": "http",
        "asgi": {"spec_version": "2.3", "version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/v1/conversations",
        "raw_path": b"/v1/conversations",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": None,
        "server": None,
        "state": {},  # type: ignore[typeddict-item]  # hypercorn's own class
        "extensions": {},
    }

    async def push(_path: str, _headers: Headers) -> None:
        raise AssertionError("nobody pushes")

    return TrioRequest(
        method, "http", scope["path"], b"", Headers(headers), "", "1.1", scope, send_push_promise=push
    )


def websocket(headers: dict[str, str]) -> Websocket:
    """A WebSocket's upgrade."""
    scope: WebsocketScope = {
        "type": "websocket",
        "asgi": {"spec_version": "2.3", "version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/v1/conversations/x/ws",
        "raw_path": b"/v1/conversations/x/ws",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": None,
        "server": None,
        "subprotocols": [],
        "state": {},  # type: ignore[typeddict-item]  # hypercorn's own class
        "extensions": {},
    }
    nothing = trio.lowlevel.checkpoint
    return Websocket(
        scope["path"], b"", "ws", Headers(headers), "", "1.1", [], nothing, nothing, nothing, nothing, scope
    )
