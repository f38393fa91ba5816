"""A client's end of one TCP connection, without any protocol: what it sends, how it reads, how it leaves."""

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
    """One connection to the server on this machine.

    Raises `trio.TooSlowError` where a test waits for bytes that do not come.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.port: int = sock.getsockname()[1]

    @classmethod
    async def open(cls, port: int, receive_buffer: int | None = None) -> Self:
        """Connects. `receive_buffer` bounds what the kernel takes for a client that does not read (bytes)."""
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
        """Sends all of it; False where the server has ended the connection already."""
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
        """Waits until something is there to read, and leaves it there; b"" at the connection's end."""
        with trio.fail_after(seconds):
            try:
                return await self.sock.recv(READ, socket.MSG_PEEK)
            except ConnectionResetError:
                return b""

    async def read(self, most: int = READ, seconds: float = 10) -> bytes:
        """Some bytes; b"" at the connection's end, clean or not."""
        with trio.fail_after(seconds):
            try:
                return await self.sock.recv(most)
            except ConnectionResetError:
                return b""

    async def read_until(self, end: bytes, seconds: float = 10) -> bytes:
        """Reads until `end` was there, or the connection is over."""
        data = b""
        with trio.fail_after(seconds):
            while end not in data and (more := await self.read(seconds=seconds)):
                data += more
        return data

    async def read_all(self, seconds: float = 10) -> bytes:
        """Reads to the connection's end."""
        data = b""
        with trio.fail_after(seconds):
            while more := await self.read(seconds=seconds):
                data += more
        return data

    def half_close(self) -> None:
        """Says that it will send no more (FIN), and could still read."""
        with suppress(OSError):  # the server may have been faster
            self.sock.shutdown(socket.SHUT_WR)

    def fin(self) -> None:
        """Closes. What it has not read makes a reset of it: that is the kernel's rule for every client."""
        self.sock.close()

    def rst(self) -> None:
        """Closes with a reset."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
