"""One or more requests on a connection of HTTP/1.1, with every byte of them in a test's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus

import trio

from tests.clients.http1 import Connection, Head
from tests.transports.problem_checks import check_problem

SECONDS = 10.0
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends behind it."""
        return "close" in self.headers.get("connection", "").lower()

    def problem(self, *statuses: int) -> None:
        """Fails unless it is a clear refusal of one of these statuses."""
        assert self.status in statuses, self
        check_problem(self.status, self.headers, self.body)


class Asker:
    """A connection of a test's."""

    def __init__(self, connection: Connection, port: int) -> None:
        self.connection = connection
        self._port = port
        self.authority = f"127.0.0.1:{port}"

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        version: str = "1.1",
    ) -> bytes:
        """A request's bytes. Its Host is the server's unless `headers` name another one; "" leaves it out."""
        fields = {"Host": self.authority, **(headers or {})}
        if body and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        lines = [f"{name}: {value}" for name, value in fields.items() if not (name == "Host" and value == "")]
        return "\r\n".join([f"{method} {target} HTTP/{version}", *lines, "", ""]).encode("latin-1") + body

    async def send(self, data: bytes) -> None:
        """Any bytes; what the server does not take any more, as it has answered already, is left out."""
        with suppress(trio.BrokenResourceError):
            await self.connection.send(data)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer to a request of that method, interim ones included."""
        with trio.fail_after(SECONDS):
            head: Head = await self.connection.head(bodyless=method == "HEAD")
            return Answer(head.status, head.headers, await self.connection.body())

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """A request, and its answer."""
        await self.send(self.request(method, target, headers, body))
        return await self.answer(method)

    async def reopen(self) -> None:
        """Another connection in place of this one."""
        await self.connection.close()
        self.connection = await Connection.open(self._port)

    async def ended(self) -> bool:
        """Whether the server ends the connection now, without another word."""
        with trio.move_on_after(SECONDS):
            return not await self.connection.raw()
        return False


@asynccontextmanager
async def asking(port: int) -> AsyncIterator[Asker]:
    """A fresh connection."""
    asker = Asker(await Connection.open(port), port)
    try:
        yield asker
    finally:
        await asker.connection.close()


async def raw_answer(port: int, data: bytes) -> Answer:
    """What the server says to these bytes, on a connection of their own."""
    async with asking(port) as asker:
        await asker.send(data)
        return await asker.answer()


async def status_line(port: int, data: bytes) -> str:
    """The first line of the answer to these bytes, as it is on the wire."""
    async with asking(port) as asker:
        await asker.send(data)
        received = b""
        with trio.fail_after(SECONDS):
            while b"\r\n" not in received and (more := await asker.connection.raw()):
                received += more
    return received.partition(b"\r\n")[0].decode()


def reason(status: int) -> str:
    """The reason phrase that goes with a status."""
    return HTTPStatus(status).phrase
