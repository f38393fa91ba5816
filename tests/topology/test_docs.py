"""docs/deploy.md: what it tells to type, typed; what it says of numbers, counted."""

import re
import subprocess
from pathlib import Path

import trio

from tests.clients.api import Api
from tests.harness.servers import ROOT

from . import composed, passwords
from .stack import Stack

TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
A_DOZEN = 12


def test_the_first_command_makes_what_compose_asks_for(tmp_path: Path) -> None:
    """Three passwords that differ, fit into a URL, and nobody else can read."""
    first = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)[0].splitlines()[0]
    subprocess.run(["sh", "-euc", first], cwd=tmp_path, check=True, timeout=20)
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o077 == 0
    variables = dict(line.split("=", 1) for line in made.read_text(encoding="ascii").splitlines())
    assert set(variables) == set(passwords.NAMES)
    assert len(set(variables.values())) == 3
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in variables.values())
    assert composed.read(variables)["services"]


def test_what_env_may_hold_is_what_compose_reads() -> None:
    """Each variable of compose.yaml is in the page."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"\$\{(\w+)", text)) - set(passwords.NAMES)):
        assert name in TEXT or name.startswith("ANTHROPIC_"), name


async def test_a_server_holds_as_many_connections_as_it_says(up: Stack) -> None:
    """Counted after both have served runs."""
    async with Api.open(up.nginx.port) as api:
        for _ in range(4):
            await api.finished(await api.generate(tokens=20))
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tokentape %'"
    done = up.postgres.psql(up.postgres.superuser_url, count)
    assert 0 < int(done.stdout) <= A_DOZEN * len(up.servers)
    assert "holds a dozen to the database at most" in TEXT


async def test_a_backup_can_be_restored(up: Stack) -> None:
    """With the page's own words: the events are the same, and the role that serves may still change none."""
    dump, restore = (
        line.split("db ", 1)[1].split(" > ")[0].split(" < ")[0].split()
        for line in TEXT.splitlines()
        if line.startswith("    docker compose exec -T db pg_")
    )
    async with Api.open(up.nginx.port) as api:
        await api.finished(await api.generate(tokens=50))
        saved = await trio.to_thread.run_sync(up.postgres.run, dump, b"")
        before = _digest(up)
        await api.conversation(title="made after the backup")
        assert _digest(up) != before
        for server in up.servers:
            await server.stop()
        await trio.to_thread.run_sync(up.postgres.run, restore, saved)
        assert _digest(up) == before
        await up.mend()
        await api.finished(await api.generate(tokens=5))
    refused = up.postgres.psql(up.app_url, "DELETE FROM eventstore.events")
    assert "42501:" in refused.stderr


def _digest(up: Stack) -> str:
    rows = "SELECT md5(string_agg(e::text, '|' ORDER BY stream, position)) FROM eventstore.events e"
    done = up.postgres.psql(up.app_url, rows)
    assert done.returncode == 0, done.stderr
    return done.stdout
