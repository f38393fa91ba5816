"""Endpoints between a command and its server (TLS, a proxy, a network that alters bytes), and a scripted model."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.harness.proxy import CuttableProxy

Handler = Callable[[trio.abc.Stream], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Listens with `handler`. Yields the port."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await handler(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has disconnected; a handler's nursery raises it as a group

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def pass_on(port: int) -> Handler:
    """Passes a connection on to a server, unchanged."""
    proxy = CuttableProxy(port)

    async def handle(stream: trio.abc.Stream) -> None:
        await proxy.handle(stream)  # type: ignore[arg-type]  # any stream will do

    return handle


def with_tls(context: ssl.SSLContext, inner: Handler) -> Handler:
    """Adds TLS in front of another handler."""

    async def handle(stream: trio.abc.Stream) -> None:
        async with trio.SSLStream(stream, context, server_side=True, https_compatible=True) as secure:
            await inner(secure)

    return handle


def altering(port: int, original: bytes, replacement: bytes) -> Handler:
    """Passes a connection on to a server, and replaces some of the server's bytes by as many others."""
    assert len(original) == len(replacement)

    async def handle(client: trio.abc.Stream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:

            async def out() -> None:
                while data := await client.receive_some(65_536):
                    await server.send_all(data)

            nursery.start_soon(out)
            while data := await server.receive_some(65_536):
                await client.send_all(bytes(data).replace(original, replacement))
            nursery.cancel_scope.cancel()

    return handle


def saying(deltas: Sequence[str], thoughts: Sequence[str] = ()) -> Handler:
    """A model in the OpenAI wire format: it answers every request with `deltas`, after reasoning `thoughts`."""
    all_deltas = [*({"reasoning_content": one} for one in thoughts), *({"content": one} for one in deltas)]
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in all_deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(body)}\r\nConnection: close"
    )

    async def handle(stream: trio.abc.Stream) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += bytes(await stream.receive_some(65_536))
        await stream.send_all(f"{head}\r\n\r\n{body}".encode())
        await stream.receive_some(65_536)

    return handle


def guarding(port: int, key: str, heads: list[bytes]) -> Handler:
    """Passes a connection on to a server if its first request is signed in with `key`; else answers 401.

    `heads` gets the head of each connection's first request.
    """
    refusal = problem_response(401, "invalid_credential", "This key is not known here.")

    async def handle(client: trio.abc.Stream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = await client.receive_some(65_536)
            if not received:
                return
            head += bytes(received)
        heads.append(head)
        if f"authorization: bearer {key}\r\n".lower().encode() not in head.lower():
            await client.send_all(refusal)
            return
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
            await server.send_all(head)

            async def out() -> None:
                while data := await client.receive_some(65_536):
                    await server.send_all(data)

            nursery.start_soon(out)
            while data := await server.receive_some(65_536):
                await client.send_all(data)
            nursery.cancel_scope.cancel()

    return handle


def refusing(status: int, code: str, requests: list[bytes]) -> Handler:
    """Answers every request with a problem document. `requests` gets what each connection sent first."""
    response = problem_response(status, code, "No.")

    async def handle(stream: trio.abc.Stream) -> None:
        if received := await stream.receive_some(65_536):
            requests.append(bytes(received))
            await stream.send_all(response)

    return handle


def problem_response(status: int, code: str, detail: str) -> bytes:
    """A response of HTTP/1.1 with a problem document (RFC 9457), after which the connection ends."""
    body = json.dumps({"title": code, "status": status, "code": code, "detail": detail}).encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/problem+json\r\nWWW-Authenticate: Bearer\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
