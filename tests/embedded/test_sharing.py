"""Several servers on one data folder: the first one in starts PostgreSQL, the last one out stops it."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from server.embedded import acquire, restart, stop

from .conftest import FAST, Holder, query
from .watching import children, open_files, postgres_of, running


def test_the_last_one_out_stops_it(data_dir: Path) -> None:
    first = acquire(data_dir, settings=FAST)
    second = acquire(data_dir)
    folder = Path(first.app_url.partition("host=")[2].partition("&")[0])
    assert first.pid == second.pid
    assert first.app_url == second.app_url
    first.release()
    first.release()
    assert query(second.app_url, "SELECT 1", second.bin_dir) == "1"
    pid = second.pid
    second.release()
    assert not running(pid)
    assert not folder.exists()


def test_a_killed_server_leaves_it_running_for_the_next(data_dir: Path) -> None:
    with Holder(data_dir, FAST) as killed:
        pid = killed.heard("held")["pid"]
        killed.kill()
    held = acquire(data_dir)
    assert held.pid == pid
    with Holder(data_dir, FAST) as other:
        assert other.heard("held")["pid"] == pid
        held.release()
        assert running(pid)
        other.release()
    assert not running(pid)


def test_two_servers_that_start_at_once_share_one(ground: Path) -> None:
    with Holder(ground / "data", FAST) as one, Holder(ground / "data", FAST) as other:
        pids = {one.heard("held")["pid"], other.heard("held")["pid"]}
        assert postgres_of(ground) == list(pids)
        one.release()
        assert answers(ground / "data")
        other.release()
    assert postgres_of(ground) == []


def answers(data_dir: Path) -> bool:
    held = acquire(data_dir)
    try:
        return query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    finally:
        held.release()


def test_coming_and_going_at_once_never_meets_a_stopped_one(data_dir: Path) -> None:
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(6):
                assert answers(data_dir)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert postgres_of(data_dir) == []


def test_it_inherits_nothing_and_lives_in_a_session_of_its_own(data_dir: Path) -> None:
    with Holder(data_dir, FAST) as holder:
        held = holder.heard("held")
        theirs = open_files(holder.process.pid)
        session, group = os.getsid(held["pid"]), os.getpgid(held["pid"])
        assert session != os.getsid(holder.process.pid)
        assert group != os.getpgid(holder.process.pid)
        for pid in [held["pid"], *children(held["pid"])]:
            assert open_files(pid) & theirs <= {"/dev/null"}
        holder.kill()
        with socket.create_server(
            ("127.0.0.1", held["port"])
        ):  # in use still, had PostgreSQL the listening socket
            assert running(held["pid"])
    acquire(data_dir).release()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_keeps_the_address(data_dir: Path, mode: str) -> None:
    held = acquire(data_dir, settings=FAST)
    try:
        before = held.pid
        restart(held, "immediate" if mode == "immediate" else "fast")
        assert held.pid != before
        assert query(held.app_url, "SHOW fsync", held.bin_dir) == "off"
        stop(held)
        assert postgres_of(data_dir) == []
        restart(held)
        assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    finally:
        held.release()
    assert postgres_of(data_dir) == []


def test_a_ctrl_c_in_the_terminal_does_not_reach_it(data_dir: Path) -> None:
    with Holder(data_dir, FAST) as holder:
        pid = holder.heard("held")["pid"]
        holder.process.send_signal(signal.SIGINT)
        holder.process.wait()
        held = acquire(data_dir)
        assert held.pid == pid
        held.release()
