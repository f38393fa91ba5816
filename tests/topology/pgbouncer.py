"""Debian's PgBouncer in front of a test's PostgreSQL, in the mode that a test asks for."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from server.embedded_postgres.os_user import postgres_os_user
from tests.conftest import postgres_folder
from tests.harness.servers import free_port

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
START_SECONDS = 10.0
CONFIG = """
[databases]
* = host={socket} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = {size}
server_reset_query = DISCARD ALL
"""

needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="NOT TESTED: PgBouncer is missing; tools/test-needs installs it (Debian's pgbouncer)"
)


@contextmanager
def pgbouncer(private: Path, url: str, mode: str, *, size: int = 40, extra: str = "") -> Iterator[str]:
    """The same database through PgBouncer in `mode`, as a URL; `size` connections for each user at most.

    `url` goes through a Unix socket and needs no password. `extra`: more lines of its configuration.
    """
    assert PROGRAM is not None
    place = urlsplit(url)
    there = parse_qs(place.query)
    listen = free_port()
    account = postgres_os_user()
    with postgres_folder(private, "pgbouncer") as folder:
        folder.mkdir()
        users = folder / "users"
        users.write_text('"tokentape_app" ""\n"tokentape_owner" ""\n', encoding="ascii")
        config = folder / "config.ini"
        text = CONFIG.format(
            socket=there["host"][0], port=there["port"][0], listen=listen, users=users, mode=mode, size=size
        )
        config.write_text(text + extra, encoding="utf-8")
        if account.separate:
            for path in (folder, users, config):
                os.chown(path, account.uid, account.gid)
        with (folder / "log").open("ab") as log:
            process = account.popen([PROGRAM, config], log=log.fileno())
        try:
            _wait(process, listen, folder / "log")
            yield f"postgresql://{place.username}@127.0.0.1:{listen}{place.path}"
        finally:
            process.send_signal(signal.SIGTERM)  # at once, whoever is connected
            process.wait(10)


def _wait(process: "subprocess.Popen[str]", port: int, log: Path) -> None:
    import socket

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.01)
        else:
            return
