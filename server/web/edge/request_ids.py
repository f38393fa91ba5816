"""A name for each request: `X-Request-ID`, the client's or a new one, on every answer and in every log line.

Outermost, around everything that may answer. A WebSocket is one request; a run carries the id of the request that
began it. It decides nothing else.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable

from server import ids, logs

HEADER = b"x-request-id"
_USABLE = re.compile(rb"[\x21-\x7e]{1,128}")
_ANSWERS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class RequestIds:
    """An ASGI app around an ASGI app."""

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Names the request, and passes it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        name = request_id(scope["headers"])
        logs.bind(request=name)

        async def named(message: Any) -> None:
            if message["type"] in _ANSWERS:
                message = {**message, "headers": [*message.get("headers", ()), (HEADER, name.encode("ascii"))]}
            await send(message)

        await self._app(scope, receive, named)


def name_lines(route_values: Mapping[str, Any] | None) -> None:
    """Puts the conversation or generation that a request's address names into its log lines too."""
    name = str((route_values or {}).get("name", ""))
    for kind, prefix in (("conversation", "conv"), ("generation", "gen")):
        if ids.looks_right(name, prefix):
            logs.bind(**{kind: name})


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's id if it is 1 to 128 visible ASCII characters, said once; else a new one.

    What else a client may send has no place in a log, nor in an answer.
    """
    said = [value for name, value in headers if name.lower() == HEADER]
    if len(said) == 1 and _USABLE.fullmatch(said[0]):
        return said[0].decode("ascii")
    return ids.new("req")
