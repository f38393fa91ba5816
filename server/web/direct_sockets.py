"""The direct way for WebSockets: an upgrade is answered here, before the web framework sees it.

An ASGI app around an ASGI app, as `direct_reads.py`. An open WebSocket stays for hours, and the framework would
keep a request, two contexts and a dozen frames for each: a quarter of what an idle one takes.
"""

import re
from typing import Any

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable

from server import logs
from server.config.public_url import PublicUrl
from server.ids import shape
from server.web.edge import problems
from server.web.edge.host_origin_check import HostOriginCheck
from server.web.edge.http_messages import Headers, pick_headers, query_args
from server.web.edge.request_ids import answer_headers, request_id
from server.web.transports.websocket_endpoint import WebSocketEndpoint

_ADDRESS = re.compile(f"/v1/conversations/({shape('conv').strip('^$')})/ws".encode())
_HOST_AND_ORIGIN = frozenset((b"host", b"origin"))
INTERNAL_ERROR = 1011


class DirectSockets:
    """Answers upgrades at the one address, and passes all else to `app`."""

    def __init__(
        self, app: ASGIFramework, endpoint: WebSocketEndpoint, check: HostOriginCheck, public: PublicUrl
    ) -> None:
        self._app = app
        self._endpoint = endpoint
        self._check = check
        self._public = public

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answers, or passes on."""
        address = _ADDRESS.fullmatch(scope["raw_path"]) if scope["type"] == "websocket" else None
        if address is None:
            await self._app(scope, receive, send)
            return
        name = address[1].decode()
        request = request_id(scope["headers"])
        logs.bind(request=request, conversation=name)
        client = _Client(scope, receive, send, [*answer_headers(request)])
        await receive()  # websocket.connect
        try:
            headers = pick_headers(scope["headers"], _HOST_AND_ORIGIN)
            secure = scope["scheme"] == "wss"
            self._check.check_upgrade(headers.get("host", ""), headers.get("origin"), secure=secure)
            await self._endpoint(client, query_args(scope["query_string"]), name)
        except Exception as error:
            problem = problems.as_problem(error, self._public)
            if client.accepted:
                await client.close(INTERNAL_ERROR, "")
            else:
                await client.refuse(*problems.plain(problem, self._public))


class _Client:
    """One WebSocket's client, on ASGI's two functions."""

    __slots__ = ("_headers", "_receive", "_send", "accepted", "scope")

    def __init__(self, scope: Any, receive: Any, send: Any, headers: Headers) -> None:
        self.scope = scope
        self.accepted = False
        self._receive = receive
        self._send = send
        self._headers = headers

    @property
    def requested_subprotocols(self) -> list[str]:
        return list(self.scope["subprotocols"])

    async def accept(self, *, subprotocol: str | None) -> None:
        self.accepted = True
        await self._send(
            {"type": "websocket.accept", "subprotocol": subprotocol, "headers": self._headers},
        )

    async def receive(self) -> str | bytes | None:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message["text"]
        data: bytes = message["bytes"]
        return data if text is None else text

    async def close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def refuse(self, status: int, headers: Any, body: bytes) -> None:
        """Answers by status, without an upgrade."""
        length = (b"content-length", b"%d" % len(body))
        start = {"type": "websocket.http.response.start", "status": status}
        await self._send({**start, "headers": [*headers, length, *self._headers]})
        await self._send({"type": "websocket.http.response.body", "body": body, "more_body": False})
