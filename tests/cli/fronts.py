"""What may stand between a command and its server: TLS, another name, a network that lies; and a rude model."""

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
    """The port on which `handler` gets connections."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await handler(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went: also when a nursery of the handler's says so

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def pass_on(port: int) -> Handler:
    """To a server, unchanged."""
    proxy = CuttableProxy(port)

    async def handle(stream: trio.abc.Stream) -> None:
        await proxy.handle(stream)  # type: ignore[arg-type]  # any stream will do

    return handle


def with_tls(context: ssl.SSLContext, inner: Handler) -> Handler:
    """TLS before whatever is behind."""

    async def handle(stream: trio.abc.Stream) -> None:
        async with trio.SSLStream(stream, context, server_side=True, https_compatible=True) as secure:
            await inner(secure)

    return handle


def lying(port: int, truth: bytes, lie: bytes) -> Handler:
    """To a server, with some of its bytes changed for as many others."""
    assert len(truth) == len(lie)

    async def handle(client: trio.abc.Stream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:

            async def out() -> None:
                while data := await client.receive_some(65_536):
                    await server.send_all(data)

            nursery.start_soon(out)
            while data := await server.receive_some(65_536):
                await client.send_all(bytes(data).replace(truth, lie))
            nursery.cancel_scope.cancel()

    return handle


def saying(deltas: Sequence[str], thoughts: Sequence[str] = ()) -> Handler:
    """A model that speaks the OpenAI wire format and says this to everybody, after these thoughts."""
    said = [*({"reasoning_content": one} for one in thoughts), *({"content": one} for one in deltas)]
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in said]
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
