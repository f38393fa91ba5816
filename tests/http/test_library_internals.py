"""Private attributes of h2, Quart and Hypercorn that this server relies on.

If an upgrade of a library renames one of them, the test of that name fails here, before a client notices.
"""

import inspect

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, H2Connection
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream
from quart import Quart
from quart.asgi import ASGIWebsocketConnection
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from quart_trio.wrappers.request import TrioBody

from server.http.http2.http2_limits import LimitedH2Connection, new_h2_connection


def test_h2_keeps_incomplete_frames_in_incoming_buffer() -> None:
    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    connection.receive_data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x06\x04")
    assert bytes(connection.incoming_buffer._data) == b"\x00\x00\x06\x04"


def test_h2_limits_closed_streams_by_a_class_attribute() -> None:
    assert H2Connection.MAX_CLOSED_STREAMS > LimitedH2Connection.MAX_CLOSED_STREAMS
    assert "MAX_CLOSED_STREAMS" in inspect.getsource(H2Connection)
    assert isinstance(new_h2_connection().streams, dict)


def test_h2_settings_work_with_lists_instead_of_deques() -> None:
    """This server replaces h2's deques of setting values by lists."""
    settings = new_h2_connection().remote_settings
    assert all(isinstance(values, list) for values in settings._settings.values())
    assert isinstance(settings, Settings)
    settings[SettingCodes.INITIAL_WINDOW_SIZE] = 7
    assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == 65_535
    changed = settings.acknowledge()
    assert changed[SettingCodes.INITIAL_WINDOW_SIZE].new_value == 7
    assert settings.initial_window_size == 7


def test_h2_takes_its_stream_limit_from_local_settings() -> None:
    assert new_h2_connection().local_settings.max_concurrent_streams == 512


def test_quart_uses_the_connection_classes_we_replace() -> None:
    for name in ("asgi_http_class", "asgi_websocket_class", "request_class"):
        assert hasattr(Quart, name), name
    for kind, names in (
        (TrioASGIHTTPConnection, ("_create_request_from_scope", "_send_response", "handle_messages")),
        (TrioASGIWebsocketConnection, ("_create_websocket_from_scope", "accept_connection", "close_connection")),
        (ASGIWebsocketConnection, ("handle_websocket",)),
        (TrioBody, ("set_complete", "__await__", "__anext__")),
    ):
        for name in names:
            assert hasattr(kind, name), (kind, name)
    assert "self.receive_channel.receive" in inspect.getsource(TrioASGIWebsocketConnection)
    for name in ("_accepted", "_closed"):
        assert f"self.{name} =" in inspect.getsource(TrioASGIWebsocketConnection.__init__)


def test_hypercorn_modules_are_not_patched() -> None:
    """This project uses only Hypercorn's types, not its server."""
    import hypercorn.protocol
    import hypercorn.protocol.h11

    import server.http  # noqa: F401

    for module, name in ((hypercorn.protocol, "H11Protocol"), (hypercorn.protocol.h11, "WSStream")):
        assert vars(module)[name].__module__.startswith("hypercorn.")


def test_h2_creates_streams_by_the_method_we_override() -> None:
    """h2 also tracks the length of a body by methods of the names that our stream class overrides."""
    for name in ("_initialize_content_length", "_track_content_length"):
        assert f"self.{name}(" in inspect.getsource(H2Stream)
    connection = new_h2_connection()
    connection.initiate_connection()
    stream = connection._begin_new_stream(1, AllowedStreamIDs.ODD)
    assert connection.streams[1] is stream
    assert type(stream).__module__ == "server.http.http2.http2_limits"
    assert "validate_inbound_headers" in inspect.getsource(H2Stream)
