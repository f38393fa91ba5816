"""A bare TCP client: what it sends, how slowly it reads, and how it disconnects are up to the test."""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio

READ = 65_536


class Peer:
    """A TCP connection to the server.

    Raises `trio.TooSlowError` if a test waits for bytes that do not come.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.port: int = sock.getsockname()[1]

    @classmethod
    async def open(cls, port: int, receive_buffer: int | None = None) -> Self:
        """Connects. `receive_buffer` (bytes) bounds what the kernel accepts for a client that does not read."""
        sock = trio.socket.socket()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await sock.connect(("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> bool:
        """Sends all bytes. Returns False if the server has already closed the connection."""
        view = memoryview(data)
        while view:
            try:
                view = view[await self.sock.send(view) :]
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise
                return False
        return True

    async def peek(self, seconds: float = 10) -> bytes:
        """Waits until bytes have arrived and returns them without consuming them; b"" at the end of the
        connection.
        """
        with trio.fail_after(seconds):
            try:
                return await self.sock.recv(READ, socket.MSG_PEEK)
            except ConnectionResetError:
                return b""

    async def read(self, most: int = READ, seconds: float = 10) -> bytes:
        """Reads some bytes; b"" at the end of the connection, also after a reset."""
        with trio.fail_after(seconds):
            try:
                return await self.sock.recv(most)
            except ConnectionResetError:
                return b""

    async def read_until(self, end: bytes, seconds: float = 10) -> bytes:
        """Reads until `end` has arrived or the connection is closed."""
        data = b""
        with trio.fail_after(seconds):
            while end not in data and (more := await self.read(seconds=seconds)):
                data += more
        return data

    async def read_all(self, seconds: float = 10) -> bytes:
        """Reads until the connection is closed."""
        data = b""
        with trio.fail_after(seconds):
            while more := await self.read(seconds=seconds):
                data += more
        return data

    def half_close(self) -> None:
        """Sends FIN but can still read."""
        with suppress(OSError):  # the server may have been faster
            self.sock.shutdown(socket.SHUT_WR)

    def fin(self) -> None:
        """Closes the socket. If unread bytes are left, the kernel sends a reset instead of FIN."""
        self.sock.close()

    def rst(self) -> None:
        """Closes the socket with a reset."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
