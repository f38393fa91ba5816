"""h2's connection (h2 4.4), adapted: what a client may do, and that one stream's fault ends no other stream.

Owns the limits that are announced to clients, and every use of h2's private names
(tests/http/test_library_internals.py holds them). It must not know sockets or ASGI.
"""

from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, H2Connection
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import FrameTooLargeError, ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream
from h2.utilities import HeaderValidationFlags, validate_headers
from hpack.struct import Header

LENGTH_BYTES = 3  # the length field that begins each frame, RFC 9113 section 4.1
MAX_STREAMS = 256
"""Streams at once on one connection. A browser has one connection for all its tabs: a hundred event streams and as
many commands have to fit."""
HEADER_LIST_BYTES = 65_536


class _TolerantSettings(Settings):
    """Settings with which h2 tolerates more streams than are announced.

    `Http2Connection` refuses a stream too many; h2 would end the whole connection.
    """

    @property  # type: ignore[misc]  # h2 only reads it
    def max_concurrent_streams(self) -> int:
        """Twice the announced number: a client may begin streams before it has read the announcement."""
        return 2 * self[SettingCodes.MAX_CONCURRENT_STREAMS]


class _SettingValues(list[int]):
    """The queue of a setting's values: a list, because h2's deque takes half a kilobyte.

    A connection has eighteen of them. As deques they are a third of the memory of an HTTP/2 connection.
    """

    def popleft(self) -> int:
        """As `deque.popleft`."""
        return self.pop(0)


def _shrink(settings: Settings) -> None:
    for name, values in settings._settings.items():
        settings._settings[name] = _SettingValues(values)  # type: ignore[assignment]


class _LengthUncheckedStream(H2Stream):
    """h2's stream, without the check of the body's length, which `Http2Stream` does.

    A body that is longer or shorter than its Content-Length is a fault of its stream alone (RFC 9113 section
    8.1.1). h2 would end the connection, and all other streams with it.
    """

    def _initialize_content_length(self, headers: object) -> None:
        pass

    def _track_content_length(self, length: int, end_stream: bool) -> None:
        pass


def check_headers(headers: Iterable[Header], *, trailers: bool = False) -> None:
    """Checks a request's headers (RFC 9113 section 8.2), mostly by h2's rules. Raises `ProtocolError`.

    h2's own check is switched off: it would end the connection where only the stream has to end.
    """
    flags = HeaderValidationFlags(
        is_client=False, is_trailer=trailers, is_response_header=False, is_push_promise=False
    )
    names = [name for name, _ in validate_headers(headers, flags)]
    if names.count(b"content-length") > 1 or names.count(b"host") > 1:
        raise ProtocolError("two headers of a name that may be there once")


class LimitedH2Connection(H2Connection):
    """h2's connection with less memory, an earlier check of frame lengths, and streams that fail alone."""

    MAX_CLOSED_STREAMS = 1_024  # h2 remembers 65,536 closed streams, which are megabytes for each connection

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _LengthUncheckedStream  # h2 has no other way to name the class of its streams
        return stream

    def receive_data(self, data: bytes) -> list[Event]:  # type: ignore[override]  # of buffers, bytes are enough
        """Parses bytes and returns their events. Raises `ProtocolError`."""
        events = super().receive_data(data)
        waiting = self.incoming_buffer._data
        # h2 checks a frame's length only when the whole frame has come. By then a client that announces 16 MiB
        # could have made this server hold them, on every connection.
        if int.from_bytes(waiting[:LENGTH_BYTES], "big") > self.max_inbound_frame_size:
            self.close_connection(ErrorCodes.FRAME_SIZE_ERROR)
            raise FrameTooLargeError("a frame that is longer than announced")
        return events


def new_h2_connection() -> LimitedH2Connection:
    """A connection of the server's side, with WebSockets allowed (RFC 8441)."""
    connection = LimitedH2Connection(
        H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
    )
    connection.local_settings = _TolerantSettings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
        },
    )
    _shrink(connection.local_settings)
    _shrink(connection.remote_settings)
    return connection
