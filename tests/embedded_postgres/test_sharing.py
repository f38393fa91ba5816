"""Several servers on one data folder: the first one starts PostgreSQL, the last one stops it."""

import os
import signal
import socket
import threading
from pathlib import Path
from typing import Literal

import pytest

from server.embedded_postgres import acquire, restart, stop

from .conftest import FAST, ServerProcess, query, socket_dir_of
from .process_table import children, open_files, postgres_of, running


def test_last_server_stops_postgres(data_dir: Path) -> None:
    first = acquire(data_dir, settings=FAST)
    second = acquire(data_dir)
    assert (first.pid, first.app_url) == (second.pid, second.app_url)
    first.release()
    first.release()
    assert query(second.app_url, "SELECT 1", second.bin_dir) == "1"
    pid = second.pid
    second.release()
    assert not running(pid)
    assert not socket_dir_of(first.app_url).exists()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_ended_server_leaves_postgres_running(data_dir: Path, sent: signal.Signals) -> None:
    with ServerProcess(data_dir) as ended:
        pid = ended.pid_of_postgres()
        ended.process.send_signal(sent)
        ended.process.wait()
    held = acquire(data_dir)
    assert held.pid == pid
    with ServerProcess(data_dir) as other:
        assert other.pid_of_postgres() == pid
        held.release()
        assert running(pid)
        other.release()
    assert not running(pid)


def test_concurrent_servers_share_one_postgres(folder: Path) -> None:
    with ServerProcess(folder / "data") as one, ServerProcess(folder / "data") as other:
        pids = {one.pid_of_postgres(), other.pid_of_postgres()}
        assert postgres_of(folder) == list(pids)
        one.release()
        assert answers(folder / "data")
        other.release()
    assert postgres_of(folder) == []


def answers(data_dir: Path) -> bool:
    held = acquire(data_dir)
    try:
        return query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    finally:
        held.release()


def test_servers_never_get_a_stopped_postgres(data_dir: Path) -> None:
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


def test_postgres_inherits_no_descriptors_and_has_its_own_session(data_dir: Path) -> None:
    with ServerProcess(data_dir) as server:
        held = server.wait_for("held")
        pid = int(held["pid"])
        of_the_server = open_files(server.process.pid)
        assert of_the_server
        assert open_files(pid)
        assert os.getsid(pid) != os.getsid(server.process.pid)
        assert os.getpgid(pid) != os.getpgid(server.process.pid)
        for each in [pid, *children(pid)]:
            assert open_files(each) & of_the_server <= {"/dev/null"}
        server.kill()
        # Fails with "address in use" if PostgreSQL has the listening socket.
        with socket.create_server(("127.0.0.1", held["port"])):
            assert running(pid)
    acquire(data_dir).release()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_the_url(data_dir: Path, mode: Literal["fast", "immediate"]) -> None:
    held = acquire(data_dir, settings=FAST)
    try:
        before = held.pid
        restart(held, mode)
        assert held.pid != before
        assert query(held.app_url, "SHOW fsync", held.bin_dir) == "off"
        stop(held)
        assert postgres_of(data_dir) == []
        restart(held)
        assert query(held.app_url, "SELECT 1", held.bin_dir) == "1"
    finally:
        held.release()
    assert postgres_of(data_dir) == []
