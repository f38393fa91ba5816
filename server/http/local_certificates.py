"""Certificates for this machine's own names, signed by an authority that stays the same over restarts.

Owns a private folder with `ca.pem` (for clients to trust), `authority.pem` (the same with its key) and
`server.pem`. A file with a key is readable by its user alone. Certificate and key are in one file, so that a crash
between two writes cannot pair a key with another certificate. It must not know connections. trustme and
cryptography are imported only when they are needed, because most servers have a certificate of their own.
"""

import datetime
import fcntl
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from server.http.tls import BadCertificate

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from trustme import CA

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
