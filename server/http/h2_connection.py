"""The parser and state of one HTTP/2 connection (h2 4.4), with what it allows a client."""

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

LENGTH_BYTES = 3  # at the beginning of each frame, RFC 9113 section 4.1
STREAMS = 256
"""At once on one connection: a hundred event streams, as many commands, and some. A browser has one connection."""
HEADER_LIST_BYTES = 65_536


class _Limits(Settings):
    """What is announced is kept by refusing streams; h2 would end the connection for one too many."""

    @property  # type: ignore[misc]  # h2 only reads it
    def max_concurrent_streams(self) -> int:
        """Twice what is announced: who begins before hearing of it may be over by a little."""
        return 2 * self[SettingCodes.MAX_CONCURRENT_STREAMS]


class _Values(list[int]):
    """The values of a setting, of which h2 takes the first: a list instead of a deque of half a kilobyte.

    There are eighteen of them, so they were a third of what an HTTP/2 connection costs.
    """

    def popleft(self) -> int:
        """As a deque has it."""
        return self.pop(0)


def _shrink(settings: Settings) -> None:
    for name, values in settings._settings.items():
        settings._settings[name] = _Values(values)  # type: ignore[assignment]


class _Stream(H2Stream):
    """h2's stream, which leaves the length of the request's body to `Http2Stream`.

    A body that is longer or shorter than it says is its stream's trouble (RFC 9113 section 8.1.1); h2 ends the
    connection for it, and with it all others' streams.
    """

    def _initialize_content_length(self, headers: object) -> None:
        pass

    def _track_content_length(self, length: int, end_stream: bool) -> None:
        pass


def check_headers(headers: Iterable[Header], *, trailers: bool = False) -> None:
    """The rules for a request's headers (RFC 9113 section 8.2), most of them h2's. Raises `ProtocolError`.

    h2 would look by itself, and end the connection where it is the stream that has to end.
    """
    flags = HeaderValidationFlags(
        is_client=False, is_trailer=trailers, is_response_header=False, is_push_promise=False
    )
    names = [name for name, _ in validate_headers(headers, flags)]
    if names.count(b"content-length") > 1 or names.count(b"host") > 1:
        raise ProtocolError("two headers of a name that may be there once")


class ServerH2(H2Connection):
    """h2's connection, with less memory, an earlier look at frames' lengths, and streams that fail alone."""

    MAX_CLOSED_STREAMS = 1_024  # of 65,536 it would remember, each connection holds megabytes

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _Stream  # h2 has no other way to name the class of its streams
        return stream

    def receive_data(self, data: bytes) -> list[Event]:  # type: ignore[override]  # of buffers, bytes are enough
        """What these bytes say. Raises `ProtocolError`."""
        events = super().receive_data(data)
        waiting = self.incoming_buffer._data
        # h2 looks at a frame's length when all of it has come: 16 MiB of each connection that says so.
        if int.from_bytes(waiting[:LENGTH_BYTES], "big") > self.max_inbound_frame_size:
            self.close_connection(ErrorCodes.FRAME_SIZE_ERROR)
            raise FrameTooLargeError("a frame that is longer than announced")
        return events


def new_connection() -> ServerH2:
    """A server's side, with RFC 8441's WebSockets."""
    connection = ServerH2(H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False))
    connection.local_settings = _Limits(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
        },
    )
    _shrink(connection.local_settings)
    _shrink(connection.remote_settings)
    return connection
