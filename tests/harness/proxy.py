"""A TCP proxy that a test can cut, stall and restore: the network between a client and the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class CuttableProxy:
    """Passes bytes both ways. `cut` ends every connection; while `down`, new ones are ended at once."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._open: set[trio.CancelScope] = set()
        self.down = False
        self.connections = 0
        self.port = 0

    def cut(self) -> None:
        """Ends all connections now, in the middle of whatever they carry."""
        for scope in self._open:
            scope.cancel()

    async def handle(self, client: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        with trio.CancelScope() as scope:
            if self.down:
                return
            self._open.add(scope)
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._target_port)
            except OSError:
                return
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client, server, nursery.cancel_scope)
                nursery.start_soon(_pump, server, client, nursery.cancel_scope)
        self._open.discard(scope)


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some(65_536):
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    both.cancel()


@asynccontextmanager
async def cuttable(target_port: int) -> AsyncIterator[CuttableProxy]:
    """A proxy in front of a port."""
    proxy = CuttableProxy(target_port)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, proxy.handle, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
