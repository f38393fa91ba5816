"""A bad network between a client and the server: a TCP proxy that cuts connections at random, from a seed.

Each connection is given its end when it opens: after so many bytes of the server's or so many seconds, whichever
comes first, in order (FIN) or not (RST). Some are left alone, but none of the first ones: a test meets cuts. It
runs in a thread of its own, so that a test may block. It knows nothing of HTTP: a cut falls anywhere, into a head,
a chunk or a frame, also into an answer to a POST.

`tests/real_clients/cutting_proxy.py` is its sibling with planned cuts.
"""

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trio

NETWORK = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
WHOLE = 0.15
"""The share of connections that are left alone: so everybody gets through in the end."""
CUT_FIRST = 4
"""So many connections are all cut, if they live long enough."""
MEAN_BYTES, MEAN_SECONDS = 3_000, 2.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds


@dataclass(frozen=True, slots=True)
class End:
    """What ends a connection, whichever comes first; neither: it is left alone."""

    after_bytes: float = float("inf")
    after_seconds: float = float("inf")
    reset: bool = False


class RandomCuts:
    """The ends of connections, by a seed: the same seed gives the same ends in the same order."""

    def __init__(self, seed: int, mean_seconds: float = MEAN_SECONDS) -> None:
        self._random = random.Random(seed)
        self._mean_seconds = mean_seconds
        self._given = 0

    def __next__(self) -> End:
        draw = self._random
        whole = draw.random() < WHOLE
        end = End(
            after_bytes=1 + draw.expovariate(1 / MEAN_BYTES),
            after_seconds=draw.expovariate(1 / self._mean_seconds),
            reset=draw.random() < 0.5,
        )
        self._given += 1
        return End() if whole and self._given > CUT_FIRST else end


class CuttingProxy:
    """`cuts` counts those that were made."""

    def __init__(self, target_port: int, seed: int, mean_seconds: float = MEAN_SECONDS) -> None:
        self.port = 0
        self.cuts = 0
        self.connections = 0
        self._target_port = target_port
        self._ends = RandomCuts(seed, mean_seconds)
        self._calm = False
        self._ready = threading.Event()
        self._scope: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    @property
    def url(self) -> str:
        """Where clients find the server."""
        return f"http://127.0.0.1:{self.port}"

    def calm(self) -> None:
        """Leaves alone the connections that open from now on."""
        self._calm = True

    async def run(self) -> None:
        """Serves until `close`."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            self._ready.set()
            await trio.serve_listeners(self._handle, listeners)

    def wait_until_ready(self) -> None:
        """Blocks until it listens."""
        assert self._ready.wait(10)

    def close(self) -> None:
        """Ends it, and all connections."""
        assert self._token is not None
        assert self._scope is not None
        self._token.run_sync_soon(self._scope.cancel)

    async def _handle(self, client: trio.SocketStream) -> None:
        self.connections += 1
        end = End() if self._calm else next(self._ends)
        with suppress(*NETWORK):
            async with client, await trio.open_tcp_stream("127.0.0.1", self._target_port) as server:
                with trio.move_on_after(end.after_seconds) as timer:
                    if await self._exchange(client, server, end):
                        self._cut(client, end)
                if timer.cancelled_caught:
                    self._cut(client, end)

    async def _exchange(self, client: trio.SocketStream, server: trio.SocketStream, end: End) -> bool:
        """Passes bytes both ways until one side ends, or so many of the server's have passed: then True."""
        cut = False

        async def answers() -> None:
            nonlocal cut
            left = end.after_bytes
            with suppress(*NETWORK):
                while data := await server.receive_some(65_536):
                    if len(data) >= left:
                        cut = True
                        await client.send_all(data[: int(left)])
                        break
                    left -= len(data)
                    await client.send_all(data)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers)
            with suppress(*NETWORK):
                while data := await client.receive_some(65_536):
                    await server.send_all(data)
            nursery.cancel_scope.cancel()
        return cut

    def _cut(self, client: trio.SocketStream, end: End) -> None:
        self.cuts += 1
        if end.reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@contextmanager
def cutting(target_port: int, seed: int, mean_seconds: float = MEAN_SECONDS) -> Iterator[CuttingProxy]:
    """A proxy in front of a port, for as long as the context.

    `mean_seconds`: until a connection is cut that is cut by time. More for a page that sends several requests in a
    row before it shows anything, or on a busy machine none of them gets through.
    """
    proxy = CuttingProxy(target_port, seed, mean_seconds)
    thread = threading.Thread(target=trio.run, args=(proxy.run,), daemon=True)
    thread.start()
    proxy.wait_until_ready()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
