"""An HTTP/1.1 client that sends exactly the bytes a test gives it.

It corrects nothing: a test can send an invalid head, several requests at once, or a body in pieces.
"""

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
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the response says that the connection ends after it."""
        return "close" in self.headers.get("connection", "").lower()

    def problem(self, *statuses: int) -> None:
        """Fails unless the response is a problem document with one of these statuses."""
        assert self.status in statuses, self
        check_problem(self.status, self.headers, self.body)


class Http1Client:
    """One connection of a test to the server."""

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
        """The bytes of a request. Host is the server's own unless `headers` has another one; "" leaves it out."""
        fields = {"Host": self.authority, **(headers or {})}
        if body and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        lines = [f"{name}: {value}" for name, value in fields.items() if not (name == "Host" and value == "")]
        return "\r\n".join([f"{method} {target} HTTP/{version}", *lines, "", ""]).encode("latin-1") + body

    async def send(self, data: bytes) -> None:
        """Sends any bytes. Bytes that the server no longer accepts, because it has already responded, are
        dropped.
        """
        with suppress(trio.BrokenResourceError):
            await self.connection.send(data)

    async def answer(self, method: str = "GET") -> Answer:
        """Reads the next response to a request of that method; a 1xx response counts as one."""
        with trio.fail_after(SECONDS):
            head: Head = await self.connection.head(bodyless=method == "HEAD")
            return Answer(head.status, head.headers, await self.connection.body())

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Sends a request and reads its response."""
        await self.send(self.request(method, target, headers, body))
        return await self.answer(method)

    async def reopen(self) -> None:
        """Replaces the connection by a new one."""
        await self.connection.close()
        self.connection = await Connection.open(self._port)

    async def ended(self) -> bool:
        """Whether the server closes the connection now, without sending anything more."""
        with trio.move_on_after(SECONDS):
            return not await self.connection.raw()
        return False


@asynccontextmanager
async def http1_client(port: int) -> AsyncIterator[Http1Client]:
    """A client on a new connection."""
    asker = Http1Client(await Connection.open(port), port)
    try:
        yield asker
    finally:
        await asker.connection.close()


async def raw_answer(port: int, data: bytes) -> Answer:
    """Sends the bytes on a new connection and reads the response."""
    async with http1_client(port) as asker:
        await asker.send(data)
        return await asker.answer()


async def status_line(port: int, data: bytes) -> str:
    """Sends the bytes on a new connection and returns the first line of the response, as it is on the wire."""
    async with http1_client(port) as asker:
        await asker.send(data)
        received = b""
        with trio.fail_after(SECONDS):
            while b"\r\n" not in received and (more := await asker.connection.raw()):
                received += more
    return received.partition(b"\r\n")[0].decode()


def reason(status: int) -> str:
    """The standard reason phrase of a status code."""
    return HTTPStatus(status).phrase
