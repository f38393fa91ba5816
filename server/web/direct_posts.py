"""The direct way for POSTs: commands are answered here, before the web framework sees them.

An ASGI app around an ASGI app, as `direct_reads.py`. It takes the ordinary POST of one of our addresses: a body of
known length within the limit, and an answer that is no stream. All others are passed on to the framework's routes,
which carry the answers of the same endpoints, so the bytes are the same.
"""

import re
from collections.abc import Mapping
from typing import Any

import trio
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable

from server import logs
from server.config.public_url import PublicUrl
from server.errors import Problem
from server.ids import shape
from server.metrics import Metrics
from server.web.commands.post_endpoints import Endpoint, PostEndpoints, PostRequest
from server.web.direct_reads import send_whole
from server.web.edge import problems
from server.web.edge.cors import Cors
from server.web.edge.host_origin_check import HostOriginCheck
from server.web.edge.http_messages import Reply
from server.web.edge.request_ids import answer_headers, request_id
from server.web.metrics_endpoint import template
from server.web.transports.read_params import Form
from server.web.transports.stream_body import StreamReply

LARGEST = 65_536
"""Bytes of a body. Most are far smaller, and come with the head; a larger one may take its time."""
BODY_SECONDS = 15.0


class DirectPosts:
    """Answers ordinary POSTs, and passes all else to `app`."""

    def __init__(
        self,
        app: ASGIFramework,
        endpoints: PostEndpoints,
        check: HostOriginCheck,
        cors: Cors,
        public: PublicUrl,
        metrics: Metrics,
        max_body: int,
    ) -> None:
        self._app = app
        self._check = check
        self._cors = cors
        self._public = public
        self._requests = metrics.requests
        self._largest = min(LARGEST, max_body)
        self._routes = [
            (re.compile(_pattern(route)), template(route), one) for route, one in endpoints.by_route.items()
        ]

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answers, or passes on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        found = self._find(scope["raw_path"])
        if found is None or not self._is_ordinary(scope["headers"], scope["http_version"]):
            await self._app(scope, receive, send)
            return
        route, endpoint, ids = found
        asked = PostRequest.from_scope(scope)
        if asked.form is Form.SSE:
            await self._app(scope, receive, send)
            return
        request = request_id(scope["headers"])
        with logs.bound(request=request, **_named(ids)):
            reply = await self._reply(scope, receive, asked, endpoint, ids)
        if reply is None:
            return  # the client has gone before it had said what it wants
        self._requests.add("POST", route, str(reply.status))
        headers = [*reply.headers, *answer_headers(request), *self._cors.headers_for(asked.headers.get("origin"))]
        await send_whole(reply, headers, send, with_body=True)

    def _find(self, path: bytes) -> tuple[str, Endpoint, tuple[str, ...]] | None:
        for pattern, route, endpoint in self._routes:
            found = pattern.fullmatch(path)
            if found is not None:
                return route, endpoint, tuple(one.decode() for one in found.groups())
        return None

    def _is_ordinary(self, headers: Any, version: str) -> bool:
        # On HTTP/1.1 a request that names no length has no body (RFC 9112 section 6.3); on HTTP/2 it may have any.
        length = b"0" if version.startswith("1") else b""
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name in (b"transfer-encoding", b"expect"):
                return False
        return len(length) < 9 and length.isdigit() and int(length) <= self._largest

    async def _reply(
        self,
        scope: Any,
        receive: ASGIReceiveCallable,
        asked: PostRequest,
        endpoint: Endpoint,
        ids: tuple[str, ...],
    ) -> Reply | None:
        headers = asked.headers
        # The body first: an answer while the client still sends could be lost with its connection.
        with trio.move_on_after(BODY_SECONDS) as waiting:
            body = await _read(receive, self._largest)
        if waiting.cancelled_caught:
            return self._refusal(problems.body_too_slow())
        if body is None:
            return None
        try:
            self._check.check_request(
                "POST",
                scope["path"],
                headers.get("host", ""),
                headers.get("origin"),
                secure=scope["scheme"] == "https",
            )
            reply = await endpoint(asked, body, ids)
            assert not isinstance(reply, StreamReply), "only who asks for a stream gets one"
            return reply
        except Exception as error:
            return self._refusal(problems.as_problem(error, self._public))

    def _refusal(self, problem: Problem) -> Reply:
        status, headers, body = problems.plain(problem, self._public)
        return Reply(status, [*headers], body)


async def _read(receive: ASGIReceiveCallable, most: int) -> bytes | None:
    """The whole body; None where the client goes before its end, or sends more than it said."""
    parts: list[bytes] = []
    size = 0
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


def _pattern(route: str) -> bytes:
    return re.sub(r"<(\w+):\w+>", lambda found: f"({shape(found[1]).strip('^$')})", route).encode()


def _named(ids: tuple[str, ...]) -> Mapping[str, str]:
    """What log lines are to name."""
    if not ids:
        return {}
    return {"generation" if ids[0].startswith("gen_") else "conversation": ids[0]}
