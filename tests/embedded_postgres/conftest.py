"""Fixtures: folders that PostgreSQL's user can reach, a database to start from, and processes that use it.

Each fixture ends the PostgreSQL processes that were started below its folder. An initdb takes a second, so most
tests use the same database one after the other, or a copy of a new one. It runs without fsync, because no test
cuts the power.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from server.embedded_postgres import acquire
from server.embedded_postgres.data_dir import remove_socket_dir
from server.embedded_postgres.os_user import postgres_os_user

from .process_table import kill, postgres_of

REPOSITORY = Path(__file__).resolve().parents[2]
FAST = {"fsync": "off"}


def query(url: str, sql: str, bin_dir: Path) -> str:
    """The plain output of psql. Fails the test with psql's message when a statement fails."""
    done = subprocess.run(
        [bin_dir / "psql", "-X", "-w", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def socket_dir_of(url: str) -> Path:
    return Path(url.partition("host=")[2].partition("&")[0])


class ServerProcess:
    """A process that uses the embedded PostgreSQL (server_process.py). At the end of the context it is killed."""

    def __init__(
        self,
        data_dir: Path,
        settings: Mapping[str, str] = FAST,
        *,
        python: str = sys.executable,
        path: Sequence[Path] = (REPOSITORY,),
        user: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        script = path[-1] / "tests" / "embedded_postgres" / "server_process.py"
        self.process = subprocess.Popen(
            [*prefix, python, "-W", "error", script, data_dir, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, path))},
            cwd="/",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()

    def wait_for(self, key: str) -> Any:
        """Reads the process's output up to `key`, and returns the value."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            report = json.loads(line)
            if key in report:
                return report[key]
            assert "refused" not in report, report
        raise AssertionError(f"the process ended without {key!r}")

    def pid_of_postgres(self) -> int:
        return int(self.wait_for("held")["pid"])

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("release\n")
        self.process.stdin.flush()
        assert self.wait_for("released") is True

    def kill(self) -> None:
        with self.process:
            self.process.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that any user can enter. (pytest's tmp_path is private.)"""
    with reachable_folder() as place:
        yield place


@pytest.fixture(scope="session")
def shared_folder() -> Iterator[Path]:
    with reachable_folder() as place:
        yield place


@pytest.fixture(scope="session")
def new_data_dir(shared_folder: Path) -> Path:
    """A data folder with a stopped, new database. Tests get copies."""
    acquire(shared_folder / "new", settings=FAST).release()
    return shared_folder / "new"


def copy_data_dir(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)


@pytest.fixture
def data_dir(shared_folder: Path, new_data_dir: Path) -> Iterator[Path]:
    """A data folder with a stopped database. The next test gets the same one if this test stops PostgreSQL."""
    data = shared_folder / "data"
    if not data.exists():
        copy_data_dir(new_data_dir, data)
    yield data
    if end_postgres_of(shared_folder) or (data / "postgres" / "postmaster.pid").exists():
        shutil.rmtree(data)


@pytest.fixture
def copied(new_data_dir: Path, folder: Path) -> Path:
    """A data folder with a stopped, new database, which a test may damage."""
    copy_data_dir(new_data_dir, folder / "data")
    return folder / "data"


@contextmanager
def reachable_folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="embedded-")).resolve()
    place.chmod(0o755)
    try:
        yield place
    finally:
        end_postgres_of(place)
        shutil.rmtree(place)


def end_postgres_of(place: Path) -> bool:
    """Kills each PostgreSQL that runs below `place` and removes its socket. True if there was one."""
    ended = postgres_of(place)
    for pid in ended:
        kill(pid)
    for lock in place.rglob("users.lock"):
        remove_socket_dir(lock.parent, postgres_os_user())
    return bool(ended)
