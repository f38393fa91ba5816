"""Data folders that work, and those that are refused with a message. No folder of other origin changes its
mode.
"""

import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.embedded_postgres import EmbeddedError, acquire, default_data_dir
from server.embedded_postgres import data_dir as data_dir_module
from server.embedded_postgres.data_dir import prepare_data_dir
from server.embedded_postgres.os_user import postgres_os_user

from .conftest import FAST, query, socket_dir_of
from .process_table import postgres_of

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")


@pytest.mark.parametrize(
    "name",
    ['it\'s "quoted" `$HOME` \\n %s, çødé-數據-\u2028', "/".join(["long" * 50] * 4)],
    ids=["spaces quotes unicode", "long"],
)
def test_any_folder_name_works(folder: Path, name: str) -> None:
    held = acquire(folder / name, settings=FAST)
    assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    assert held.data_dir == folder / name
    assert len(os.fsencode(socket_dir_of(held.app_url) / ".s.PGSQL.5432")) <= 107
    held.release()


def test_symbolic_link_leads_to_the_same_database(data_dir: Path, folder: Path) -> None:
    (folder / "link").symlink_to(data_dir)
    direct, linked = acquire(data_dir, settings=FAST), acquire(folder / "link", settings=FAST)
    assert (direct.pid, direct.app_url) == (linked.pid, linked.app_url)
    direct.release()
    linked.release()


def make(place: Path, mode: int, owner: str | None = None) -> None:
    place.mkdir()
    place.chmod(mode)
    if owner is not None:
        os.chown(place, pwd.getpwnam(owner).pw_uid, -1)


@pytest.mark.parametrize(
    ("prepare", "name", "reason"),
    [
        pytest.param(lambda f: make(f / "x", 0o700), "x", "may not enter .*/x.*DATA_DIR", marks=only_root),
        pytest.param(lambda f: make(f / "x", 0o700), "x/y/z", "may not enter .*/x[.]", marks=only_root),
        pytest.param(lambda f: make(f / "x", 0o755, "nobody"), "x", "belongs to user id", marks=only_root),
        pytest.param(lambda f: make(f / "x", 0o1777), "x", "Everybody may write", id="open to all"),
        pytest.param(lambda f: (f / "x").write_text(""), "x", "may not enter .*/x[.].*is a file", id="file"),
        pytest.param(lambda f: (f / "x").write_text(""), "x/y", "may not enter .*/x[.].*is a file", id="in file"),
        pytest.param(lambda f: None, "two\nlines", "line break", id="line break"),
        pytest.param(lambda f: None, "/".join(["long" * 50] * 5), "more than 900 bytes", id="too long"),
    ],
)
def test_unusable_folder_is_refused_and_unchanged(
    folder: Path, prepare: Callable[[Path], object], name: str, reason: str
) -> None:
    prepare(folder)
    before = [(path, path.stat().st_mode) for path in folder.rglob("*")]
    with pytest.raises(EmbeddedError, match=reason):
        acquire(folder / name)
    assert [(path, path.stat().st_mode) for path in folder.rglob("*")] == before


@only_root
def test_folder_of_the_operator_keeps_its_mode(folder: Path) -> None:
    make(folder / "made", 0o755)
    prepare_data_dir(folder / "made", postgres_os_user())
    found = (folder / "made").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o755, 0, 0)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda c: (c / "PG_VERSION").write_text("17\n"),
            "by PostgreSQL 17, but this Tokentape comes with PostgreSQL 18",
        ),
        (lambda c: (c / "PG_VERSION").unlink(), "is no PostgreSQL database"),
        pytest.param(
            lambda c: os.chown(c, pwd.getpwnam("nobody").pw_uid, -1), "belongs to user id", marks=only_root
        ),
    ],
)
def test_incompatible_database_is_refused(copied: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(copied / "postgres")
    with pytest.raises(EmbeddedError, match=reason):
        acquire(copied)


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    disk = folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=12m,mode=755", "tokentape-test"]
    mounted = subprocess.run(["mount", *options, disk], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk to fill: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_leaves_no_partial_database(small_disk: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"(?s)could not make a database.*TOKENTAPE_DATA_DIR.*No space left"):
        acquire(small_disk / "data", settings=FAST)
    assert [path.name for path in (small_disk / "data").iterdir()] == ["start.lock"]


@pytest.mark.parametrize(
    "planted",
    ["a link", pytest.param("a folder of another user", marks=only_root), "a folder open to all"],
)
def test_foreign_socket_folder_is_not_used(
    data_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    first, second = folder / "first", folder / "second"
    monkeypatch.setattr(data_dir_module, "_socket_dirs", lambda *_: [first, second])
    if planted == "a link":
        first.symlink_to(data_dir / "postgres")  # a private folder of the right user
    else:
        own = "tokentape" if os.geteuid() == 0 else None  # root's PostgreSQL runs as this user
        make(first, *((0o700, "nobody") if "another" in planted else (0o777, own)))
    held = acquire(data_dir, settings=FAST)
    assert socket_dir_of(held.app_url) == second
    assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    held.release()
    assert not second.exists()
    assert os.path.lexists(first)


def test_missing_socket_folder_is_reported(data_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_dir_module, "_socket_dirs", lambda *_: [folder / "none" / "socket"])
    with pytest.raises(EmbeddedError, match="no place for the folder of PostgreSQL's socket"):
        acquire(data_dir, settings=FAST)
    assert postgres_of(data_dir) == []


def test_default_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/tokentape")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert default_data_dir() == Path("/home/somebody/.local/share/tokentape")
    monkeypatch.setenv("XDG_DATA_HOME", "/else/where")
    assert default_data_dir() == Path("/else/where/tokentape")
