"""deploy/postgres/roles.sql and `tokentape migrate`: who may log in, and what the role that serves may not do."""

from urllib.parse import urlsplit

import pytest

from tests.clients.api import Api
from tests.harness.servers import ROOT

from .postgres import PasswordPostgres
from .stack import Stack

SCRIPT = ROOT / "deploy" / "postgres" / "roles.sql"
INSUFFICIENT_PRIVILEGE = "42501"
MAY_NOT = [
    "UPDATE eventstore.events SET data = '{}'",
    "DELETE FROM eventstore.events",
    "TRUNCATE eventstore.events",
    "DROP TABLE eventstore.events",
    "CREATE TABLE eventstore.mine (n int)",
    "CREATE TABLE public.mine (n int)",
    "CREATE TEMPORARY TABLE mine (n int)",
    "SET ROLE tokentape_owner",
    "SET ROLE postgres",
    "CREATE ROLE other",
    "CREATE DATABASE other",
]


@pytest.mark.parametrize("statement", MAY_NOT)
async def test_serving_role_may_not(up: Stack, statement: str) -> None:
    """With the very address the servers are given, and events to lose."""
    async with Api.open(up.nginx.port) as api:
        conversation = await api.conversation()
        done = up.postgres.psql(up.app_url, statement)
        assert done.returncode != 0
        assert f"{INSUFFICIENT_PRIVILEGE}:" in done.stderr
        assert len(await api.log(conversation)) == 1


async def test_serving_role_may_read_and_append(up: Stack) -> None:
    """Or the test above would pass with a login that can do nothing at all."""
    async with Api.open(up.nginx.port) as api:
        await api.conversation()
    done = up.postgres.psql(up.app_url, "SELECT count(*) > 0 FROM eventstore.events")
    assert (done.returncode, done.stdout.strip()) == (0, "t")


async def test_passwords_are_required_and_never_logged(up: Stack) -> None:
    """A wrong one is refused; the database's log, which keeps every statement here, holds none of them."""
    wrong = up.app_url.replace(up.names["DB_APP_PASSWORD"], "wrong")
    done = up.postgres.psql(wrong, "SELECT 1")
    assert "password authentication failed" in done.stderr
    logged = up.postgres.logged()
    assert "CREATE DATABASE tokentape" not in logged, "the script's statements were not to be kept"
    assert "SELECT 1" in logged, "this log keeps no statements, so it proves nothing"
    for name, password in up.names.items():
        if name.endswith("_PASSWORD"):
            assert password not in logged, name


async def test_second_run_of_role_script_changes_only_a_password(up: Stack) -> None:
    """By an administrator who is no superuser, as on a rented database."""
    make_admin = (
        "CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD 'admin';"
        "GRANT tokentape_owner, tokentape_app TO admin WITH ADMIN TRUE"
    )
    assert up.postgres.psql(up.postgres.superuser_url, make_admin).returncode == 0
    admin = _as(up.postgres, "admin", "admin", "postgres")
    env = {"DB_OWNER_PASSWORD": up.names["DB_OWNER_PASSWORD"], "DB_APP_PASSWORD": "another, longer one's"}
    try:
        done = up.postgres.psql(admin, file=SCRIPT, env=env)
        assert done.returncode == 0, done.stderr
        assert up.postgres.psql(up.app_url, "SELECT 1").returncode != 0
        quoted = _as(up.postgres, "tokentape_app", "another%2C%20longer%20one%27s", "tokentape")
        assert up.postgres.psql(quoted, "SELECT 1").returncode == 0
        refused = up.postgres.psql(quoted, "DELETE FROM eventstore.events")
        assert f"{INSUFFICIENT_PRIVILEGE}:" in refused.stderr
    finally:
        back = up.postgres.psql(up.postgres.superuser_url, file=SCRIPT, env=up.names)
        assert back.returncode == 0, back.stderr
        dropped = up.postgres.psql(up.postgres.superuser_url, "DROP OWNED BY admin CASCADE; DROP ROLE admin")
        assert dropped.returncode == 0, dropped.stderr
    assert up.postgres.psql(up.app_url, "SELECT 1").returncode == 0


@pytest.mark.parametrize("passwords", [{}, {"DB_OWNER_PASSWORD": "long enough, this", "DB_APP_PASSWORD": "short"}])
async def test_role_script_refuses_missing_passwords(up: Stack, passwords: dict[str, str]) -> None:
    """And says what to set; nothing is changed."""
    done = up.postgres.psql(up.postgres.superuser_url, file=SCRIPT, env=passwords)
    assert done.returncode == 3
    assert "DB_OWNER_PASSWORD and DB_APP_PASSWORD" in done.stderr
    assert "short" not in done.stderr.replace("too_short", "")
    assert up.postgres.psql(up.app_url, "SELECT 1").returncode == 0


def _as(postgres: PasswordPostgres, user: str, password: str, database: str) -> str:
    place = urlsplit(postgres.superuser_url)
    return place._replace(netloc=f"{user}:{password}@127.0.0.1:{postgres.port}", path=f"/{database}").geturl()
