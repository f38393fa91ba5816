"""The certificate that the server makes for local TLS, and the authority that signs it.

The authority must survive restarts, because clients trust it. The certificate is renewed in time, its keys are
readable by their user only, and servers that start together must not make two.
"""

from __future__ import annotations

import datetime
import os
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.http import BadCertificate, local_certificate, open_context, tls
from server.http.tls import LIFETIME, RENEW_BEFORE

NOW = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def handshake_succeeds(folder: Path, authority: Path, name: str) -> bool:
    """Whether a client that trusts `authority` accepts the server as `name`, by a TLS handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = open_context(folder / "server.pem", folder / "server.pem", ("c", "k"))
    client = ssl.create_default_context(cafile=authority)
    one = client.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
    return True


def test_certificate_covers_this_machine_and_the_configured_names(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    made = local_certificate(tmp_path / "tls", ("10.1.2.3", "Chat.Example", "[::2]", "bücher.example"), now)
    for name in ("localhost", "127.0.0.1", "::1", "10.1.2.3", "chat.example", "::2", "xn--bcher-kva.example"):
        assert handshake_succeeds(tmp_path / "tls", made.authority, name), name
    assert not handshake_succeeds(tmp_path / "tls", made.authority, "elsewhere.example")


def test_restart_keeps_certificate_and_authority(tmp_path: Path) -> None:
    local_certificate(tmp_path / "tls", ("a.example",), NOW)
    before = _contents(tmp_path / "tls")
    local_certificate(tmp_path / "tls", ("A.example", "localhost"), NOW + DAY)
    assert _contents(tmp_path / "tls") == before


@pytest.mark.parametrize(
    ("names", "later"),
    [
        (("a.example", "b.example"), DAY),
        ((), DAY),
        (("a.example",), LIFETIME - RENEW_BEFORE + DAY),
        (("a.example",), 2 * LIFETIME),
        (("a.example",), -10 * DAY),
    ],
    ids=["another name", "a name less", "soon over", "over", "the clock was wrong"],
)
def test_certificate_is_renewed_by_the_same_authority(
    tmp_path: Path, names: tuple[str, ...], later: datetime.timedelta
) -> None:
    local_certificate(tmp_path / "tls", ("a.example",), NOW)
    before = _contents(tmp_path / "tls")
    local_certificate(tmp_path / "tls", names, NOW + later)
    after = _contents(tmp_path / "tls")
    assert after["server.pem"] != before["server.pem"]
    assert (after["ca.pem"], after["authority.pem"]) == (before["ca.pem"], before["authority.pem"])


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_damaged_certificate_is_replaced(tmp_path: Path, damage: bytes | None) -> None:
    now = datetime.datetime.now(datetime.UTC)
    made = local_certificate(tmp_path / "tls", (), now)
    if damage is None:
        made.server.unlink()
        made.authority.unlink()
    else:
        made.server.write_bytes(damage)
        made.authority.write_bytes(damage)
    local_certificate(tmp_path / "tls", (), now)
    assert handshake_succeeds(tmp_path / "tls", made.authority, "localhost")


def test_certificate_of_another_authority_is_replaced(tmp_path: Path) -> None:
    """As in a folder put together from two."""
    now = datetime.datetime.now(datetime.UTC)
    one, other = (local_certificate(tmp_path / name, (), now) for name in ("one", "other"))
    one.server.write_bytes(other.server.read_bytes())
    local_certificate(tmp_path / "one", (), now)
    assert handshake_succeeds(tmp_path / "one", one.authority, "localhost")


def test_damaged_authority_is_an_error_that_says_what_to_remove(tmp_path: Path) -> None:
    """Clients trust the authority, so it is never replaced without the operator."""
    local_certificate(tmp_path / "tls", (), NOW)
    path = tmp_path / "tls" / "authority.pem"
    path.write_bytes(b"garbage")
    with pytest.raises(BadCertificate, match="Remove it") as caught:
        local_certificate(tmp_path / "tls", (), NOW)
    assert str(path) in str(caught.value)
    path.unlink()
    local_certificate(tmp_path / "tls", (), NOW)


def test_private_keys_are_readable_by_their_user_only(tmp_path: Path) -> None:
    """Whatever the umask is. The authority's certificate is readable by all."""
    old = os.umask(0)
    try:
        made = local_certificate(tmp_path / "new" / "tls", (), NOW)
    finally:
        os.umask(old)
    assert _mode(made.server) == 0o600
    assert _mode(made.server.parent / "authority.pem") == 0o600
    assert _mode(made.server.parent) == 0o700
    assert _mode(made.authority) == 0o644
    assert not _mode(tmp_path / "new") & 0o066
    assert b"PRIVATE" not in made.authority.read_bytes()
    made.server.chmod(0o644)  # somebody's mistake
    local_certificate(made.server.parent, ("x.example",), NOW)
    assert _mode(made.server) == 0o600


def test_folder_writable_by_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(BadCertificate, match="chmod 700"):
        local_certificate(folder, (), NOW)
    assert _mode(folder) == 0o777


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nothing/tls"])
def test_folder_that_cannot_be_created_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadCertificate, match="TOKENTAPE_DATA_DIR"):
        local_certificate(tmp_path / where, (), NOW)


@pytest.mark.parametrize("name", ["a b", "x_y.example", "a..b", "x" * 64 + ".example"])
def test_name_that_no_certificate_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadCertificate, match="TOKENTAPE_ALLOWED_HOSTS"):
        local_certificate(tmp_path / "tls", (name,), NOW)


def test_servers_started_together_share_one_authority(tmp_path: Path) -> None:
    """Whichever of them creates it."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: local_certificate(tmp_path / "tls", (), NOW), range(8)))
    assert len({one.authority.read_bytes() for one in made}) == 1
    assert sorted(_contents(tmp_path / "tls")) == ["authority.pem", "ca.pem", "lock", "server.pem"]


def test_lock_held_by_another_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "LOCK_SECONDS", 0.05)
    local_certificate(tmp_path / "tls", (), NOW)
    with tls._locked(tmp_path / "tls"), pytest.raises(BadCertificate, match="another process"):
        local_certificate(tmp_path / "tls", (), NOW)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
