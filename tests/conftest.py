"""Fixtures for all rooms: the session's PostgreSQL and a database a test; and signals as children need them."""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.databases import Postgres, TestDatabase


def _give_children_their_sigint() -> None:
    """Lets what the tests start hear SIGINT, also where a script runs them in the background.

    A shell without job control starts `make test &` with SIGINT ignored. What is ignored stays ignored in every
    child (POSIX, exec), and a test that sends SIGINT to one waits for ever. What is *caught* becomes the default
    again in a child; so each process that runs tests catches it, and does nothing then.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)


_give_children_their_sigint()


@contextmanager
def postgres_folder(private: Path, name: str) -> Iterator[Path]:
    """A path for a database, not made yet; under `private`, unless PostgreSQL could not enter there."""
    if os.geteuid() != 0:
        yield private / name
        return
    # As root PostgreSQL runs as another user, who may not enter pytest's private folders.
    folder = Path("/var/tmp") / f"tokentape {name} {secrets.token_hex(6)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One real PostgreSQL for the whole session."""
    with postgres_folder(tmp_path_factory.mktemp("postgres"), "session") as folder:
        postgres = Postgres(folder)
        yield postgres
        postgres.close()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[TestDatabase]:
    """A migrated, empty database of this test's own."""
    with postgres.clone() as database:
        yield database
