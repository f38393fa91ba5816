"""What a start finds after something was killed: stale pid files, half a database, one that still recovers."""

import os
import subprocess
from pathlib import Path

import pytest

from server.embedded import EmbeddedError, acquire, handle, postmaster
from server.embedded.account import Account, acting_account
from server.embedded.pid_file import clear_stale, read_pid_file
from server.embedded.roles import ensure_roles

from .conftest import FAST, Holder, query
from .watching import kill, postgres_of, running


def test_a_killed_postgres_recovers_what_was_committed(data_dir: Path) -> None:
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


def test_a_busy_session_of_a_killed_postgres_does_not_block_the_next(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmaster, "_ORPHAN_LIMIT_S", 0.2)
    first = acquire(data_dir, settings=FAST)
    looping = "DO 'BEGIN LOOP END LOOP; END'"
    busy: list[str | Path] = [first.bin_dir / "psql", "-X", "-d", first.owner_url, "-c", looping]
    with subprocess.Popen(busy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        sessions = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO%' AND state = 'active'"
        while not (pid := query(first.superuser_url, sessions, first.bin_dir)):
            pass
        orphan = int(pid)
        kill(first.pid)
        assert running(orphan)
        second = acquire(data_dir, settings=FAST)
        assert not running(orphan)
    second.release()
    first.release()


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_one_that_is_on_its_way_is_waited_for(data_dir: Path, state: str) -> None:
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


def test_one_that_takes_too_long_is_left_to_finish(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = data_dir / "postgres" / "postmaster.pid"
    with Holder(data_dir, FAST) as killed:
        pid = killed.heard("held")["pid"]
        killed.kill()
    pid_file.write_text(pid_file.read_text().replace("ready   ", "starting"))
    monkeypatch.setattr(postmaster, "START_LIMIT_S", 0.05)
    with pytest.raises(EmbeddedError, match="start Tokentape again later"):
        acquire(data_dir)
    pid_file.write_text(pid_file.read_text().replace("starting", "ready   "))
    held = acquire(data_dir)
    assert held.pid == pid
    held.release()


@pytest.mark.parametrize("owner", ["nobody", "this process", "PostgreSQL's user", "a zombie"])
def test_a_stale_pid_file_is_no_running_postgres(data_dir: Path, owner: str) -> None:
    account = acting_account()
    user = account.uid if account.separate else None
    with subprocess.Popen(["sleep", "600"], user=user) as other:
        pid = {"this process": os.getpid(), "PostgreSQL's user": other.pid}.get(owner)
        if owner in ("nobody", "a zombie"):
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
            if owner == "nobody":
                other.wait()
            pid = other.pid
        stale = f"{pid}\n{data_dir}/postgres\n1700000000\n5432\n/run/gone\n\n  123  456\nready   \n"
        (data_dir / "postgres" / "postmaster.pid").write_text(stale)
        held = acquire(data_dir, settings=FAST)
        assert held.pid != pid
        assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
        held.release()
        other.kill()


def test_an_empty_pid_file_is_no_running_postgres(data_dir: Path) -> None:
    (data_dir / "postgres" / "postmaster.pid").write_text("")
    acquire(data_dir, settings=FAST).release()


def test_a_stale_ready_is_gone_before_the_next_start(data_dir: Path) -> None:
    """In a container the next PostgreSQL often gets the very pid of the last; its file must not speak for it."""
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    stale = f"{ended.pid}\n{data_dir}/postgres\n1700000000\n5432\n/run/gone\n\n  123  456\nready   \n"
    (data_dir / "postgres" / "postmaster.pid").write_text(stale)
    clear_stale(data_dir / "postgres")
    assert read_pid_file(data_dir / "postgres") is None


def test_one_without_a_pid_file_is_found_all_the_same(data_dir: Path) -> None:
    held = acquire(data_dir, settings=FAST)
    pid = held.pid
    (data_dir / "postgres" / "postmaster.pid").unlink()
    assert held.pid == pid
    held.release()
    assert postgres_of(data_dir) == []


def test_a_server_killed_while_it_makes_the_database_is_no_trouble_for_the_next(ground: Path) -> None:
    with Holder(ground / "data", FAST) as killed:
        assert killed.heard("progress").startswith("making a new PostgreSQL 18 database")
        killed.kill()
    take_over(ground / "data")
    assert list((ground / "data").glob("*.new-*")) == []


def test_a_server_killed_while_it_starts_it_is_no_trouble_for_the_next(data_dir: Path) -> None:
    with Holder(data_dir, FAST) as killed:
        assert killed.heard("progress") == "starting PostgreSQL"
        killed.kill()
    take_over(data_dir)


def take_over(data_dir: Path) -> None:
    held = acquire(data_dir, settings=FAST)
    assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    assert postgres_of(data_dir) == [held.pid]
    held.release()
    assert postgres_of(data_dir) == []


def test_one_that_is_killed_right_after_it_was_found_is_started_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def kill_first(account: Account, bin_dir: Path, socket_dir: Path) -> None:
        if not killed:
            killed.extend(postgres_of(data_dir))
            kill(killed[0])
        ensure_roles(account, bin_dir, socket_dir)

    monkeypatch.setattr(handle, "ensure_roles", kill_first)
    held = acquire(data_dir, settings=FAST)
    assert killed != postgres_of(data_dir) == [held.pid]
    held.release()


def test_a_lost_socket_is_mended_unless_somebody_else_uses_it(data_dir: Path) -> None:
    with Holder(data_dir, FAST) as other:
        held = other.heard("held")
        Path(held["app_url"].partition("host=")[2].partition("&")[0], ".s.PGSQL.5432").unlink()
        with pytest.raises(EmbeddedError, match="is gone or hidden"):
            acquire(data_dir)
        other.kill()
    mended = acquire(data_dir, settings=FAST)
    assert mended.pid != held["pid"]
    mended.release()


def test_another_container_on_the_same_folder_is_refused(data_dir: Path) -> None:
    """It sees the locks but not the process, and would start a second PostgreSQL on the same files."""
    with Holder(data_dir, FAST) as other:
        held = other.heard("held")
        kill(held["pid"])
        (data_dir / "postgres.pidns").write_text("pid:[1]")
        with pytest.raises(EmbeddedError, match="in another container"):
            acquire(data_dir, settings=FAST)
        other.kill()
    acquire(data_dir, settings=FAST).release()
