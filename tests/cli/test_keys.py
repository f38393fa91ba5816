"""`tokentape keys`: create, list and revoke API keys, on a given database and on the embedded one."""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.auth.credentials import hash_of
from server.auth.postgres_auth_store import PostgresAuthStore
from server.auth.principal import ALL_SCOPES
from tests.cli.command_runner import CommandResult, tokentape
from tests.conftest import postgres_folder
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.servers import running

KEY = re.compile(r"tt_key_[0-9A-Z]{26}_[A-Za-z0-9_-]{43}")


async def keys(database: TestDatabase, *words: str, owner: bool = True) -> CommandResult:
    urls = ["--database-url", database.app_url]
    return await tokentape("keys", *words, *urls, *(["--database-owner-url", database.owner_url] if owner else []))


async def test_created_key_is_shown_once_and_works(database: TestDatabase) -> None:
    words = ("--tenant", "acme", "--scopes", "read,decide", "--expires", "90d", "--name", "the CI")
    made = await keys(database, "create", *words)
    assert made.status == 0
    assert KEY.fullmatch(made.out.strip())
    key = made.out.strip()
    assert key not in made.err  # standard output alone: `KEY=$(tokentape keys create …)`
    assert "Authorization: Bearer" in made.err
    assert "not shown again" in made.err
    store = PostgresAuthStore(database.app_url)
    async with store.open():
        found = await store.find(hash_of(key))
    assert found is not None
    assert (found.tenant, found.scopes) == ("acme", frozenset({"read", "decide"}))
    assert found.seconds_left is not None
    assert 89 * 86_400 < found.seconds_left <= 90 * 86_400
    listed = await keys(database, "list")
    assert listed.status == 0
    for text in (found.id, "the CI", "tenant acme", "read,decide", "expires 20", "last used never"):
        assert text in listed.out
    assert key[-43:] not in listed.out + listed.err


async def test_json_output_of_create_list_and_revoke(database: TestDatabase) -> None:
    made = json.loads((await keys(database, "create", "--scopes", ",".join(ALL_SCOPES), "--json")).out)
    assert KEY.fullmatch(made.pop("key"))
    assert made["tenant"] == "default"
    assert set(made["scopes"]) == ALL_SCOPES
    assert (made["expires"], made["revoked"], made["last_used"]) == (None, None, None)
    await keys(database, "create", "--scopes", "read", "--tenant", "other", "--json")
    lines = (await keys(database, "list", "--json")).out.splitlines()
    assert json.loads(lines[0]) == made
    assert [json.loads(line)["tenant"] for line in lines] == ["default", "other"]
    (line,) = (await keys(database, "list", "--json", "--tenant", "other")).out.splitlines()
    assert json.loads(line)["scopes"] == ["read"]
    revoked = json.loads((await keys(database, "revoke", made["id"], "--json")).out)
    assert revoked["revoked"] is not None
    unknown = await keys(database, "revoke", "key_unheard", "--json")
    assert unknown.status == 1
    assert json.loads(unknown.err)["error"]["code"] == "not_found"


async def test_revoked_key_stays_revoked(database: TestDatabase) -> None:
    made = json.loads((await keys(database, "create", "--scopes", "read", "--json")).out)
    for _ in range(2):
        done = await keys(database, "revoke", made["id"])
        assert (done.status, done.out) == (0, f"tokentape: {made['id']} is revoked\n")
    assert "revoked 20" in (await keys(database, "list")).out
    itself = await keys(database, "revoke", made["key"])
    assert itself.status == 2
    assert "give its id" in itself.err
    assert made["key"] not in itself.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create",), "--scopes"),
        (("create", "--scopes", "reed"), "'reed' is not a scope; the scopes are read, write, decide, audit"),
        (("create", "--scopes", ","), "at least one scope"),
        *((("create", "--scopes", "read", "--expires", text), "90d or 12h") for text in ("90", "d", "0d", "-1d")),
        *((("create", "--scopes", "read", "--expires", text), "ten years") for text in ("1y", "999999999w", "")),
        (("create", "--scopes", "read", "--tenant", "A"), "1 to 63 characters of a-z"),
        (("create", "--scopes", "read", "--name", "a\nb"), "printable"),
        (("create", "--scopes", "read", "--name", "a" * 201), "200"),
        (("list", "--tenant", "a/b"), "1 to 63 characters"),
        (("revoke",), "ID"),
    ],
)
async def test_wrong_usage_is_explained(words: tuple[str, ...], said: str) -> None:
    done = await tokentape("keys", *words)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err


async def test_serving_role_may_not_create_keys(database: TestDatabase) -> None:
    """The error names the setting of the owner's URL."""
    done = await keys(database, "create", "--scopes", "read", owner=False)
    assert done.status == 1
    assert "TOKENTAPE_DATABASE_OWNER_URL" in done.err
    assert done.out == ""
    assert "Traceback" not in done.err


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[TestDatabase]:
    """A database without even the schema."""
    name = f"empty_{secrets.token_hex(6)}"
    postgres.sql(f"CREATE DATABASE {name} OWNER tokentape_owner")
    try:
        yield TestDatabase(
            name,
            postgres.embedded.app_url.replace("/tokentape?", f"/{name}?"),
            postgres.embedded.owner_url.replace("/tokentape?", f"/{name}?"),
        )
    finally:
        postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def test_given_database_must_be_migrated(empty_database: TestDatabase) -> None:
    done = await keys(empty_database, "list")
    assert done.status == 1
    assert "The database is empty" in done.err
    assert "tokentape migrate" in done.err


async def test_keys_of_the_embedded_database_with_and_without_a_server(tmp_path: Path) -> None:
    with postgres_folder(tmp_path, "embedded") as folder:
        env = {"TOKENTAPE_DATA_DIR": str(folder)}
        first = await tokentape("keys", "create", "--scopes", "read", env=env)
        assert first.status == 0, first.err
        async with running(None, env) as server:
            second = await tokentape("keys", "create", "--scopes", "read", env=env)
            assert second.status == 0, second.err
            assert len((await tokentape("keys", "list", "--json", env=env)).out.splitlines()) == 2
            for made in (first, second):
                assert made.out.strip() not in server.logged()
            assert (folder / "postgres" / "postmaster.pid").exists()
        assert not (folder / "postgres" / "postmaster.pid").exists(), "a test leaves no database running"


async def test_help_explains_each_scope() -> None:
    done = await tokentape("keys", "create", "--help")
    assert done.status == 0
    for scope in ALL_SCOPES:
        assert f"\n    {scope} " in done.out


async def test_if_none_creates_only_the_first_key(database: TestDatabase) -> None:
    """A deployment may run it at every start. With anonymous access it creates none."""
    words = ("create", "--if-none", "--scopes", "read")
    for anonymous in (True, False, False, False):
        urls = ["--database-url", database.app_url, "--database-owner-url", database.owner_url]
        env = {"TOKENTAPE_ALLOW_ANONYMOUS": "true"} if anonymous else {}
        before = (await keys(database, "list", "--json")).out.splitlines()
        made = await tokentape("keys", *words, *urls, env=env)
        after = (await keys(database, "list", "--json")).out.splitlines()
        assert made.status == 0
        if before or anonymous:
            assert (made.out, after) == ("", before)
            assert ("TOKENTAPE_ALLOW_ANONYMOUS" if anonymous else "there was one before") in made.err
        else:
            assert KEY.fullmatch(made.out.strip())
            key_id = json.loads(after[0])["id"]
            assert (await keys(database, "revoke", key_id)).status == 0  # revoked, it was one nevertheless


async def test_a_key_with_limits_of_its_own_and_its_use_of_the_day(database: TestDatabase) -> None:
    made = json.loads(
        (
            await keys(
                database, "create", "--scopes", "read", "--limits", "requests=5/s,runs=1,cost=none", "--json"
            )
        ).out
    )
    assert made["limits"] == "key.requests=5/s, key.runs=1, key.cost=none"
    async with (store := PostgresAuthStore(database.app_url)).open():
        await store.add_usage({(made["id"], "tokens"): 1234567.0, (made["id"], "cost"): 0.25})
    listed = await keys(database, "list")
    assert (
        "\n  limits key.requests=5/s, key.runs=1, key.cost=none\n  today cost 0.25, tokens 1234567\n" in listed.out
    )
    assert json.loads((await keys(database, "list", "--json")).out)["used_today"] == {
        "cost": 0.25,
        "tokens": 1234567,
    }


async def test_bad_limits_of_a_key(database: TestDatabase) -> None:
    refused = await keys(database, "create", "--scopes", "read", "--limits", "requests=5")
    assert refused.status == 2
    assert "such as 20/s or 600/minute" in " ".join(refused.err.split())
