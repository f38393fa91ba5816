"""The command before any server runs: help, settings and databases. Every error says the next step."""

import json
import random
import socket

import pytest

import migrations
from server.cli.main import COMMANDS
from server.config import OWN
from tests.cli.command_runner import tokentape
from tests.harness import sampling
from tests.harness.databases import Postgres, TestDatabase


async def test_help_shows_examples() -> None:
    """The first page has commands that can be copied; each subcommand says what it is for."""
    first = await tokentape("--help")
    fresh = random.Random(sampling.day()).choice(list(COMMANDS))
    assert first.status == 0
    assert "tokentape serve" in first.out
    assert "Last-Event-ID" in first.out
    for command in COMMANDS:
        # In an interpreter that has imported nothing yet: each command has all its own imports. One a day.
        shown = await tokentape(command, "--help", fresh=command == fresh)
        assert shown.status == 0
        assert f"tokentape {command}" in shown.out
        assert f"  {command} " in first.out
    for command in ("chat", "replay", "tail", "bench"):
        shown = await tokentape(command, "--help")
        assert "3 no server answers" in shown.out
        assert "TOKENTAPE_URL" in shown.out


async def test_no_arguments_and_unknown_arguments() -> None:
    """Without a word the help, with a wrong one how to find the right one; as JSON if that was asked for."""
    nothing = await tokentape()
    assert nothing.status == 2
    assert "Start here" in nothing.err
    wrong = await tokentape("chta")
    assert wrong.status == 2
    assert "No such command 'chta'" in wrong.err
    flag = await tokentape("bench", "--tokens", "0", "--json")
    assert flag.status == 2
    assert "--tokens" in json.loads(flag.err)["error"]["message"]


async def test_every_setting_is_a_described_flag() -> None:
    """All of `TOKENTAPE_…` is in `serve --help`, with its variable."""
    shown = await tokentape("serve", "--help")
    for name in OWN:
        assert f"--{name.replace('_', '-')}" in shown.out
        assert f"TOKENTAPE_{name.upper()}" in shown.out.replace("\n", "").replace(" ", "")
    for variable in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"):
        assert variable in shown.out


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"TOKENTAPE_BINDD": "x"}, ["TOKENTAPE_BINDD", "did you mean TOKENTAPE_BIND?"]),
        ({"TOKENTAPE_BIND": "8000"}, ["TOKENTAPE_BIND = '8000'", "127.0.0.1:8000"]),
        ({"TOKENTAPE_STOP_TIMEOUT": "soon"}, ["TOKENTAPE_STOP_TIMEOUT = 'soon'", "number"]),
        ({"TOKENTAPE_MAX_RUNS": "0"}, ["TOKENTAPE_MAX_RUNS = '0'", "greater than or equal to 1"]),
        ({"TOKENTAPE_DATABASE_URL": "mysql://u:secret@h/d"}, ["TOKENTAPE_DATABASE_URL", "postgresql://"]),
        ({"TOKENTAPE_DATABASE_OWNER_URL": "postgresql://h/d"}, ["set both, or neither"]),
    ],
)
async def test_invalid_setting_is_named(env: dict[str, str], said: list[str]) -> None:
    """Exit status 2, with the value and what would be valid, without a secret."""
    done = await tokentape("serve", env=env)
    assert done.status == 2
    for words in said:
        assert words in done.err
    assert "secret" not in done.err
    assert "Traceback" not in done.err


async def test_invalid_flag_is_named_as_a_flag() -> None:
    """Not by its variable."""
    done = await tokentape("serve", "--heartbeat", "-1")
    assert done.status == 2
    assert "--heartbeat = '-1'" in done.err


async def test_a_taken_port_is_reported(database: TestDatabase) -> None:
    """And the setting that mends it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await tokentape("serve", "--bind", bind, "--database-url", database.app_url)
    assert done.status == 1
    assert f"cannot listen on {bind}" in done.err
    assert "TOKENTAPE_BIND" in done.err
    assert "Traceback" not in done.err


async def test_an_unreachable_database_is_reported() -> None:
    """Without a traceback, and without the password."""
    url = "postgresql://somebody:hunter2@127.0.0.1:1/nothing"
    done = await tokentape("serve", "--bind", "127.0.0.1:0", "--database-url", url)
    assert done.status == 1
    assert "database" in done.err
    assert "hunter2" not in done.err + done.out
    assert "Traceback" not in done.err


async def test_empty_database_must_be_migrated_before_serve(postgres: Postgres) -> None:
    """`migrate` may run twice, and grants the app's role its rights."""
    postgres.sql("CREATE DATABASE empty_one OWNER tokentape_owner")
    try:
        url = postgres.embedded.app_url.replace("/tokentape?", "/empty_one?")
        owner = postgres.embedded.owner_url.replace("/tokentape?", "/empty_one?")
        env = {"TOKENTAPE_DATABASE_URL": url, "TOKENTAPE_DATABASE_OWNER_URL": owner}
        refused = await tokentape("serve", "--bind", "127.0.0.1:0", env=env)
        assert refused.status == 1
        assert "tokentape migrate" in refused.err
        for _ in range(2):
            migrated = await tokentape("migrate", env=env)
            assert migrated.status == 0, migrated.err
            assert migrations.HEAD in migrated.out
        again = await tokentape("migrate", "--json", env=env)
        assert json.loads(again.out) == {"from": migrations.HEAD, "to": migrations.HEAD}
        granted = postgres.sql(
            "SELECT has_table_privilege('tokentape_app', 'eventstore.events', 'INSERT'),"
            " has_table_privilege('tokentape_app', 'eventstore.events', 'DELETE')",
            "empty_one",
        )
        assert granted == "t|f"
    finally:
        postgres.sql("DROP DATABASE empty_one WITH (FORCE)")
