"""TLS on the listening socket: protocol choice by ALPN, failed handshakes, and errors about certificate files.

A failed handshake must neither block other clients nor leave a connection behind.
"""

from __future__ import annotations

import datetime
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from server.http import BadCertificate, Tls, local_certificate, open_context, tls
from tests.clients.http2 import connect, trusting
from tests.http.http_server import send_response, serving, wait_until

NAMES = ("TOKENTAPE_CERTFILE", "TOKENTAPE_KEYFILE")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Responds with the scheme and HTTP version of the request; `/endless` never finishes."""
    if scope["path"] == "/endless":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with trio.open_nursery() as nursery:

            async def pour() -> None:
                while True:
                    await send({"type": "http.response.body", "body": bytes(50_000), "more_body": True})

            nursery.start_soon(pour)
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()
        return
    await send_response(send, f"{scope['scheme']} {scope['http_version']}".encode())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tls, Path]:
    """A certificate for this machine, and the path of the authority to trust."""
    made = local_certificate(tmp_path_factory.mktemp("tls"), (), datetime.datetime.now(datetime.UTC))
    return Tls(open_context(made.server, made.server, NAMES), made.authority), made.authority


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_alpn_selects_http2(own: tuple[Tls, Path], version: ssl.TLSVersion) -> None:
    trust = trusting(own[1])
    trust.minimum_version = trust.maximum_version = version
    async with serving(app, own[0]) as served, connect(served.port, trust) as connection:
        assert await (await connection.request("GET", "/")).body() == b"https 2"


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
async def test_http_1_1_with_and_without_alpn(own: tuple[Tls, Path], protocols: tuple[str, ...]) -> None:
    context = ssl.create_default_context(cafile=own[1])
    if protocols:
        context.set_alpn_protocols(list(protocols))
    async with serving(app, own[0]) as served:
        plain = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            got = b""
            with trio.fail_after(5):
                while part := await stream.receive_some():
                    got += part
        assert got.startswith(b"HTTP/1.1 200")
        assert b"https 1.1" in got


async def test_tls_1_0_and_1_1_are_refused(own: tuple[Tls, Path]) -> None:
    trust = trusting(own[1])
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        trust.minimum_version, trust.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    async with serving(app, own[0]) as served:
        with pytest.raises(trio.BrokenResourceError):
            async with connect(served.port, trust):
                pass
        await wait_until(lambda: served.sockets == 0)
        await check_https_works(served.port, own)


async def test_silent_client_is_disconnected_during_the_handshake(
    own: tuple[Tls, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the handshake and in the middle of it; other clients are served meanwhile."""
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.3)
    async with serving(app, own[0]) as served:
        for words in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50)):
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as silent:
                if words:
                    await silent.send_all(words)
                await wait_until(lambda: served.sockets == 1)
                await check_https_works(served.port, own)
                with trio.fail_after(5):
                    assert await silent.receive_some() == b""
            await wait_until(lambda: served.sockets == 0)


@pytest.mark.parametrize("words", [b"\x16\x03\x01\x00\x05hello", bytes(100), b"\xff" * 100, b"SSH-2.0-x\r\n"])
async def test_garbage_instead_of_a_handshake_closes_its_connection_only(
    own: tuple[Tls, Path], words: bytes
) -> None:
    async with serving(app, own[0]) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(words)
            with trio.fail_after(5):
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        await wait_until(lambda: served.sockets == 0)
        await check_https_works(served.port, own)


async def test_plain_http_on_the_tls_port_gets_400_with_the_https_url(own: tuple[Tls, Path]) -> None:
    async with serving(app, own[0]) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            got = b""
            with trio.fail_after(5):
                while part := await stream.receive_some():
                    got += part
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert b"https://" in body
        assert f"Content-Length: {len(body)}".encode() in head


async def test_stop_cuts_a_tls_client_that_does_not_read(own: tuple[Tls, Path]) -> None:
    """Closing the TLS stream politely would wait for such a client without end."""
    trust = trusting(own[1], "http/1.1")
    async with serving(app, own[0]) as served:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(("127.0.0.1", served.port))
        stream = trio.SSLStream(trio.SocketStream(sock), trust, server_hostname="localhost")
        await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await stream.receive_some(10)
        with trio.fail_after(3):
            await served.server.close(1)
        assert served.sockets == 0
        await trio.aclose_forcefully(stream)


async def check_https_works(port: int, own: tuple[Tls, Path]) -> None:
    """Checks that a new client is served over TLS and HTTP/2."""
    async with connect(port, trusting(own[1])) as connection:
        assert await (await connection.request("GET", "/")).body() == b"https 2"


@pytest.fixture(scope="module")
def certificate_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a valid pair of files and with every kind of bad file."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("good", "other"):
        made = local_certificate(folder / name, ("site.example",), datetime.datetime.now(datetime.UTC))
        pem = made.server.read_text()
        cut = pem.index("-----BEGIN CERTIFICATE")
        (folder / f"{name}.key").write_text(pem[:cut])
        (folder / f"{name}.pem").write_text(pem[cut:])
    command = ["openssl", "pkey", "-in", str(folder / "good.key"), "-aes256", "-passout", "pass:x"]
    encrypted = subprocess.run(command, check=True, capture_output=True).stdout
    (folder / "encrypted.key").write_bytes(encrypted)
    (folder / "garbage").write_bytes(b"\x00\xffgarbage")
    (folder / "empty").write_bytes(b"")
    (folder / "hollow.key").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (folder / "hollow.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (folder / "folder").mkdir()
    return folder


def test_valid_certificate_files_are_loaded(certificate_files: Path) -> None:
    open_context(certificate_files / "good.pem", certificate_files / "good.key", NAMES)


@pytest.mark.parametrize(
    ("certificate", "key", "to_blame", "said"),
    [
        ("nowhere", "good.key", "CERTFILE", "No such file"),
        ("good.pem", "nowhere", "KEYFILE", "No such file"),
        ("folder", "good.key", "CERTFILE", "directory"),
        ("garbage", "good.key", "CERTFILE", "no certificate"),
        ("empty", "good.key", "CERTFILE", "no certificate"),
        ("hollow.pem", "good.key", "CERTFILE", "no certificate"),
        ("good.key", "good.key", "CERTFILE", "no certificate"),
        ("good.pem", "garbage", "KEYFILE", "no private key"),
        ("good.pem", "empty", "KEYFILE", "no private key"),
        ("good.pem", "good.pem", "KEYFILE", "no private key"),
        ("good.pem", "hollow.key", "KEYFILE", "cannot use"),
        ("good.pem", "other.key", "KEYFILE", "not the key of the certificate"),
        ("good.pem", "encrypted.key", "KEYFILE", "encrypted"),
    ],
)
def test_bad_certificate_file_error_names_setting_and_file(
    certificate_files: Path, certificate: str, key: str, to_blame: str, said: str
) -> None:
    """The message says what is wrong with the file. OpenSSL must not ask the terminal for a password."""
    with pytest.raises(BadCertificate) as caught:
        open_context(certificate_files / certificate, certificate_files / key, NAMES)
    message = str(caught.value)
    blamed = certificate_files / (certificate if to_blame == "CERTFILE" else key)
    assert message.startswith(f"TOKENTAPE_{to_blame} = {str(blamed)!r}: ")
    assert said in message
