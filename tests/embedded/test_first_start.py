"""What the first start makes: the folder, the cluster, the roles; and that a later one mends what is missing."""

import os
import stat
from pathlib import Path

import pytest

from server.embedded import EmbeddedError, acquire

from .conftest import FAST, query
from .watching import postgres_of

# What a server's environment may hold; none of it may bend the start.
BENT = {
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


def test_makes_everything_from_nothing(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as environment:
        for name, value in BENT.items():
            environment.setenv(name, value)
        held = acquire(ground / "not" / "there" / "yet")  # with fsync, as in production
    try:
        whoami = "SELECT current_user, current_database()"
        assert query(held.app_url, whoami, held.bin_dir) == "tokentape_app|tokentape"
        settings = (
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding'), "
            "current_setting('data_checksums'), current_setting('fsync'), current_setting('synchronous_commit'), "
            "current_setting('listen_addresses'), current_setting('wal_level'), "
            "current_setting('max_connections'), current_setting('TimeZone')"
        )
        assert query(held.owner_url, settings, held.bin_dir) == "18|UTF8|on|on|on||replica|200|UTC"
        locale = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'tokentape'"
        assert query(held.owner_url, locale, held.bin_dir) == "b|C.UTF-8"
    finally:
        held.release()


def test_the_roles_have_no_more_rights_than_they_need(data_dir: Path) -> None:
    held = acquire(data_dir, settings=FAST)
    try:
        rights = (
            "SELECT rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles "
            "WHERE rolname LIKE 'tokentape%' ORDER BY 1"
        )
        assert query(held.superuser_url, rights, held.bin_dir).splitlines() == [
            "tokentape_app|t|f|f|f",
            "tokentape_owner|t|f|f|f",
        ]
        owner = "SELECT datdba::regrole FROM pg_database WHERE datname = 'tokentape'"
        assert query(held.superuser_url, owner, held.bin_dir) == "tokentape_owner"
        query(held.owner_url, "CREATE TABLE mine ()", held.bin_dir)
        with pytest.raises(AssertionError, match="permission denied"):
            query(held.app_url, "CREATE TABLE not_mine ()", held.bin_dir)
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
def test_a_start_that_was_cut_short_is_mended_by_the_next(data_dir: Path, damage: str) -> None:
    first = acquire(data_dir, settings=FAST)
    try:
        for statement in damage.split("; "):
            query(first.superuser_url, statement, first.bin_dir)
        acquire(data_dir).release()
        state = (
            "SELECT datdba::regrole, (SELECT rolsuper FROM pg_roles WHERE rolname = 'tokentape_app') "
            "FROM pg_database WHERE datname = 'tokentape'"
        )
        assert query(first.superuser_url, state, first.bin_dir) == "tokentape_owner|f"
    finally:
        first.release()


def test_only_its_own_user_reaches_it(data_dir: Path) -> None:
    held = acquire(data_dir, settings=FAST)
    try:
        owner = Path(f"/proc/{held.pid}").stat().st_uid
        folder = Path(held.app_url.partition("host=")[2].partition("&")[0])
        for private in (folder, data_dir / "postgres"):
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            assert private.stat().st_uid == owner
        assert stat.S_IMODE(data_dir.stat().st_mode) & 0o007 == 0
        assert data_dir.stat().st_uid == os.geteuid()
    finally:
        held.release()


def test_a_postgres_that_dies_at_once_shows_the_end_of_its_log(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"(?s)ended while it started.*postgres\.log.*work_mem"):
        acquire(data_dir, settings={"work_mem": "nonsense"})
    assert postgres_of(data_dir) == []
    acquire(data_dir, settings=FAST).release()


def test_who_gives_up_waiting_leaves_nothing_behind(data_dir: Path) -> None:
    class GivenUp(Exception):
        pass

    def give_up(text: str) -> None:
        if text == "starting PostgreSQL":
            raise GivenUp

    with pytest.raises(GivenUp):
        acquire(data_dir, progress=give_up, settings=FAST)
    assert postgres_of(data_dir) == []
    acquire(data_dir, settings=FAST).release()
    assert postgres_of(data_dir) == []
