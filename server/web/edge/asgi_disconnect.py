"""The seam between hypercorn and Quart: when a response is over, the connection is hypercorn's again.

hypercorn tells the app of `http.disconnect` before it closes or recycles the socket, and quart-trio answers
by cancelling the task inside which that very close runs: connections were never closed, idle ones never
reaped, a drained stream took the whole grace period. So `http.disconnect` is withheld once the app has sent
its last message. The seam also lets an early answer (a body too large, say) reach a client that is still
sending: closing on unread bytes would reset the connection and take the answer with it.
"""

from typing import Any

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, ASGISendEvent
from quart_trio import QuartTrio

from server.errors import Problem
from server.web.edge.problems import respond

LINGER_SECONDS = 2.0


class Seam:
    """An ASGI app around an ASGI app."""

    def __init__(self, app: QuartTrio) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Passes everything on but what the module says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope.get("path") == "":  # `GET ?x`: no target of HTTP's, and Quart would look for its first character
            await _refuse_target(send)
            return
        exchange = _Exchange(receive, send)
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    def __init__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self._receive = receive
        self._send = send
        self._answered = False
        self._body_read = trio.Event()

    async def receive(self) -> ASGIReceiveEvent:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._body_read.set()
            if self._answered:
                await trio.sleep_forever()  # until Quart's own end of the response cancels it
        elif message["type"] == "http.request" and not message.get("more_body", False):
            self._body_read.set()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
            # The app reads on meanwhile (and throws away what is over its limit).
            with trio.move_on_after(LINGER_SECONDS):
                await self._body_read.wait()
        await self._send(message)


async def _refuse_target(send: ASGISendCallable) -> None:
    problem = respond(Problem(400, "bad_request", "The request's target has no path; it begins with a slash."))
    body = await problem.get_data(as_text=False)
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
