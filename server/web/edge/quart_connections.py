"""How Quart runs a request and a WebSocket: in the task it is called in, where that is enough.

quart-trio (0.12) starts two tasks and a nursery for each, one of them only to hear that the client has gone. The
connection cancels the app's task then, so nobody has to listen. It also puts ten messages of a WebSocket into a
channel of its own, beyond the bound that the connection keeps; here the app takes each from the connection.
"""

from collections.abc import Generator
from typing import Any

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, WebsocketScope
from quart.asgi import ASGIWebsocketConnection
from quart.wrappers import Response, Websocket
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody

_BODY_HEADERS = frozenset((b"content-length", b"transfer-encoding"))


class _Body(TrioBody):
    """A request's body that is read when the handler wants it.

    Who waits to be asked for it (`Expect: 100-continue`) and is refused for its head is not asked.
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
    body_class = _Body


class HttpConnection(TrioASGIHTTPConnection):
    """One request."""

    def __init__(self, app: QuartTrio, scope: HTTPScope) -> None:
        super().__init__(app, scope)
        bodiless = scope["method"] in ("GET", "HEAD", "OPTIONS")
        self._has_body = not bodiless or any(name in _BODY_HEADERS for name, _ in scope["headers"])

    async def handle_messages(  # type: ignore[override]
        self, nursery: trio.Nursery, request: Any, receive: ASGIReceiveCallable
    ) -> None:
        """Reads the body, when it is wanted."""
        await request.body.wanted.wait()
        await super().handle_messages(nursery, request, receive)

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Reads the body beside the handler if there is one; else there is nothing to read."""
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


class WebsocketConnection(TrioASGIWebsocketConnection):
    """One WebSocket. When the client has closed, the handler's `receive` does not return: it is cancelled."""

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
        # Its parent's takes this from there.
        self.receive_channel = self  # type: ignore[assignment]
        return super()._create_websocket_from_scope(send)

    async def receive(self) -> Any:
        """The next message, for the handler."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._running.cancel()
            await trio.sleep_forever()
        return message["text"] if message.get("bytes") is None else message["bytes"]


def install(app: QuartTrio) -> None:
    """Makes the app run its requests and WebSockets this way."""
    app.request_class = _Request
    app.asgi_http_class = HttpConnection  # type: ignore[assignment]
    app.asgi_websocket_class = WebsocketConnection
