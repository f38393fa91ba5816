"""`tokentape config`: each setting with its source, what is wrong, and never a secret."""

import json
from typing import Any

import pytest

from server.cli.config import without_password
from server.config import Settings
from tests.cli.command_runner import tokentape

SECRETS = {
    "TOKENTAPE_DATABASE_URL": "postgresql://me:hunter2@db/tape?sslpassword=hunter2&sslmode=require",
    "OPENAI_API_KEY": "sk-hunter2",
    "OPENAI_BASE_URL": "https://me:hunter2@proxy/v1",
    "ANTHROPIC_API_KEY": "hunter2",
    "TOKENTAPE_KEY": "hunter2",
}


async def _config(*words: str, env: dict[str, str] | None = None, status: int = 0) -> dict[str, Any]:
    done = await tokentape("config", "--json", *words, env=env)
    assert done.status == status, done
    assert "hunter2" not in done.out + done.err
    found: dict[str, Any] = json.loads(done.out)
    return {**found, **{row["name"]: row for row in found["settings"]}}


async def test_source_of_each_setting() -> None:
    """A flag overrides a variable, and a variable the default."""
    env = {"TOKENTAPE_BIND": "127.0.0.1:2", "TOKENTAPE_HEARTBEAT": "5", "TOKENTAPE_URL": "http://x"}
    found = await _config("--bind", "127.0.0.1:1", env=env)
    assert found["complaints"] == []
    assert {row["name"] for row in found["settings"]} == {*Settings.model_fields, "url", "cacert", "key"}
    assert found["bind"] == {
        "name": "bind",
        "variable": "TOKENTAPE_BIND",
        "value": "127.0.0.1:1",
        "from": "--bind",
    }
    assert (found["heartbeat"]["value"], found["heartbeat"]["from"]) == (5.0, "TOKENTAPE_HEARTBEAT")
    assert (found["max_runs"]["value"], found["max_runs"]["from"]) == (500, "default")
    assert (found["url"]["value"], found["url"]["from"]) == ("http://x", "TOKENTAPE_URL")
    assert found["openai_base_url"]["variable"] == "OPENAI_BASE_URL"


async def test_secrets_are_hidden() -> None:
    """In the table and in JSON, for valid and invalid values."""
    found = await _config(env=SECRETS)
    assert found["database_url"]["value"] == "postgresql://me:***@db/tape?sslpassword=***&sslmode=require"
    assert found["openai_base_url"]["value"] == "https://me:***@proxy/v1"
    assert (found["openai_api_key"]["value"], found["openai_api_key"]["from"]) == ("set", "OPENAI_API_KEY")
    table = await tokentape("config", env=SECRETS)
    assert table.status == 0
    assert "hunter2" not in table.out
    assert "me:***@" in table.out
    bad = {**SECRETS, "TOKENTAPE_DATABASE_URL": "mysql://me:hunter2@db", "OPENAI_BASE_URL": "hunter2"}
    refused = await _config(env=bad, status=2)
    assert refused["database_url"]["value"] == "mysql://me:***@db"
    assert refused["openai_base_url"]["value"] == "(not shown)"


async def test_variables_of_client_commands_are_known() -> None:
    """They are no server settings but no typos either."""
    await _config(env={"TOKENTAPE_URL": "https://x", "TOKENTAPE_CACERT": "/ca.pem"})
    found = await _config(env={"TOKENTAPE_CACERTS": "/ca.pem"}, status=2)
    assert found["complaints"] == ["TOKENTAPE_CACERTS is not a setting: did you mean TOKENTAPE_CACERT?"]


async def test_all_errors_are_reported_with_the_table() -> None:
    """Exit status 2."""
    env = {"TOKENTAPE_BINDD": "x", "TOKENTAPE_MAX_RUNS": "none"}
    done = await tokentape("config", "--heartbeat", "soon", env=env)
    assert done.status == 2
    for words in ("did you mean TOKENTAPE_BIND?", "TOKENTAPE_MAX_RUNS = 'none'", "--heartbeat = 'soon'"):
        assert words in done.err
    assert "TOKENTAPE_STOP_TIMEOUT" in done.out
    found = await _config("--heartbeat", "soon", env=env, status=2)
    assert len(found["complaints"]) == 3
    assert found["heartbeat"]["value"] == "soon"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://me@h:5/d", "postgresql://me@h:5/d"),
        ("postgresql://me:p%40ss@h/d", "postgresql://me:***@h/d"),
        ("postgresql://me:a@b@h/d", "postgresql://me:***@h/d"),
        ("postgresql:///d?host=/run&password=x", "postgresql:///d?host=/run&password=***"),
        ("postgresql:///d?PASSWORD=x&a=b", "postgresql:///d?PASSWORD=***&a=b"),
        ("hunter2", "(not shown)"),
        ("http://[x", "(not shown)"),
    ],
)
def test_password_is_removed_from_a_url(url: str, shown: str) -> None:
    assert without_password(url) == shown
