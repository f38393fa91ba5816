"""The id of each request: `X-Request-ID`, the client's own or a new one, on every response and in every log line.

Owns which ids are taken from a client, and the headers that every response carries. A WebSocket is one request;
the log lines of a run carry the id of the request that started it. The id is a label that any client may choose,
and choose again: nothing may look anything up by it. Two requests with one id only share it in the log.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable

from server import ids
from server.observability import logs
from server.web.edge.plain_http import Headers

HEADER = b"x-request-id"
NOSNIFF = (b"x-content-type-options", b"nosniff")
_ACCEPTED = re.compile(rb"[\x21-\x7e]{1,128}")
_RESPONSE_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class RequestIds:
    """An ASGI app around the framework's: the dispatcher does the same for what it answers itself."""

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Binds the request's id to its log lines, and adds it to the headers of the response."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = request_id(scope["headers"])
        logs.bind(request=request)
        added = common_headers(request)

        async def send_with_headers(message: Any) -> None:
            if message["type"] in _RESPONSE_STARTS:
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def common_headers(request: str) -> Headers:
    """The headers of every response: the request's id, and `X-Content-Type-Options: nosniff`.

    Without the second (https://fetch.spec.whatwg.org/#x-content-type-options-header) a browser might render JSON
    with markup in it as a page.
    """
    return ((HEADER, request.encode("ascii")), NOSNIFF)


def bind_route_ids(route_values: Mapping[str, Any] | None) -> None:
    """Binds the conversation or generation in the request's address to its log lines."""
    name = str((route_values or {}).get("name", ""))
    for kind, prefix in (("conversation", "conv"), ("generation", "gen")):
        if ids.is_valid_id(name, prefix):
            logs.bind(**{kind: name})


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's id if it sent one of 1 to 128 visible ASCII characters, once; else a new one.

    Any other bytes could forge log lines or response headers.
    """
    sent = [value for name, value in headers if name.lower() == HEADER]
    if len(sent) == 1 and _ACCEPTED.fullmatch(sent[0]):
        return sent[0].decode("ascii")
    return ids.new_id("req")
