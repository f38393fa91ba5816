"""`tokentape serve` with TLS as an operator uses it: printed lines, curl, and errors about the settings.

The server runs as its own process. Errors must come before anything is started, without a traceback.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from server.config import BadSettings, load
from tests.cli.command_runner import tokentape
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

NOWHERE = ("--bind", "127.0.0.1:0", "--database-url", "postgresql://u:hunter2@127.0.0.1:1/d")


@pytest.fixture(autouse=True)
def no_tls_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes all TLS settings from the environment."""
    for name in ("TOKENTAPE_TLS", "TOKENTAPE_CERTFILE", "TOKENTAPE_KEYFILE", "TOKENTAPE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


async def test_curl_accepts_the_certificate_with_the_authority_that_is_logged(
    database: TestDatabase, tmp_path: Path
) -> None:
    """Over HTTP/2 and HTTP/1.1, by name and by address; after a restart the same file still works."""
    env = {"TOKENTAPE_TLS": "1", "TOKENTAPE_DATA_DIR": str(tmp_path / "data")}
    async with running(database.app_url, env) as server:
        authority = tmp_path / "data" / "tls" / "ca.pem"
        for _ in range(2):
            assert f"serving on https://127.0.0.1:{server.port}" in server.logged()
            assert str(authority) in server.logged()
            for host in ("localhost", "127.0.0.1"):
                for flag, version in (("--http2", "2"), ("--http1.1", "1.1")):
                    url = f"https://{host}:{server.port}/v1/conversations"
                    said = await _curl("--cacert", str(authority), flag, "-w", " %{http_version}", url)
                    assert said.startswith("{")
                    assert said.endswith(f" {version}")
            assert await server.stop() == 0
            await server.start()
        untrusted = await _curl("-w", "%{ssl_verify_result}", f"{server.url}/healthz")
        assert untrusted != "0"
        assert "alive" not in untrusted


async def test_http2_with_prior_knowledge_without_tls(database: TestDatabase) -> None:
    async with running(database.app_url) as server:
        for flag, version in (("--http2-prior-knowledge", "2"), ("--http2", "1.1"), ("--http1.1", "1.1")):
            said = await _curl(flag, "-w", " %{http_version}", f"{server.url}/healthz")
            assert said == f'{{"status":"alive"}} {version}'


async def _curl(*words: str) -> str:
    run = partial(
        subprocess.run, ["curl", "-s", "--max-time", "20", *words], capture_output=True, text=True, check=False
    )
    done: subprocess.CompletedProcess[str] = await trio.to_thread.run_sync(run)
    return done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--certfile", "c.pem"), "TOKENTAPE_CERTFILE is set but TOKENTAPE_KEYFILE is not"),
        (("--keyfile", "k.pem"), "TOKENTAPE_KEYFILE is set but TOKENTAPE_CERTFILE is not"),
        (("--tls", "--certfile", "c", "--keyfile", "k"), "TOKENTAPE_TLS and TOKENTAPE_CERTFILE are both set"),
        (
            ("--certfile", "/nowhere/c.pem", "--keyfile", "k"),
            "TOKENTAPE_CERTFILE = '/nowhere/c.pem': No such file",
        ),
        (("--tls", "--data-dir", "/etc/passwd"), "set TOKENTAPE_DATA_DIR to another folder"),
        (("--tls", "--allowed-hosts", "my_service"), "TOKENTAPE_ALLOWED_HOSTS"),
    ],
)
async def test_contradictory_tls_settings_end_with_status_2(
    flags: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """One message, no traceback, no password in it, and nothing is started."""
    env = {} if "--data-dir" in flags else {"TOKENTAPE_DATA_DIR": str(tmp_path)}
    done = await tokentape("serve", *NOWHERE, *flags, env=env)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert "hunter2" not in done.err


@pytest.mark.parametrize("name", ["certfile", "keyfile"])
def test_certfile_and_keyfile_need_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TOKENTAPE_{name.upper()}", "some.pem")
    with pytest.raises(BadSettings, match="set both, or neither"):
        load()


def test_keyfile_flag_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTAPE_CERTFILE", "/etc/tls/site.pem")
    monkeypatch.setenv("TOKENTAPE_KEYFILE", "site.key")
    settings = load({"keyfile": "other.key"})
    assert (settings.certfile, settings.keyfile) == (Path("/etc/tls/site.pem"), Path("other.key"))
