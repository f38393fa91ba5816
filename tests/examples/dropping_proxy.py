"""The network of a phone between a page or a client and the server: a TCP proxy that loses requests, from a seed.

Of the requests so many in a hundred get no answer: half of them never reach the server, the others do and their
answer breaks off in its first line. So a client that sends again has to say so, or it acts twice. Its sibling
`cutting_proxy.py` cuts connections, wherever they are.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

NETWORK = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
METHODS = (b"GET ", b"HEAD ", b"POST ", b"OPTIONS ")
BROKEN_OFF = 12
"""Bytes of an answer that breaks off: with none at all, a browser would send again by itself."""


class DroppingProxy:
    """`requests` counts those that came, `dropped` those of them that got no answer."""

    def __init__(self, target_port: int, share: float, seed: int) -> None:
        self.port = 0
        self.requests = 0
        self.dropped = 0
        self._target_port = target_port
        self._share = share
        self._random = random.Random(seed)

    @property
    def url(self) -> str:
        """Where clients find the server."""
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, client: trio.SocketStream) -> None:
        """One connection: requests one after the other. The first that is dropped ends it."""
        with suppress(*NETWORK):
            async with client, await trio.open_tcp_stream("127.0.0.1", self._target_port) as server:
                async with trio.open_nursery() as nursery:
                    cut = trio.Event()
                    nursery.start_soon(self._answers, server, client, cut, nursery.cancel_scope)
                    await self._requests(client, server, cut)
                    nursery.cancel_scope.cancel()

    async def _requests(self, client: trio.SocketStream, server: trio.SocketStream, cut: trio.Event) -> None:
        with suppress(*NETWORK):
            while data := await client.receive_some(65_536):
                if data.startswith(METHODS):
                    self.requests += 1
                    if self._random.random() < self._share:
                        self.dropped += 1
                        if self._random.random() < 0.5:
                            return
                        cut.set()
                await server.send_all(data)

    async def _answers(
        self, server: trio.SocketStream, client: trio.SocketStream, cut: trio.Event, both: trio.CancelScope
    ) -> None:
        with suppress(*NETWORK):
            while data := await server.receive_some(65_536):
                if cut.is_set():
                    await client.send_all(data[:BROKEN_OFF])
                    break
                await client.send_all(data)
        both.cancel()


@asynccontextmanager
async def dropping(target_port: int, share: float, seed: int) -> AsyncIterator[DroppingProxy]:
    """A proxy in front of a port, for as long as the context. `share`: of the requests, from 0 to 1."""
    proxy = DroppingProxy(target_port, share, seed)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, proxy.handle, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
