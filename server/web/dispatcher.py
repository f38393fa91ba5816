"""Which requests are answered before the web framework: one table of routes, and the steps that all of them share.

An ASGI app around an ASGI app. It answers GET and POST of logs, snapshots and commands, and the WebSocket, because
the framework's way to an endpoint costs more than the endpoint, and because the framework would keep a request,
two contexts and a dozen frames for each open WebSocket. Everything else goes to the framework: other addresses,
other spellings of these (a slash at the end), and POST bodies of unknown length or over `LARGEST_BODY`. Quart's
routes call the same endpoints, so both ways answer the same bytes.
An upload's endpoint reads its body by itself, as it comes. Must not know what an endpoint does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import trio
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable

from server.config.web_addresses import PublicUrl
from server.ids import id_pattern
from server.observability import Metrics, logs
from server.web.commands.command_endpoints import PostEndpoints
from server.web.edge import problem_json
from server.web.edge.authorization import Authorization
from server.web.edge.host_origin_cors import Cors, HostOriginCheck
from server.web.edge.http_messages import (
    ClientGone,
    Endpoint,
    Headers,
    PlainRequest,
    PlainResponse,
    Response,
    StreamResponse,
    common_headers,
    request_id,
)
from server.web.edge.route_scopes import RouteScope, route_scope
from server.web.file_endpoints import UPLOAD_RULE
from server.web.operator_endpoints import route_label
from server.web.transports.read_endpoints import ReadEndpoints, refuse_event_source
from server.web.transports.websocket_endpoint import ROUTE as WEBSOCKET_ROUTE
from server.web.transports.websocket_endpoint import WebSocketEndpoint

LARGEST_BODY = 65_536
"""Bytes of a POST's body that is read here. Most are far smaller; the framework waits for the larger ones."""
BODY_SECONDS = 15.0
"""How long the body of a POST may take to arrive."""
INTERNAL_ERROR = 1011
"""The close code of a WebSocket whose handler failed (RFC 6455 section 7.4.1)."""


class Dispatcher:
    """Answers what its table of routes holds, and passes all else to `framework`.

    `max_body` is the limit in bytes of any request's body.
    """

    def __init__(
        self,
        framework: ASGIFramework,
        reads: ReadEndpoints,
        posts: PostEndpoints,
        upload: Endpoint,
        websocket: WebSocketEndpoint,
        *,
        check: HostOriginCheck,
        authorization: Authorization,
        cors: Cors,
        public: PublicUrl,
        metrics: Metrics,
        max_body: int,
    ) -> None:
        self.framework = framework
        self._check = check
        self._authorization = authorization
        self._cors = cors
        self._public = public
        self._requests = metrics.requests
        self._largest_body = min(LARGEST_BODY, max_body)
        self._websocket = websocket
        gets = _Routes("GET", reads.by_route)
        self._routes = {"GET": gets, "HEAD": gets, "POST": _Routes("POST", posts.by_route)}
        self._websocket_routes = _Routes("WEBSOCKET", {WEBSOCKET_ROUTE: websocket})
        self._upload = _Route(upload, route_scope("POST", UPLOAD_RULE), UPLOAD_RULE, ())

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answers one request or WebSocket, or passes it on."""
        kind = scope["type"]
        method = scope["method"] if kind == "http" else ""
        routes = self._websocket_routes if kind == "websocket" else self._routes.get(method)
        found = routes.find(scope["raw_path"]) if routes is not None else None
        if method == "POST" and scope["path"].rstrip("/") == UPLOAD_RULE:
            found = self._upload, []  # in every spelling: the framework would take in a body without bound
        elif found is None or (method == "POST" and not self._reads_body(scope)):
            await self.framework(scope, receive, send)
            return
        route, ids = found
        request = request_id(scope["headers"])
        if kind == "websocket":
            await self._serve_websocket(scope, receive, send, route, ids[0], request)
            return
        plain = PlainRequest.from_scope(scope)
        if method == "POST":
            with logs.bound(request=request, **_log_keys(ids)):
                response = await self._respond(scope, plain, route, ids, request, receive)
        else:
            response = await self._respond(scope, plain, route, ids, request)
        if response is None:
            return  # the client has gone
        self._requests.add(method, route.label, str(response.status))
        headers = [
            *response.headers,
            *common_headers(request),
            *plain.limit_headers(),
            *self._cors.headers_for(plain.headers.get("origin")),
        ]
        if isinstance(response, StreamResponse):
            with logs.bound(request=request, **plain.log_keys()):
                await _send_stream(response, headers, send)
        else:
            await _send_whole(response, headers, send, with_body=method != "HEAD")

    def _reads_body(self, scope: Any) -> bool:
        """Whether a POST's body is read here: of known length, small, and sent without waiting for a 100."""
        # Without Content-Length a request of HTTP/1.1 has no body (RFC 9112 section 6.3); HTTP/2 has no such rule.
        length = b"0" if scope["http_version"].startswith("1") else b""
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
            elif name in (b"transfer-encoding", b"expect"):
                return False
        return len(length) < 9 and length.isdigit() and int(length) <= self._largest_body

    async def _respond(
        self,
        scope: Any,
        plain: PlainRequest,
        route: "_Route",
        ids: list[str],
        request: str,
        receive: ASGIReceiveCallable | None = None,
    ) -> Response | None:
        """The response of an endpoint, or of its error. `receive`: where the request has a body.

        None for a client that went away before its body was whole.
        """
        try:
            if route is self._upload:
                plain.receive = receive
            elif receive is not None:
                # Read the body even of a request that will be refused: a response that is sent while the client
                # still sends can be lost, because the client sees its connection reset first.
                body = await _read_body(receive, self._largest_body)
                if body is None:
                    return None
                plain.body = body
            headers = plain.headers
            self._check.check_request(
                plain.method,
                scope["path"],
                headers.get("host", ""),
                headers.get("origin"),
                secure=scope["scheme"] == "https",
            )
            await self._authorization.authorize(route.scope, plain, ids)
            endpoint: Endpoint = route.endpoint
            if receive is None:
                return await endpoint(plain, *ids)
            with logs.bound(**plain.log_keys()):  # what the run says that a POST starts has them too
                return await endpoint(plain, *ids)
        except ClientGone:
            return None
        except Exception as error:
            with logs.bound(request=request, **plain.log_keys()):
                return self._error_response(error, plain if route.scope.stream == "sse" else None)

    def _error_response(self, error: Exception, log_request: PlainRequest | None = None) -> PlainResponse:
        """The response of an error. `log_request`: the request, where it is for a log."""
        problem = problem_json.as_problem(error, self._public)
        if log_request is not None and (refusal := refuse_event_source(log_request, problem)) is not None:
            return refusal
        return problem_json.problem_response(problem, self._public)

    async def _serve_websocket(
        self,
        scope: Any,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        route: "_Route",
        conversation: str,
        request: str,
    ) -> None:
        logs.bind(request=request, conversation=conversation)
        socket = _AsgiWebSocket(scope, receive, send, common_headers(request))
        await receive()  # websocket.connect
        plain = PlainRequest.from_scope(scope)
        try:
            host, origin = plain.headers.get("host", ""), plain.headers.get("origin")
            self._check.check_upgrade(host, origin, secure=scope["scheme"] == "wss")
            if await self._websocket.authorize(route.scope, socket, plain, conversation):
                logs.bind(**plain.log_keys())
                await self._websocket(socket, plain, conversation)
        except Exception as error:
            response = self._error_response(error)
            if socket.accepted:
                await socket.close(INTERNAL_ERROR, "")
            else:
                headers = (*response.headers, *plain.limit_headers())
                await socket.refuse(replace(response, headers=headers))


# -- the table of routes

_ID = re.compile(r"<(\w+):\w+>")


@dataclass(frozen=True, slots=True)
class _Route:
    endpoint: Any
    scope: RouteScope
    label: str
    """The rule as a label of metrics."""
    groups: tuple[int, ...]
    """The groups of the table's pattern that hold the ids of this route's address."""


class _Routes:
    """The routes of one method. All are one regular expression, so that a poll pays for one match."""

    def __init__(self, method: str, endpoints: Mapping[str, Any]) -> None:
        self._by_last_group: dict[int | None, _Route] = {}
        patterns = []
        last = 0
        for rule, endpoint in endpoints.items():
            ids = len(_ID.findall(rule))
            groups = tuple(range(last + 1, last + ids + 1))
            last += ids + 1  # an empty group at the end of each route: `lastindex` tells which one matched
            self._by_last_group[last] = _Route(endpoint, route_scope(method, rule), route_label(rule), groups)
            patterns.append(_ID.sub(lambda found: f"({id_pattern(found[1]).strip('^$')})", rule) + "()")
        self._pattern = re.compile("|".join(patterns).encode())

    def find(self, path: bytes) -> tuple[_Route, list[str]] | None:
        """The route of an address, and the ids in it. `path` is as the client sent it, not decoded."""
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        route = self._by_last_group[match.lastindex]
        return route, [match[group].decode() for group in route.groups]


def _log_keys(ids: list[str]) -> Mapping[str, str]:
    """The conversation or generation in an address, for log lines."""
    if not ids:
        return {}
    return {"generation" if ids[0].startswith("gen_") else "conversation": ids[0]}


# -- ASGI messages, in and out


async def _read_body(receive: ASGIReceiveCallable, most: int) -> bytes | None:
    """The whole body; None where the client goes away before its end, or sends more than it announced.

    Raises `Problem` 408 where the body takes more than `BODY_SECONDS`.
    """
    parts: list[bytes] = []
    size = 0
    with trio.move_on_after(BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)
    raise problem_json.body_too_slow()


async def _send_whole(
    response: PlainResponse, headers: list[tuple[bytes, bytes]], send: Any, *, with_body: bool
) -> None:
    """Sends a whole response, with its `Content-Length`; to a HEAD without its body."""
    if response.body:
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    body = response.body if with_body else b""
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_stream(response: StreamResponse, headers: Headers, send: Any) -> None:
    """Sends a streamed response, to its end."""
    body = response.body
    body.begin()
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})

        async def send_chunk(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        body.send = send_chunk
        while data := await body.next():
            await send_chunk(data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        body.end()


class _AsgiWebSocket:
    """A WebSocket on ASGI's two functions, with what the WebSocket endpoint needs of Quart's."""

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
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": [*self._headers]})

    async def receive(self) -> str | bytes | None:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message["text"]
        data: bytes = message["bytes"]
        return data if text is None else text

    async def close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def refuse(self, response: PlainResponse) -> None:
        """Answers with a status instead of the upgrade."""
        length = (b"content-length", b"%d" % len(response.body))
        start = {"type": "websocket.http.response.start", "status": response.status}
        await self._send({**start, "headers": [*response.headers, length, *self._headers]})
        await self._send({"type": "websocket.http.response.body", "body": response.body, "more_body": False})
