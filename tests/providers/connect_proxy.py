"""A proxy on loopback that answers CONNECT, for requests through a tunnel."""

from __future__ import annotations

from contextlib import suppress

import trio

from tests.http_client.raw_server import Server

from .fake_provider import FakeProvider

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ConnectProxy:
    """Leads every tunnel to the fake. `requests`: the heads of the requests."""

    def __init__(self, fake: FakeProvider, answer: bytes = ESTABLISHED) -> None:
        self.requests: list[str] = []
        self.server = Server(self._handle)
        self._port = fake.port
        self._answer = answer

    async def listen(self, nursery: trio.Nursery) -> str:
        address = await self.server.listen(nursery)
        return f"http://me:hunter2@127.0.0.1:{address.port}"

    async def _handle(self, client: trio.SocketStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (byte := await client.receive_some(1)):
                return
            head += byte
        self.requests.append(head.decode())
        await client.send_all(self._answer)
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as origin, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, client, origin, nursery.cancel_scope)
            nursery.start_soon(_copy, origin, client, nursery.cancel_scope)


async def _copy(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        while data := await source.receive_some(65536):
            await target.send_all(data)
    scope.cancel()
