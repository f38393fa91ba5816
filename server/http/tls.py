"""TLS 1.2 and 1.3 (RFC 8446) for accepted connections: the context, the handshake, and certificates of our own.

A handshake has a deadline; one that fails or never ends is the end of that connection and one debug line.

`local_certificate` makes certificates for this machine's own names, signed by an authority that stays the same
over restarts. It owns a private folder with `ca.pem` (for clients to trust), `authority.pem` (the same with its
key) and `server.pem`. A file with a key is readable by its user alone. Certificate and key are in one file, so
that a crash between two writes cannot pair a key with another certificate. trustme and cryptography are imported
only when they are needed, because most servers have a certificate of their own.
"""

import datetime
import fcntl
import os
import secrets
import ssl
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import trio

from server.observability import logs

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from trustme import CA


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


LOCAL = ("localhost", "127.0.0.1", "::1")
LIFETIME = datetime.timedelta(days=397)
"""Apple's systems refuse certificates of more than 825 days, and browsers refuse some of more than 398."""
RENEW_BEFORE = datetime.timedelta(days=60)
"""A certificate is renewed only when a server starts; so it is valid for at least this long after a start."""
CLOCK_SKEW = datetime.timedelta(days=1)
"""How much a client's clock may be behind ours."""
LOCK_SECONDS = 10.0
NEXT_STEP = (
    "set TOKENTAPE_DATA_DIR to another folder, or bring a certificate (TOKENTAPE_CERTFILE, TOKENTAPE_KEYFILE)"
)


@dataclass(frozen=True, slots=True)
class LocalCertificate:
    """Two PEM files: `server` holds certificate and key, `authority` is what clients have to trust."""

    server: Path
    authority: Path


def local_certificate(folder: Path, names: Iterable[str], now: datetime.datetime) -> LocalCertificate:
    """Returns the certificate for `names` and this machine's own names; makes or renews it where needed.

    Blocks for some milliseconds. Raises `BadCertificate` when trustme is not installed, or when the folder or a
    name cannot be used.
    """
    if find_spec("trustme") is None:
        raise BadCertificate(
            "The local certificate of --tls needs a package that is not installed: run "
            "pip install 'tokentape[tls]', or bring a certificate (TOKENTAPE_CERTFILE, TOKENTAPE_KEYFILE)."
        )
    wanted = sorted({name.strip("[]").rstrip(".").lower() for name in (*LOCAL, *names)})
    try:
        _make_private(folder)
        with _locked(folder):
            return _keep_or_renew(folder, wanted, now)
    except OSError as error:
        where = error.filename or folder
        raise BadCertificate(f"The local certificate: {where}: {error.strerror}; {NEXT_STEP}.") from None


def _keep_or_renew(folder: Path, names: list[str], now: datetime.datetime) -> LocalCertificate:
    found = LocalCertificate(folder / "server.pem", folder / "ca.pem")
    ca = _authority(folder)
    _write(found.authority, ca.cert_pem.bytes(), 0o644)
    new = ca.issue_cert(
        *(_checked(name) for name in names),
        organization_name="Tokentape",
        organization_unit_name="A server of this machine",
        not_before=_naive_utc(now - CLOCK_SKEW),
        not_after=_naive_utc(now + LIFETIME),
    )
    if not _is_current(found, new.cert_chain_pems[0].bytes(), now):
        _write(found.server, new.private_key_and_cert_chain_pem.bytes(), 0o600)
    return found


def _is_current(found: LocalCertificate, new: bytes, now: datetime.datetime) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate

    try:
        pem = found.server.read_bytes()
        old = load_pem_x509_certificate(pem)
        key = load_pem_private_key(pem, password=None)
        old.verify_directly_issued_by(load_pem_x509_certificate(found.authority.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
        return False
    return (
        key.public_key() == old.public_key()
        and _names(old) == _names(load_pem_x509_certificate(new))
        and old.not_valid_before_utc <= now < old.not_valid_after_utc - RENEW_BEFORE
    )


def _names(certificate: "Certificate") -> set[str]:
    from cryptography.x509 import SubjectAlternativeName

    return {
        str(name.value) for name in certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    }


def _authority(folder: Path) -> "CA":
    import trustme

    path = folder / "authority.pem"
    try:
        held = path.read_bytes()
    except FileNotFoundError:
        unit = f"Authority of this machine, {secrets.token_hex(4)}"
        ca = trustme.CA(path_length=0, organization_name="Tokentape", organization_unit_name=unit)
        _write(path, ca.private_key_pem.bytes() + ca.cert_pem.bytes(), 0o600)
        return ca
    try:
        return trustme.CA.from_pem(held, held)
    except (ValueError, TypeError):
        # It is not replaced without being asked: clients trust the old one.
        raise BadCertificate(
            f"The local certificate: {path} cannot be read. Remove it, and a new authority is made, which clients "
            f"have to be told to trust; or {NEXT_STEP}."
        ) from None


def _checked(name: str) -> str:
    """Returns the name if a certificate can have it, or raises `BadCertificate`."""
    import idna

    try:
        idna.encode(name, uts46=True)
    except UnicodeError as error:
        if ":" not in name:  # an IPv6 address is no name
            raise BadCertificate(
                f"The local certificate: {name[:100]!a} is no name that a certificate can have ({error}). Take it "
                "out of TOKENTAPE_ALLOWED_HOSTS or TOKENTAPE_BIND, or bring a certificate (TOKENTAPE_CERTFILE)."
            ) from None
    return name


def _make_private(folder: Path) -> None:
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            # As root: the embedded database runs as another user, who has to pass through the folders above.
            mode = 0o700 if part == folder or os.geteuid() != 0 else 0o711
            part.mkdir(mode, exist_ok=True)
            part.chmod(mode)
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise BadCertificate(f"The local certificate: {folder} is a file. Move it away, or {NEXT_STEP}.")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise BadCertificate(
            f"The local certificate: others may write in {folder}, and so make certificates that your clients "
            f"trust. Make it yours alone (chmod 700), or {NEXT_STEP}."
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock: two servers that start together must not each make an authority."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BadCertificate(
                        f"The local certificate: another process holds {folder / 'lock'} "
                        f"for {LOCK_SECONDS:.0f} s. End it and try again."
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Writes a file atomically and never readable by others meanwhile. An identical file stays untouched."""
    try:
        if path.read_bytes() == data and stat.S_IMODE(path.stat().st_mode) == mode:
            return
    except FileNotFoundError:
        pass
    handle, new = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(new, mode)
        os.rename(new, path)
    except BaseException:
        os.unlink(new)
        raise


def _naive_utc(moment: datetime.datetime) -> datetime.datetime:
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)  # trustme takes naive datetimes in UTC
