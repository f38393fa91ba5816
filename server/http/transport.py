"""Sends and receives a connection's bytes, plain or in TLS, and notices when its client disconnects.

Owns the sockets of connections. Plain sending tries the socket at once and waits only for the bytes that the
socket does not take. So a token of a stream costs one system call and no turn of the scheduler. It must not know
HTTP.
"""

import fcntl
import select
import socket
import sys
import termios
from collections.abc import Callable
from typing import Protocol

import trio

READ_BYTES = 65_536
SLICE_BYTES = 32_768
"""How much of a large response is handed to TLS, or to an HTTP/2 stream, at once."""
SENDS_WITHOUT_WAIT = 16
"""After so many sends in a row that did not have to wait, a send lets other tasks run."""


class Transport(Protocol):
    """The bytes of one connection. `broken`: nothing more can be sent.

    An implementation is given `on_gone`, which it calls, once or more, when a write fails.
    """

    fd: int
    broken: bool

    async def receive(self) -> bytes:
        """Returns some bytes; empty when the client has closed or the connection is dead. Always a checkpoint."""
        ...

    async def send(self, data: bytes | memoryview) -> None:
        """Sends all bytes. Not always a checkpoint. RuntimeError if two tasks send at once.

        Cancelled in the middle it leaves the transport `broken`: the client would take whatever follows half a
        message for the other half. On a broken transport it sends nothing.
        """
        ...

    def half_close(self) -> None:
        """Tells the client that nothing more comes (FIN), where TLS does not prevent it."""
        ...

    def unsent(self) -> int:
        """How many sent bytes the client has not acknowledged yet."""
        ...


class PlainTransport:
    """Bytes to and from a non-blocking socket, without trio's stream in between."""

    __slots__ = ("_on_gone", "_sending", "_sends_in_a_row", "_socket", "broken", "fd")

    def __init__(self, sock: socket.socket, on_gone: Callable[[], None]) -> None:
        self.fd = sock.fileno()
        self.broken = False
        self._socket = sock
        self._on_gone = on_gone
        self._sending = False
        self._sends_in_a_row = 0

    async def receive(self) -> bytes:
        """See `Transport`."""
        while True:
            await trio.lowlevel.wait_readable(self.fd)
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    async def send(self, data: bytes | memoryview) -> None:
        """See `Transport`."""
        if self._sending:
            raise RuntimeError("two tasks send on one connection at once")
        if self.broken:
            await trio.lowlevel.checkpoint()
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            await self._lost()
            return
        if sent < len(data):
            await self._send_rest(memoryview(data)[sent:])
            self._sends_in_a_row = 0
            return
        self._sends_in_a_row += 1
        if self._sends_in_a_row >= SENDS_WITHOUT_WAIT:
            self._sends_in_a_row = 0
            await trio.lowlevel.checkpoint()

    async def _send_rest(self, data: memoryview) -> None:
        self._sending = self.broken = True
        try:
            while data:
                await trio.lowlevel.wait_writable(self.fd)
                try:
                    data = data[self._socket.send(data) :]
                except BlockingIOError:
                    continue
            self.broken = False
        except OSError:
            await self._lost()
        finally:
            self._sending = False

    async def _lost(self) -> None:
        self.broken = True
        self._on_gone()
        await trio.lowlevel.checkpoint()

    def half_close(self) -> None:
        """See `Transport`."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = True  # the client has left already

    def unsent(self) -> int:
        """See `Transport`."""
        return _unsent(self.fd)


class TlsTransport:
    """Bytes through TLS, after its handshake."""

    __slots__ = ("_on_gone", "_sending", "_stream", "broken", "fd")

    def __init__(self, stream: "trio.SSLStream[trio.SocketStream]", on_gone: Callable[[], None]) -> None:
        self.fd = stream.transport_stream.socket.fileno()
        self.broken = False
        self._stream = stream
        self._on_gone = on_gone
        self._sending = False

    async def receive(self) -> bytes:
        """See `Transport`."""
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return b""

    async def send(self, data: bytes | memoryview) -> None:
        """See `Transport`."""
        if self._sending:
            raise RuntimeError("two tasks send on one connection at once")
        if self.broken:
            await trio.lowlevel.checkpoint()
            return
        self._sending = self.broken = True
        try:
            for start in range(0, len(data), SLICE_BYTES):  # TLS holds an encrypted copy of each slice
                await self._stream.send_all(data[start : start + SLICE_BYTES])
            self.broken = False
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self._on_gone()
            await trio.lowlevel.checkpoint()
        finally:
            self._sending = False

    def half_close(self) -> None:
        """Does nothing: many clients cannot handle a half-closed TLS connection."""

    def unsent(self) -> int:
        """See `Transport`."""
        return _unsent(self.fd)


def _unsent(fd: int) -> int:
    """How many bytes are in a socket's send buffer (`man 7 tcp`, SIOCOUTQ)."""
    size = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.TIOCOUTQ, size)
    except OSError:
        return 0
    return int.from_bytes(size, sys.byteorder)


class DisconnectListener(Protocol):
    """Hears that the client of a connection disconnects."""

    def client_finished(self) -> None:
        """The client sends nothing more (FIN). It may still be reading."""
        ...

    def client_gone(self) -> None:
        """The connection is dead (RST, or the client has acknowledged nothing for too long)."""
        ...


class DisconnectWatcher:
    """Notices that clients disconnect while nobody reads from their sockets.

    One epoll watches all connections. The alternative, a task for each connection that waits in `recv`, would cost
    two kilobytes each and would have to store what the client sends ahead. EPOLLRDHUP tells of the FIN however
    many bytes wait in front of it, and those bytes stay in the kernel, which bounds them.
    """

    def __init__(self) -> None:
        # Other systems than Linux have no epoll; there the next write notices that a client has left.
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._listeners: dict[int, DisconnectListener] = {}

    def add(self, fd: int, listener: DisconnectListener) -> None:
        """Watches a socket until `remove`."""
        if self._epoll is not None:
            self._listeners[fd] = listener
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def remove(self, fd: int) -> None:
        """Ends the watch. Call it before the socket is closed: the next socket may get the same number."""
        if self._epoll is not None and self._listeners.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Tells the listeners, until it is cancelled."""
        if self._epoll is None:
            return
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, events in self._epoll.poll(0, 256):
                listener = self._listeners.get(fd)
                if listener is None:
                    continue
                if events & (select.EPOLLERR | select.EPOLLHUP):
                    listener.client_gone()
                else:
                    # From now on only errors: epoll reports them without being asked.
                    self._epoll.modify(fd, select.EPOLLONESHOT)
                    listener.client_finished()

    def close(self) -> None:
        """Closes the epoll, after `run` has ended."""
        if self._epoll is not None:
            self._epoll.close()
