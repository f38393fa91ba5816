"""The direct way for reads: GETs of logs and snapshots are answered here, before the web framework sees them.

An ASGI app around an ASGI app. A client that polls or comes back asks for one of four addresses, and the
framework's way to an answer costs more than the answer. Here it is one look at the path, one at the headers, and
the endpoint; the framework's routes carry the answers of the same endpoints, so the bytes are the same. What is
not exactly one of the four addresses is passed on.
"""

import re
from typing import Any

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable

from server import logs
from server.config.public_url import PublicUrl
from server.metrics import Metrics
from server.web.edge import problems
from server.web.edge.cors import Cors
from server.web.edge.host_origin_check import HostOriginCheck
from server.web.edge.http_messages import Headers, ReadRequest, Reply
from server.web.edge.request_ids import answer_headers, request_id
from server.web.transports.read_endpoints import Endpoint, ReadEndpoints
from server.web.transports.stream_body import StreamReply

_ADDRESS = re.compile(rb"/v1/(?:conversations/(conv)|generations/(gen))(_[0-9A-HJKMNP-TV-Z]{26})(/events)?")


class DirectReads:
    """Answers the four addresses, and passes all else to `app`."""

    def __init__(
        self,
        app: ASGIFramework,
        endpoints: ReadEndpoints,
        check: HostOriginCheck,
        cors: Cors,
        public: PublicUrl,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._check = check
        self._cors = cors
        self._public = public
        self._requests = metrics.requests
        self._endpoints: dict[tuple[bool, bool], tuple[Endpoint, str]] = {
            (True, True): (endpoints.conversation_events, "/v1/conversations/<name>/events"),
            (True, False): (endpoints.conversation_snapshot, "/v1/conversations/<name>"),
            (False, True): (endpoints.generation_events, "/v1/generations/<name>/events"),
            (False, False): (endpoints.generation_snapshot, "/v1/generations/<name>"),
        }

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answers, or passes on."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        address = _ADDRESS.fullmatch(scope["raw_path"])
        if address is None:
            await self._app(scope, receive, send)
            return
        conversation, generation, rest, events = address.groups()
        endpoint, route = self._endpoints[conversation is not None, events is not None]
        request = request_id(scope["headers"])
        asked = ReadRequest.from_scope(scope)
        name = ((conversation or generation) + rest).decode()
        reply = await self._reply(scope, asked, endpoint, name, request)
        self._requests.add(asked.method, route, str(reply.status))
        headers = [*reply.headers, *answer_headers(request), *self._cors.headers_for(asked.headers.get("origin"))]
        if isinstance(reply, StreamReply):
            with logs.bound(request=request):
                await _send_stream(reply, headers, send)
        else:
            await send_whole(reply, headers, send, with_body=asked.method != "HEAD")

    async def _reply(
        self, scope: Any, asked: ReadRequest, endpoint: Endpoint, name: str, request: str
    ) -> Reply | StreamReply:
        headers = asked.headers
        try:
            self._check.check_request(
                asked.method,
                scope["path"],
                headers.get("host", ""),
                headers.get("origin"),
                secure=scope["scheme"] == "https",
            )
            return await endpoint(asked, name)
        except Exception as error:
            with logs.bound(request=request):
                status, problem_headers, body = problems.plain(
                    problems.as_problem(error, self._public), self._public
                )
            return Reply(status, [*problem_headers], body)


async def send_whole(reply: Reply, headers: Headers, send: Any, *, with_body: bool) -> None:
    """A whole answer, with its length. `with_body`: not to a HEAD."""
    if reply.body:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = reply.body if with_body else b""
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_stream(reply: StreamReply, headers: Headers, send: Any) -> None:
    body = reply.body
    body.begin()
    try:
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})

        async def send_chunk(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        body.send = send_chunk
        while data := await body.next():
            await send_chunk(data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        body.end()
