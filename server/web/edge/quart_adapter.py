"""What Quart does otherwise here: ids in routes, the task a request runs in, and endpoints without a framework.

Owns everything that adapts Quart and quart-trio to this server. Must not know any route or endpoint.

- An id in a route is `<conv:…>`, `<gen:…>`, `<call:…>` or `<file:…>`. Text that is no id matches no route: the
  router answers 404 before a handler, a key or a statement could see it.
- quart-trio (0.12) starts a nursery and two tasks for each request, one of them only to notice that the client has
  gone. Our HTTP server cancels the app's task when that happens, so a request runs in the task that calls the app.
- quart-trio puts ten messages of a WebSocket into a channel of its own, on top of what the connection may hold.
  Here the app takes each message from the connection.
- For each route Werkzeug writes and compiles two functions that build URLs: half the time that making the app
  takes. Here no URL is built from a route.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import Any, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, WebsocketScope
from quart import Blueprint, Response, has_request_context, request, websocket
from quart.asgi import ASGIWebsocketConnection
from quart.routing import QuartRule
from quart.wrappers import Websocket
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody
from werkzeug.routing import BaseConverter

from server import ids
from server.files.file_store import DIGEST_PATTERN
from server.web.edge.http_messages import (
    Endpoint,
    PlainRequest,
    PlainResponse,
    ResponseChunks,
    StreamResponse,
)


class _ConversationId(BaseConverter):
    """`conv_…`"""

    regex = ids.id_pattern("conv").strip("^$")


class _GenerationId(BaseConverter):
    """`gen_…`"""

    regex = ids.id_pattern("gen").strip("^$")


class _CallId(BaseConverter):
    """`call_…`"""

    regex = ids.id_pattern("call").strip("^$")


class _FileDigest(BaseConverter):
    """The SHA-256 of a file."""

    regex = DIGEST_PATTERN.strip("^$")


class _MatchingRule(QuartRule):
    """A route that requests are matched to, and that builds no URL.

    Overrides a method that is Werkzeug's own (3.1). Where another version has no such method, rules are whole
    again, and slower to make.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        def refuse(rule: QuartRule, **values: object) -> tuple[str, str]:
            raise NotImplementedError(f"no URL is built from {rule.rule}")

        return refuse


def install_routing(app: QuartTrio) -> None:
    """Has the app's routes match only, and know the four kinds of id; call it before the first route."""
    app.url_rule_class = _MatchingRule
    app.url_map.converters |= {
        "conv": _ConversationId,
        "gen": _GenerationId,
        "call": _CallId,
        "file": _FileDigest,
    }


_BODY_HEADERS = frozenset((b"content-length", b"transfer-encoding"))


class _RequestBody(TrioBody):
    """A request's body that is read from the connection when the handler first awaits it.

    So a client that sends `Expect: 100-continue` and is refused for its headers never gets the 100.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self.wanted = trio.Event()

    def __await__(self) -> Generator[Any, None, Any]:
        self.wanted.set()
        return super().__await__()

    async def __anext__(self) -> bytes:
        self.wanted.set()
        return await super().__anext__()


class _Request(TrioRequest):
    body_class = _RequestBody


class _HttpConnection(TrioASGIHTTPConnection):
    """One request, run in the task that calls the app."""

    def __init__(self, app: QuartTrio, scope: HTTPScope) -> None:
        super().__init__(app, scope)
        bodiless = scope["method"] in ("GET", "HEAD", "OPTIONS")
        self._has_body = not bodiless or any(name in _BODY_HEADERS for name, _ in scope["headers"])

    async def handle_messages(  # type: ignore[override]
        self, nursery: trio.Nursery, request: Any, receive: ASGIReceiveCallable
    ) -> None:
        """Reads the body, from the time the handler wants it."""
        await request.body.wanted.wait()
        await super().handle_messages(nursery, request, receive)

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Runs the handler; beside it, a task that reads the body, only where the request has one."""
        if self._has_body:
            await super().__call__(receive, send)
            return
        request = self._create_request_from_scope(send)
        request.body.set_complete()
        response = await self.app.handle_request(request)
        timeout = self.app.config["RESPONSE_TIMEOUT"]
        if isinstance(response, Response) and response.timeout != Ellipsis:
            timeout = response.timeout
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            await self._send_response(send, response)


class _WebSocketConnection(TrioASGIWebsocketConnection):
    """One WebSocket. When the client has closed, the handler is cancelled: its `receive` does not return."""

    def __init__(self, app: QuartTrio, scope: WebsocketScope) -> None:
        self.app = app
        self.scope = scope
        self._accepted = False
        self._closed = False
        self._running = trio.CancelScope()
        self._receive: Any = None

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Runs the handler until it or the client ends it."""
        self._receive = receive
        await receive()  # websocket.connect
        websocket: Websocket = self._create_websocket_from_scope(send)
        with self._running:
            await ASGIWebsocketConnection.handle_websocket(self, websocket, send)

    def _create_websocket_from_scope(self, send: ASGISendCallable) -> Websocket:
        # The parent's method hands `receive_channel.receive` to the WebSocket: make it ours.
        self.receive_channel = self  # type: ignore[assignment]
        return super()._create_websocket_from_scope(send)

    async def receive(self) -> Any:
        """The next message, for the handler."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._running.cancel()
            await trio.sleep_forever()
        return message["text"] if message.get("bytes") is None else message["bytes"]


def install_connections(app: QuartTrio) -> None:
    """Makes the app run its requests and WebSockets in the classes above."""
    app.request_class = _Request
    app.asgi_http_class = _HttpConnection  # type: ignore[assignment]
    app.asgi_websocket_class = _WebSocketConnection


# -- endpoints as routes of Quart, and their responses as Quart's


def plain_request() -> PlainRequest:
    """The request or upgrade that is served, as a plain value: one object for the checks and the endpoint."""
    served: Any = request if has_request_context() else websocket
    plain: PlainRequest | None = getattr(served, "plain", None)
    if plain is None:
        plain = served.plain = PlainRequest.from_scope(served.scope)
    return plain


CheckHeaders = Callable[[Mapping[str, str]], None]


def route_endpoints(
    name: str, method: str, endpoints: Mapping[str, Endpoint], check_headers: CheckHeaders | None = None
) -> Blueprint:
    """A blueprint whose routes carry the responses of endpoints, by the rules of their addresses.

    They serve what the dispatcher passes on. `check_headers` raises `Problem` for a request whose body would be
    refused whatever is in it.
    """
    blueprint = Blueprint(name, __name__)
    for rule, endpoint in endpoints.items():
        blueprint.add_url_rule(rule, rule.replace(".", "_"), _view(endpoint, check_headers), methods=[method])
    return blueprint


def _view(endpoint: Endpoint, check_headers: CheckHeaders | None) -> Callable[..., Awaitable[Response]]:
    async def view(**ids: str) -> Response:
        plain = plain_request()
        if request.method == "POST":
            if check_headers is not None and "expect" in request.headers:
                # The client waits for a 100 before it sends the body: refuse what can be refused without it (RFC
                # 9110 section 10.1.1).
                check_headers(plain.headers)
            plain.body = cast(bytes, await request.get_data(as_text=False))
        return quart_response(await endpoint(plain, *ids.values()))

    return view


def quart_response(response: PlainResponse | StreamResponse) -> Response:
    """The same response as an object of Quart."""
    body = b"" if isinstance(response, StreamResponse) else response.body
    made = Response(body, response.status)
    made.headers.clear()
    made.headers.extend((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers)
    if isinstance(response, StreamResponse):
        made.response = _QuartStreamBody(response.body)
        made.timeout = None  # Quart's default would cut the stream after 60 s
    elif body:
        made.headers["Content-Length"] = str(len(body))
    return made


def empty_response(status: int, headers: Mapping[str, str]) -> Response:
    """204 or 304: no body, so no Content-Length and no Content-Type (RFC 9110 sections 15.3.5 and 15.4.5)."""
    # Bytes, not None: Quart would hand a body of None to an executor of asyncio, and no asyncio loop runs here.
    made = Response(b"", status)
    made.headers.clear()
    made.headers.extend(headers)
    return made


class _QuartStreamBody(ResponseBody):
    """`ResponseChunks` as the body of Quart's response."""

    def __init__(self, body: ResponseChunks) -> None:
        self._body = body

    async def __aenter__(self) -> "_QuartStreamBody":
        self._body.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._body.end()

    def __aiter__(self) -> "_QuartStreamBody":
        return self

    async def __anext__(self) -> bytes:
        data = await self._body.next()
        if not data:
            raise StopAsyncIteration
        return data

    async def convert_to_sequence(self) -> bytes:
        raise TypeError("a streamed body cannot be turned into one piece")
