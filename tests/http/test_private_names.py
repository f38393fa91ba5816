"""The names of libraries that are none of their public ones, and that this server leans on: each is still there.

An upgrade that moves one fails here, by name, and not in front of a client.
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


def test_h2_keeps_unfinished_frames_where_we_look() -> None:
    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    connection.receive_data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x06\x04")
    assert bytes(connection.incoming_buffer._data) == b"\x00\x00\x06\x04"


def test_h2_forgets_closed_streams_by_a_number_of_the_class() -> None:
    assert H2Connection.MAX_CLOSED_STREAMS > LimitedH2Connection.MAX_CLOSED_STREAMS
    assert "MAX_CLOSED_STREAMS" in inspect.getsource(H2Connection)
    assert isinstance(new_h2_connection().streams, dict)


def test_h2_settings_change_with_lists_in_them() -> None:
    """They stand in place of deques."""
    settings = new_h2_connection().remote_settings
    assert all(isinstance(values, list) for values in settings._settings.values())
    assert isinstance(settings, Settings)
    settings[SettingCodes.INITIAL_WINDOW_SIZE] = 7
    assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == 65_535
    changed = settings.acknowledge()
    assert changed[SettingCodes.INITIAL_WINDOW_SIZE].new_value == 7
    assert settings.initial_window_size == 7


def test_h2_asks_its_settings_how_many_streams_may_be_open() -> None:
    assert new_h2_connection().local_settings.max_concurrent_streams == 512


def test_quart_runs_requests_by_the_classes_we_put_there() -> None:
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


def test_nothing_is_put_into_the_modules_of_hypercorn() -> None:
    """Whose server is not on the way; only its types are."""
    import hypercorn.protocol
    import hypercorn.protocol.h11

    import server.http  # noqa: F401

    for module, name in ((hypercorn.protocol, "H11Protocol"), (hypercorn.protocol.h11, "WSStream")):
        assert vars(module)[name].__module__.startswith("hypercorn.")


def test_h2_makes_its_streams_where_we_give_them_their_class() -> None:
    """And asks them for the length of a body by the names that ours have."""
    for name in ("_initialize_content_length", "_track_content_length"):
        assert f"self.{name}(" in inspect.getsource(H2Stream)
    connection = new_h2_connection()
    connection.initiate_connection()
    stream = connection._begin_new_stream(1, AllowedStreamIDs.ODD)
    assert connection.streams[1] is stream
    assert type(stream).__module__ == "server.http.http2.http2_limits"
    assert "validate_inbound_headers" in inspect.getsource(H2Stream)
