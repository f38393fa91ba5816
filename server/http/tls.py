"""TLS on a connection (1.2 and 1.3, RFC 8446): the context from two files, and the handshake with its deadline.

A handshake that fails, or never ends, is that connection's end and one debug line. Owns no certificates:
`certificates.py` makes the ones of this machine.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trio

from server import logs

log = logs.get("host")

HANDSHAKE_SECONDS = 10.0
PROTOCOLS = ("h2", "http/1.1")
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, those that RFC 9113 section 9.2.2 leaves; 1.3 has none to forbid."""

_HTTP_FIRST = frozenset(b"ACDGHOPT")  # what methods begin with; a TLS record begins with 0x16
_IS_HTTPS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 45\r\n\r\n"
    b"This port speaks HTTPS: write https:// here.\n"
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How connections are secured. `authority` is the file that clients have to trust, where we made it."""

    context: ssl.SSLContext
    authority: Path | None = None


class BadCertificate(Exception):
    """A certificate or key that cannot be used. The message names the setting, the file and the next step."""


def open_context(
    certfile: Path, keyfile: Path, names: tuple[str, str] = ("certfile", "keyfile")
) -> ssl.SSLContext:
    """A server's context. `names` are what the two settings are called. Raises `BadCertificate`."""
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
        context.load_cert_chain(certfile, keyfile, password=_Asked(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadCertificate(
                f"{key}: this is not the key of the certificate in {str(certfile)!r}. Name two that are a pair"
            ) from None
        raise BadCertificate(
            f"{key}: OpenSSL cannot use it ({error.reason or error}); `openssl pkey -in {keyfile} -check` says why"
        ) from None
    return context


class _Asked:
    """What OpenSSL asks for a password; without it, it would ask the terminal and wait."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self) -> str:
        raise BadCertificate(
            f"{self._key}: the key is encrypted, and nobody is there to type its password. Name a file that has "
            "it in the open, readable by its user alone: `openssl pkey -in KEY -out PLAIN`, with umask 077"
        )


def _read(path: Path, named: str, wanted: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCertificate(f"{named}: {error.strerror}; it has to be a file with {wanted}") from None


async def shake_hands(
    plain: trio.SocketStream, context: ssl.SSLContext
) -> "trio.SSLStream[trio.SocketStream] | None":
    """TLS over a connection that has just come in; None if that was none."""
    stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            if await _speaks_http(plain):
                await plain.send_all(_IS_HTTPS)
                return None
            await stream.do_handshake()
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        log.debug("no handshake", why=repr(error.__cause__ or error)[:200])
        return None
    return stream


async def _speaks_http(plain: trio.SocketStream) -> bool:
    """Whether the first byte is a request's; if so, all that has come is taken, or the answer would be lost."""
    first = await plain.socket.recv(1, trio.socket.MSG_PEEK)
    if not first or first[0] not in _HTTP_FIRST:
        return False
    await plain.receive_some()
    return True
