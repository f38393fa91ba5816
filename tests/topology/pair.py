"""A primary and its streaming standby, two real servers on loopback, which a test may cut apart, kill and
promote."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

import migrations
from server.embedded_postgres.os_user import OsUser, postgres_os_user
from tests.harness.databases import psql
from tests.harness.servers import free_port

SECONDS = 30.0
STANDBY = "tokentape_standby"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # a killed server process loses nothing that it has written; the machine stays up
    "max_connections": "100",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "wal_receiver_timeout": "2s",
    "wal_retrieve_retry_interval": "100ms",
    "shared_buffers": "32MB",
}


class Cluster:
    """One server. `folder` holds its data; psql asks it as its superuser."""

    def __init__(self, folder: Path, bin_dir: Path, account: OsUser) -> None:
        self.folder = folder
        self.port = free_port()
        self._bin = bin_dir
        self._account = account
        self._process: subprocess.Popen[str] | None = None

    def url(self, role: str = "postgres", database: str = "postgres") -> str:
        """Where it is, for a role."""
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What it answers its superuser."""
        return psql(self._bin, self.url(database=database), statement)

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        settings = {**SETTINGS, "port": str(self.port)}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = self._account.popen(
                [self._bin / "postgres", "-D", self.folder, *words], log=log.fileno()
            )
        wait(self._answers)

    def _answers(self) -> bool:
        try:
            return self.sql("SELECT 1") == "1"
        except RuntimeError:
            assert self._process is not None
            assert self._process.poll() is None, "it ended while it started"
            return False

    def kill(self) -> None:
        """As a crash: it says nothing to anybody, and writes nothing more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(SECONDS)
            self._process = None

    def run(self, *argv: str | Path) -> None:
        """One of PostgreSQL's programs, as the user that owns the data."""
        done = self._account.run([self._bin / argv[0], *argv[1:]])
        assert done.returncode == 0, done.stderr


class Pair:
    """`first` is the primary, `second` follows it. `app_url` and `owner_url` name both hosts."""

    def __init__(self, first: Cluster, second: Cluster) -> None:
        self.first = first
        self.second = second
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        self.app_url, self.owner_url = (
            f"postgresql://tokentape_{role}@{hosts}/tokentape" for role in ("app", "owner")
        )

    def caught_up(self) -> None:
        """Waits until the standby has all that the primary has."""
        wait(lambda: self.first.sql(CAUGHT_UP) == "t")

    def cut(self) -> None:
        """The standby receives nothing more; it does not know what it lacks."""
        self.second.sql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1 connect_timeout=1'")
        self.second.sql("SELECT pg_reload_conf()")
        wait(
            lambda: self.second.sql("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") == "0"
        )
        wait(lambda: self.first.sql("SELECT count(*) FROM pg_stat_replication") == "0")

    def fail_over(self) -> None:
        """The primary crashes, and the standby takes its place."""
        self.first.kill()
        self.second.sql("SELECT pg_promote(true, 30)")


CAUGHT_UP = "SELECT bool_or(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication"
SYNCHRONOUS = f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'"


def wait(holds: Callable[[], bool]) -> None:
    """Looks again and again until it holds."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def pair(folder: Path, bin_dir: Path, *, synchronous: bool) -> Iterator[Pair]:
    """Both at work and migrated, the standby with all that the primary has. `folder` is not made yet."""
    account = postgres_os_user()
    folder.mkdir(mode=0o700)
    if account.separate:
        os.chown(folder, account.uid, account.gid)
    first, second = (Cluster(folder / name, bin_dir, account) for name in ("first", "second"))
    try:
        words = ["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        first.run("initdb", *words, f"--pgdata={first.folder}")
        first.start()
        for statement in (
            "CREATE ROLE tokentape_owner LOGIN",
            "CREATE ROLE tokentape_app LOGIN",
            "CREATE DATABASE tokentape OWNER tokentape_owner",
        ):
            first.sql(statement)
        source = f"{first.url()}?application_name={STANDBY}"
        words = ["--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync"]
        first.run("pg_basebackup", *words, f"--pgdata={second.folder}", f"--dbname={source}")
        second.start()
        both = Pair(first, second)
        if synchronous:  # after the copy was made: promoted, the other one waits for nobody
            first.sql(SYNCHRONOUS)
            first.sql("SELECT pg_reload_conf()")
            wait(lambda: first.sql("SELECT bool_or(sync_state = 'sync') FROM pg_stat_replication") == "t")
        trio.run(lambda: migrations.upgrade(both.owner_url, app_role="tokentape_app"))
        both.caught_up()
        yield both
    finally:
        for cluster in (second, first):
            cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)
