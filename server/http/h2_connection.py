"""The parser and state of one HTTP/2 connection (h2 4.4), with what it allows a client."""

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import FrameTooLargeError
from h2.settings import SettingCodes, Settings
from hypercorn.config import Config

LENGTH_BYTES = 3  # at the beginning of each frame, RFC 9113 section 4.1


class _Limits(Settings):
    """What is announced is kept by refusing streams; h2 would end the connection for one too many."""

    @property  # type: ignore[misc]  # h2 only reads it
    def max_concurrent_streams(self) -> int:
        """Twice what is announced: who begins before hearing of it may be over by a little."""
        return 2 * self[SettingCodes.MAX_CONCURRENT_STREAMS]


class _Connection(H2Connection):
    MAX_CLOSED_STREAMS = 1_024  # of 65,536 it would remember, each connection holds megabytes

    def receive_data(self, data: bytes) -> list[Event]:  # type: ignore[override]  # of buffers, bytes are enough
        """What these bytes say. Raises `ProtocolError`."""
        events = super().receive_data(data)
        waiting = self.incoming_buffer._data
        # h2 looks at a frame's length when all of it has come: 16 MiB of each connection that says so.
        if int.from_bytes(waiting[:LENGTH_BYTES], "big") > self.max_inbound_frame_size:
            self.close_connection(ErrorCodes.FRAME_SIZE_ERROR)
            raise FrameTooLargeError("a frame that is longer than announced")
        return events


def new_connection(config: Config) -> H2Connection:
    """A server's side, with RFC 8441's WebSockets."""
    connection = _Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.local_settings = _Limits(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: config.h2_max_concurrent_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: config.h2_max_header_list_size,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
        },
    )
    return connection
