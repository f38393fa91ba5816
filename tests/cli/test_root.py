"""A server that runs as root with a port on the network says so: PostgreSQL steps down, the server does not."""

import os

import pytest

from server.cli.serve import is_loopback
from tests.cli.commands import tokentape
from tests.harness.databases import TestDatabase
from tests.harness.servers import free_port, running

WARNING = "running as root with a port on the network"


@pytest.mark.parametrize(
    ("bind", "alone"),
    [
        *((bind, True) for bind in ("127.0.0.1:8000", "127.3.2.1:0", "[::1]:8000", "localhost:8000")),
        *((bind, False) for bind in ("0.0.0.0:8000", "[::]:8000", "10.0.0.7:8000", "tape.example:8000")),
    ],
)
def test_what_only_this_machine_reaches(bind: str, alone: bool) -> None:
    assert is_loopback(bind) is alone


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
async def test_it_is_said_at_start(bind: str, database: TestDatabase) -> None:
    """To root alone, and only where strangers could reach it."""
    port = free_port()
    async with running(database.app_url, {"TOKENTAPE_BIND": f"{bind}:{port}"}, port=port) as server:
        assert (WARNING in server.logged()) == (os.geteuid() == 0 and bind == "0.0.0.0")


async def test_help_and_migrate_do_not_mind() -> None:
    done = await tokentape("serve", "--help")
    assert WARNING not in done.err
