"""Which data folders work, which are refused and how: nothing that Tokentape did not make is ever loosened."""

import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.embedded import EmbeddedError, acquire, default_data_dir, socket_folder
from server.embedded.account import acting_account
from server.embedded.folder import prepare

from .conftest import FAST, query
from .watching import postgres_of

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")


@pytest.mark.parametrize(
    "name",
    ['it\'s "quoted" `$HOME` \\n %s, çødé-數據-\u2028', "/".join(["long" * 50] * 4)],
    ids=["spaces quotes unicode", "long"],
)
def test_any_name_works(ground: Path, name: str) -> None:
    held = acquire(ground / name, settings=FAST)
    assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    assert held.data_dir == ground / name
    assert len(f"{held.app_url.partition('host=')[2].partition('&')[0]}/.s.PGSQL.5432".encode()) <= 107
    held.release()


def test_a_link_leads_to_the_same_database(data_dir: Path, ground: Path) -> None:
    (ground / "link").symlink_to(data_dir)
    straight, linked = acquire(data_dir, settings=FAST), acquire(ground / "link", settings=FAST)
    assert (straight.pid, straight.app_url) == (linked.pid, linked.app_url)
    straight.release()
    linked.release()


@only_root
@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_private_parent_is_refused_and_stays_private(ground: Path, below: str) -> None:
    private = ground / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError) as refusal:
        acquire(private / below)
    for part in (f"may not enter {private} (mode 0700, owner root)", "TOKENTAPE_DATA_DIR", "/var/lib/tokentape"):
        assert part in str(refusal.value)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert list(private.iterdir()) == []


@only_root
def test_a_folder_that_the_operator_made_keeps_its_mode(ground: Path) -> None:
    (ground / "made").mkdir()
    (ground / "made").chmod(0o755)
    prepare(ground / "made", acting_account())
    found = (ground / "made").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o755, 0, 0)


@only_root
def test_a_folder_of_somebody_else_is_refused(ground: Path) -> None:
    (ground / "theirs").mkdir()
    os.chown(ground / "theirs", pwd.getpwnam("nobody").pw_uid, -1)
    with pytest.raises(EmbeddedError, match="belongs to nobody, but Tokentape runs as root"):
        acquire(ground / "theirs")


@only_root
def test_a_database_of_somebody_else_is_refused(copied: Path) -> None:
    os.chown(copied / "postgres", pwd.getpwnam("nobody").pw_uid, -1)
    with pytest.raises(EmbeddedError, match="belongs to nobody, but PostgreSQL would run as tokentape"):
        acquire(copied)


def test_a_folder_open_to_all_is_refused(ground: Path) -> None:
    (ground / "open").mkdir()
    (ground / "open").chmod(0o1777)
    with pytest.raises(EmbeddedError, match="may be written by everybody"):
        acquire(ground / "open")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_way_is_named(ground: Path, below: str) -> None:
    (ground / "file").write_text("")
    with pytest.raises(EmbeddedError, match=f"{ground}/file is a file"):
        acquire(ground / "file" / below)


@pytest.mark.parametrize(
    ("name", "reason"), [("two\nlines", "line break"), ("/".join(["long" * 50] * 5), "longer than 900 bytes")]
)
def test_what_postgres_could_not_open_is_refused(ground: Path, name: str, reason: str) -> None:
    with pytest.raises(EmbeddedError, match=reason):
        acquire(ground / name)
    assert list(ground.iterdir()) == []


def test_a_database_of_another_version_is_refused(copied: Path) -> None:
    (copied / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 17, but this Tokentape brings PostgreSQL 18"):
        acquire(copied)


def test_something_else_in_its_place_is_refused(copied: Path) -> None:
    (copied / "postgres" / "PG_VERSION").unlink()
    with pytest.raises(EmbeddedError, match="no PostgreSQL database"):
        acquire(copied)


@pytest.fixture
def small_disk(ground: Path) -> Iterator[Path]:
    disk = ground / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m,mode=755", "tokentape-test", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk to fill: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_half_made(small_disk: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"The disk is full: free some space.*TOKENTAPE_DATA_DIR"):
        acquire(small_disk / "data", settings=FAST)
    assert sorted(path.name for path in (small_disk / "data").iterdir()) == ["start.lock", "users.lock"]


def test_a_socket_folder_laid_out_by_somebody_else_is_not_used(
    data_dir: Path, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = socket_folder.mark(data_dir)
    monkeypatch.setattr(socket_folder, "_PLACES", {True: (str(ground),), False: (str(ground),)})
    (ground / mark).symlink_to(data_dir)  # a link to a folder of ours is no better
    if os.geteuid() == 0:
        (ground / f"{mark}-1").mkdir()
        os.chown(ground / f"{mark}-1", pwd.getpwnam("nobody").pw_uid, -1)
    held = acquire(data_dir, settings=FAST)
    number = 2 if os.geteuid() == 0 else 1
    assert f"host={ground}/{mark}-{number}&" in held.app_url
    assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    held.release()


def test_no_place_for_a_socket_is_said(data_dir: Path, ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_folder, "_PLACES", {True: (f"{ground}/none",), False: (f"{ground}/none",)})
    with pytest.raises(EmbeddedError, match="No folder for PostgreSQL's socket"):
        acquire(data_dir, settings=FAST)
    assert postgres_of(data_dir) == []


def test_the_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/tokentape")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert default_data_dir() == Path("/home/somebody/.local/share/tokentape")
    monkeypatch.setenv("XDG_DATA_HOME", "/else/where")
    assert default_data_dir() == Path("/else/where/tokentape")


@only_root
def test_root_runs_it_as_a_system_user_without_a_login(data_dir: Path) -> None:
    account = acting_account()
    assert account.separate
    entry = pwd.getpwnam("tokentape")
    assert (account.uid, entry.pw_shell) == (entry.pw_uid, "/usr/sbin/nologin")
    held = acquire(data_dir, settings=FAST)
    assert Path(f"/proc/{held.pid}").stat().st_uid == entry.pw_uid
    status = Path(f"/proc/{held.pid}/status").read_text()
    groups = next(line for line in status.splitlines() if line.startswith("Groups:"))
    assert groups.split()[1:] == []
    held.release()
