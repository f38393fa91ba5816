"""One stack for all tests here (bringing it up takes seconds); before each test every server of it runs."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import postgres_folder
from tests.harness.databases import Postgres

from .nginx import NGINX, NO_NGINX
from .stack import Stack, stack


@pytest.fixture(scope="session")
def shared_stack(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """It; tests ask for `up`."""
    if NGINX is None:
        pytest.skip(NO_NGINX)
    private: Path = tmp_path_factory.mktemp("topology")
    with postgres_folder(private, "topology") as folder, stack(folder, postgres.embedded.bin_dir) as made:
        yield made


@pytest.fixture
async def up(shared_stack: Stack) -> AsyncIterator[Stack]:
    """The stack, whole; after the test nothing unforeseen may stand in a server's log."""
    await shared_stack.mend()
    before = [os.fstat(server.log.fileno()).st_size for server in shared_stack.servers]
    yield shared_stack
    for server, start in zip(shared_stack.servers, before, strict=True):
        logged = os.pread(server.log.fileno(), 50_000_000, start).decode(errors="replace")
        assert "Traceback" not in logged, logged[:4000]
        server.check_log()
    shared_stack.nginx.check_logs()
