"""A connection's bytes, plain or in TLS, and the watch that notices when its client leaves.

Owns the sockets of connections. Sending tries the socket at once and waits only for what it does not take: for
every token of a stream that is one system call and no turn of the scheduler. It knows no protocol.
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
"""As much of a large answer is handed to TLS, or to an HTTP/2 stream, at once."""
SENDS_WITHOUT_WAIT = 16
"""After so many sends that did not have to wait, others get their turn."""


class Transport(Protocol):
    """What the protocols ask of a connection's bytes. `on_gone` is called, once or more, when a write fails."""

    fd: int
    broken: bool

    async def receive(self) -> bytes:
        """Some bytes; none at the client's end, however it came. Always a checkpoint."""
        ...

    async def send(self, data: bytes | memoryview) -> None:
        """Sends all. Not always a checkpoint. One task at a time.

        Cancelled in the middle, it leaves the transport `broken`: what would follow half a message could be
        taken for a part of it. On a broken transport nothing is sent.
        """
        ...

    def half_close(self) -> None:
        """Tells the client that nothing more comes, where the protocol has a way to."""
        ...

    def unsent(self) -> int:
        """How many bytes the client has not taken yet of those that were sent."""
        ...


class PlainTransport:
    """Bytes straight to and from a socket that does not block."""

    __slots__ = ("_on_gone", "_sending", "_socket", "_streak", "broken", "fd")

    def __init__(self, sock: socket.socket, on_gone: Callable[[], None]) -> None:
        self.fd = sock.fileno()
        self.broken = False
        self._socket = sock
        self._on_gone = on_gone
        self._sending = False
        self._streak = 0

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

    def receive_nowait(self) -> bytes | None:
        """What is there already; None if that is nothing."""
        try:
            return self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
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
            self._streak = 0
            return
        self._streak += 1
        if self._streak >= SENDS_WITHOUT_WAIT:
            self._streak = 0
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

    def send_nowait(self, data: bytes) -> bool:
        """Sends a little if the socket takes it at once and nobody is in the middle of something."""
        if self._sending or self.broken:
            return False
        try:
            sent = self._socket.send(data)
        except OSError:
            return False
        self.broken = self.broken or 0 < sent < len(data)
        return sent == len(data)

    def half_close(self) -> None:
        """See `Transport`."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = True  # the client is gone already

    def unsent(self) -> int:
        """See `Transport`."""
        return _unsent(self.fd)


class TlsTransport:
    """Bytes through TLS, after the handshake."""

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
            for start in range(0, len(data), SLICE_BYTES):  # each slice is held once more, encrypted
                await self._stream.send_all(data[start : start + SLICE_BYTES])
            self.broken = False
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self._on_gone()
            await trio.lowlevel.checkpoint()
        finally:
            self._sending = False

    def half_close(self) -> None:
        """TLS has no half-closed state that clients get along with: nothing is done."""

    def unsent(self) -> int:
        """See `Transport`."""
        return _unsent(self.fd)


def _unsent(fd: int) -> int:
    """What is left in a socket's send buffer (`man 7 tcp`, SIOCOUTQ)."""
    size = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.TIOCOUTQ, size)
    except OSError:
        return 0
    return int.from_bytes(size, sys.byteorder)


class Watched(Protocol):
    """Who is told that the client of a connection leaves."""

    def client_finished(self) -> None:
        """The client sends nothing more (FIN). It may still be reading."""
        ...

    def client_gone(self) -> None:
        """The connection is dead (RST, or nothing taken for too long)."""
        ...


class ClientWatch:
    """Notices that clients leave while nobody reads from their sockets.

    One epoll for all connections: a task of its own for each, waiting in `recv`, would cost each two kilobytes
    and would have to put away what the client sends ahead of its turn. EPOLLRDHUP says that the end has been
    sent however many bytes wait before it, and the bytes stay in the kernel, which bounds them.
    """

    def __init__(self) -> None:
        # Elsewhere than on Linux a client's leaving is noticed by the next write.
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._watched: dict[int, Watched] = {}

    def add(self, fd: int, watched: Watched) -> None:
        """Watches a socket until `remove`."""
        if self._epoll is not None:
            self._watched[fd] = watched
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def remove(self, fd: int) -> None:
        """Before the socket is closed, for its number is another's right after."""
        if self._epoll is not None and self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Tells those whose clients leave, until it is cancelled."""
        if self._epoll is None:
            return
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, events in self._epoll.poll(0, 256):
                watched = self._watched.get(fd)
                if watched is None:
                    continue
                if events & (select.EPOLLERR | select.EPOLLHUP):
                    watched.client_gone()
                else:
                    self._epoll.modify(fd, select.EPOLLONESHOT)  # errors are told whatever is asked for
                    watched.client_finished()

    def close(self) -> None:
        """After `run` has ended."""
        if self._epoll is not None:
            self._epoll.close()
