"""Which addresses `tokentape serve` may bind without API keys: loopback only, unless the operator allows more."""

import pytest

from server.auth.credentials import generate
from server.auth.postgres_auth_store import PostgresAuthStore
from tests.cli.command_runner import tokentape
from tests.harness.databases import TestDatabase
from tests.harness.servers import free_port, running

OPEN = "whoever reaches this port may do everything"
COMMAND = "tokentape keys create --tenant default --scopes read,write,decide"


async def make_key(database: TestDatabase) -> None:
    store = PostgresAuthStore(database.owner_url)
    async with store.open():
        await store.add_key(generate("key"), "acme", "", frozenset({"read"}), None)


async def test_loopback_without_keys_logs_one_warning(database: TestDatabase) -> None:
    async with running(database.app_url) as server:
        (line,) = [line for line in server.log_lines() if OPEN in str(line["event"])]
        assert line["next_step"] == COMMAND
        assert await server.stop() == 0
        await make_key(database)
        await server.start()
        assert len([line for line in server.log_lines() if OPEN in str(line["event"])]) == 1  # from before


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
async def test_network_address_without_keys_is_refused(database: TestDatabase, host: str) -> None:
    done = await tokentape("serve", "--bind", f"{host}:0", "--database-url", database.app_url)
    assert done.status == 2
    assert f"TOKENTAPE_BIND = '{host}:0'" in done.err
    assert COMMAND in done.err
    assert "TOKENTAPE_ALLOW_ANONYMOUS=true" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("how", ["a key", "TOKENTAPE_REQUIRE_KEYS", "TOKENTAPE_ALLOW_ANONYMOUS"])
async def test_network_address_is_allowed_with_keys_or_by_setting(database: TestDatabase, how: str) -> None:
    port = free_port()
    env = {"TOKENTAPE_BIND": f"0.0.0.0:{port}"}
    if how == "a key":
        await make_key(database)
    else:
        env[how] = "true"
    async with running(database.app_url, env, port=port) as server:
        warned = [line for line in server.log_lines() if "TOKENTAPE_ALLOW_ANONYMOUS" in str(line["event"])]
        assert [line["level"] for line in warned] == (["warning"] if how == "TOKENTAPE_ALLOW_ANONYMOUS" else [])


@pytest.mark.parametrize("content", [None, "no keys", '{"keys": []}'])
async def test_invalid_jwt_key_file_is_refused(
    database: TestDatabase, tmp_path_factory: pytest.TempPathFactory, content: str | None
) -> None:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    env = {"TOKENTAPE_JWT_KEYS": str(file)}
    done = await tokentape("serve", "--bind", "127.0.0.1:0", "--database-url", database.app_url, env=env)
    assert done.status == 2
    assert done.err.count("TOKENTAPE_JWT_KEYS: ") == 1
    assert "Traceback" not in done.err


async def test_unreachable_jwt_key_url_does_not_delay_the_start(database: TestDatabase) -> None:
    env = {"TOKENTAPE_JWT_KEYS": f"http://127.0.0.1:{free_port()}/jwks"}
    async with running(database.app_url, env) as server:
        assert [line for line in server.log_lines() if line["event"] == "the key set cannot be read"]
