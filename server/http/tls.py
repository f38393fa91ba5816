"""TLS 1.2 and 1.3 (RFC 8446) for accepted connections: the context, and the handshake with its deadline.

A handshake that fails or never ends is the end of that connection and one debug line. It makes no certificates:
`local_certificates.py` makes those for this machine's own names.
"""

import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio

from server.observability import logs

log = logs.get("http")

HANDSHAKE_SECONDS = 10.0
PROTOCOLS = ("h2", "http/1.1")
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: those that RFC 9113 section 9.2.2 does not forbid for HTTP/2. It forbids none of TLS 1.3."""

_METHOD_INITIALS = frozenset(b"ACDGHOPT")  # a TLS handshake begins with 0x16
_HTTPS_EXPECTED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 45\r\n\r\n"
    b"This port speaks HTTPS: write https:// here.\n"
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How connections are secured. `authority`: the file that clients have to trust, if there is one."""

    context: ssl.SSLContext
    authority: Path | None = None


class BadCertificate(Exception):
    """A certificate or key that cannot be used. The message names the setting, the file and the next step."""


def open_context(
    certfile: Path, keyfile: Path, names: tuple[str, str] = ("certfile", "keyfile")
) -> ssl.SSLContext:
    """Makes a server's TLS context. `names`: of the two settings, for errors. Raises `BadCertificate`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(list(PROTOCOLS))
    certificate, key = f"{names[0]} = {str(certfile)!r}", f"{names[1]} = {str(keyfile)!r}"
    _read(certfile, certificate, "a certificate in PEM, with the chain behind it")
    private = _read(keyfile, key, "its private key in PEM")
    if b"PRIVATE KEY-----" not in private:
        raise BadCertificate(
            f"{key}: there is no private key in this file. Name the one that has -----BEGIN PRIVATE KEY----- in it"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=certfile)
    except ssl.SSLError:
        raise BadCertificate(
            f"{certificate}: there is no certificate in this file. Name the one that has -----BEGIN "
            "CERTIFICATE----- in it, the server's own first and its chain behind it"
        ) from None
    try:
        context.load_cert_chain(certfile, keyfile, password=partial(_refuse_password, key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadCertificate(
                f"{key}: this is not the key of the certificate in {str(certfile)!r}. Name two that are a pair"
            ) from None
        raise BadCertificate(
            f"{key}: OpenSSL cannot use it ({error.reason or error}); `openssl pkey -in {keyfile} -check` says why"
        ) from None
    return context


def _refuse_password(key: str) -> NoReturn:
    """OpenSSL calls it for an encrypted key's password; without it, OpenSSL would ask the terminal and wait."""
    raise BadCertificate(
        f"{key}: the key is encrypted, and nobody is there to type its password. Name a file that has "
        "it in the open, readable by its user alone: `openssl pkey -in KEY -out PLAIN`, with umask 077"
    )


def _read(path: Path, named: str, wanted: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCertificate(f"{named}: {error.strerror}; it has to be a file with {wanted}") from None


async def accept_tls(
    plain: trio.SocketStream, context: ssl.SSLContext
) -> "trio.SSLStream[trio.SocketStream] | None":
    """Does the TLS handshake on a connection that was just accepted; None if it failed."""
    stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            if await _speaks_http(plain):
                await plain.send_all(_HTTPS_EXPECTED)
                return None
            await stream.do_handshake()
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        log.debug("no handshake", why=repr(error.__cause__ or error)[:200])
        return None
    return stream


async def _speaks_http(plain: trio.SocketStream) -> bool:
    """Whether the client speaks plain HTTP, by its first byte.

    If it does, the bytes that have come are received: closing the socket on unread bytes would reset the
    connection, and the client would not see the answer.
    """
    first = await plain.socket.recv(1, trio.socket.MSG_PEEK)
    if not first or first[0] not in _METHOD_INITIALS:
        return False
    await plain.receive_some()
    return True
