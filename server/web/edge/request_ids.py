"""A name for each request: `X-Request-ID`, the client's or a new one, on every answer and in every log line.

Outermost, around everything that may answer. A WebSocket is one request; a run carries the id of the request that
began it. It decides nothing else: it is a label that anybody may choose, and choose again, so nothing may look
anything up by it. Two requests of one name only share it in the log.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable

from server import ids, logs
from server.web.edge.responses import Headers

HEADER = b"x-request-id"
NOSNIFF = (b"x-content-type-options", b"nosniff")
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
        added = answer_headers(name)

        async def named(message: Any) -> None:
            if message["type"] in _ANSWERS:
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, named)


def answer_headers(name: str) -> Headers:
    """What every answer has, whoever gives it: the request's name, and that its type is what it says it is.

    Without the second (https://fetch.spec.whatwg.org/#x-content-type-options-header) a browser might take JSON
    with markup in it for a page.
    """
    return ((HEADER, name.encode("ascii")), NOSNIFF)


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
