"""The start after a process was killed: old pid files, a partial database, a PostgreSQL that starts or stops."""

import os
import subprocess
from pathlib import Path

import pytest

from server.embedded_postgres import EmbeddedError, acquire
from server.embedded_postgres.os_user import postgres_os_user

from .conftest import FAST, ServerProcess, query, socket_dir_of
from .process_table import kill, postgres_of, running


def test_killed_postgres_recovers_committed_data(data_dir: Path) -> None:
    first = acquire(data_dir, settings=FAST)
    query(first.owner_url, "CREATE TABLE kept AS SELECT 42 AS answer", first.bin_dir)
    kill(first.pid)
    with pytest.raises(EmbeddedError, match="No PostgreSQL runs"):
        _ = first.pid
    second = acquire(data_dir, settings=FAST)
    assert query(first.owner_url, "SELECT answer FROM kept", first.bin_dir) == "42"
    first.release()
    second.release()
    assert postgres_of(data_dir) == []


def test_next_start_waits_for_a_busy_session_of_a_killed_postgres(data_dir: Path) -> None:
    """A session that is still running can write: PostgreSQL refuses to start beside it."""
    first = acquire(data_dir, settings=FAST)
    endless = "DO 'BEGIN LOOP END LOOP; END'"
    busy: list[str | Path] = [first.bin_dir / "psql", "-X", "-d", first.owner_url, "-c", endless]
    with subprocess.Popen(busy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        sessions = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO%' AND state = 'active'"
        while not (found := query(first.superuser_url, sessions, first.bin_dir)):
            pass
        session = int(found)
        kill(first.pid)
        heard: list[str] = []

        def end_the_session(text: str) -> None:
            heard.append(text)
            if "last sessions" in text and running(session):
                assert postgres_of(data_dir) == []
                kill(session)

        second = acquire(data_dir, progress=end_the_session, settings=FAST)
        assert not running(session)
        assert any("last sessions" in text for text in heard)
    second.release()
    first.release()


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_starting_or_stopping_postgres_is_waited_for(data_dir: Path, state: str) -> None:
    pid_file = data_dir / "postgres" / "postmaster.pid"
    heard: list[str] = []
    first = acquire(data_dir, settings=FAST)
    before = first.pid
    pid_file.write_text(pid_file.read_text().replace("ready   ", state.ljust(8)))

    def progress(text: str) -> None:
        heard.append(text)
        if state == "starting":
            pid_file.write_text(pid_file.read_text().replace("starting", "ready   "))
        elif len(heard) == 1:
            kill(before)

    second = acquire(data_dir, progress=progress, settings=FAST)
    assert f"waiting for PostgreSQL (pid {before})" in heard[0]
    assert (second.pid == before) is (state == "starting")
    assert query(second.app_url, "SELECT 1", second.bin_dir) == "1"
    first.release()
    second.release()


@pytest.mark.parametrize("owner", ["nobody", "this process", "PostgreSQL's user", "a zombie", "empty file"])
def test_stale_pid_file_is_ignored(data_dir: Path, owner: str) -> None:
    os_user = postgres_os_user()
    with subprocess.Popen(["sleep", "600"], user=os_user.uid if os_user.separate else None) as other:
        if owner in ("nobody", "a zombie"):
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        if owner == "nobody":
            other.wait()
        pid = os.getpid() if owner == "this process" else other.pid
        old = f"{pid}\n{data_dir}/postgres\n1700000000\n5432\n/run/gone\n\n  123  456\nready   \n"
        (data_dir / "postgres" / "postmaster.pid").write_text("" if owner == "empty file" else old)
        held = acquire(data_dir, settings=FAST)
        assert held.pid != pid
        assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
        held.release()
        other.kill()


def test_postgres_without_a_pid_file_is_found(data_dir: Path) -> None:
    held = acquire(data_dir, settings=FAST)
    pid = held.pid
    (data_dir / "postgres" / "postmaster.pid").unlink()
    assert held.pid == pid
    held.release()
    assert postgres_of(data_dir) == []


@pytest.mark.parametrize("at", ["making a new PostgreSQL 18 database", "starting PostgreSQL"])
def test_next_server_completes_an_interrupted_start(folder: Path, at: str) -> None:
    data_dir = folder / "data"
    with ServerProcess(data_dir) as killed:
        while not killed.wait_for("progress").startswith(at):
            pass
        killed.kill()
    if at.startswith("making"):
        (data_dir / "postgres.new-left" / "base").mkdir(parents=True)
    held = acquire(data_dir, settings=FAST)
    assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    assert postgres_of(data_dir) == [held.pid]
    held.release()
    assert postgres_of(data_dir) == []
    assert list(data_dir.glob("*.new-*")) == []


def test_missing_socket_is_reported_with_the_pid(data_dir: Path) -> None:
    held = acquire(data_dir, settings=FAST)
    (socket_dir_of(held.app_url) / ".s.PGSQL.5432").unlink()
    with pytest.raises(EmbeddedError, match=f"removed or is hidden.*kill -INT {held.pid}"):
        acquire(data_dir)
    held.release()
    assert postgres_of(data_dir) == []


def test_another_container_on_the_same_folder_is_refused(data_dir: Path) -> None:
    """It sees the locks but not the process, and would start a second PostgreSQL on the same files."""
    with ServerProcess(data_dir) as other:
        kill(other.pid_of_postgres())
        (data_dir / "postgres.pidns").write_text("pid:[1]")
        with pytest.raises(EmbeddedError, match="in another container"):
            acquire(data_dir, settings=FAST)
        other.kill()
    acquire(data_dir, settings=FAST).release()
