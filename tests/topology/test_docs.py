"""The pages about deploying: what they tell to type, typed; what they say of numbers, counted."""

import re
import subprocess
from pathlib import Path

import pytest
import trio
import trustme

from eventstore.postgres import PostgresOptions
from eventstore.postgres.queries import QUERY_CONNECTIONS
from tests.clients.api import Api, demo
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import ROOT, free_port, running

from . import composed, passwords
from .nginx import NGINX, NO_NGINX, Nginx
from .stack import Stack

DEPLOY, PROXIES, DATABASE = (
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("deploy.md", "proxies.md", "database.md")
)
MAX_CONNECTIONS = 16
HINTS = ("notify", "listen", "liveness")


def test_first_command_of_the_docs_writes_all_passwords(tmp_path: Path) -> None:
    """Three passwords that differ, fit into a URL, and nobody else can read."""
    first = re.findall(r"```sh\n(.*?)```", DEPLOY, re.DOTALL)[0].splitlines()[0]
    subprocess.run(["sh", "-euc", first], cwd=tmp_path, check=True, timeout=20)
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o077 == 0
    variables = dict(line.split("=", 1) for line in made.read_text(encoding="ascii").splitlines())
    assert set(variables) == set(passwords.NAMES)
    assert len(set(variables.values())) == 3
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in variables.values())
    assert composed.read(variables)["services"]


def test_env_example_lists_what_compose_reads() -> None:
    """Each variable of compose.yaml is in the page."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"\$\{(\w+)", text)) - set(passwords.NAMES)):
        assert name in DEPLOY or name.startswith("ANTHROPIC_"), name


def _indented_block(text: str, behind: str) -> list[str]:
    """The indented lines of a page's first block behind some words."""
    found = re.search(r"\n\n((?:    .*\n)+)", text[text.index(behind) :])
    assert found is not None
    return [line[4:] for line in found[1].splitlines()]


def test_nginx_accepts_the_tls_lines(tmp_path: Path) -> None:
    """Each is a directive by itself, none behind another's comment; HTTP/2 is spoken then."""
    if NGINX is None:
        pytest.skip(NO_NGINX)
    lines = _indented_block(DEPLOY, "### TLS")
    assert all(re.fullmatch(r"[a-z0-9_]+ [^#;]+;", line) for line in lines), lines
    assert [line.split()[0] for line in lines] == ["listen", "http2", "ssl_certificate", "ssl_certificate_key"]
    version = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr.rpartition("/")[2]
    if tuple(map(int, version.split(".")[:3])) < (1, 25, 1):
        assert "write `listen 8443 ssl http2;`" in DEPLOY
        lines = ["listen 8443 ssl http2;", *lines[2:]]
    port = free_port()
    own = trustme.CA().issue_cert("localhost")
    own.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    block = "\n".join(lines).replace("/etc/tls", str(tmp_path)).replace("8443", f"127.0.0.1:{port}")
    nginx = Nginx((free_port(), free_port()), {"server_tokens off;": f"server_tokens off;\n{block}"})
    try:
        words = ["curl", "-sk", "--http2", "-w", " %{http_version} %{http_code}", f"https://localhost:{port}/v1/x"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
        assert done.stdout.endswith(" 2 503")
    finally:
        nginx.close()


async def test_server_under_a_path(database: TestDatabase) -> None:
    """The page's lines: `Location` and the links stay inside of it, streams and WebSockets pass."""
    if NGINX is None:
        pytest.skip(NO_NGINX)
    lines = _indented_block(PROXIES, "## Under a path")
    server_port, name = free_port(), "example.org"
    public = {"TOKENTAPE_PUBLIC_URL": f"https://{name}/tape"}
    block = "\n".join(lines).replace("127.0.0.1:8000", f"127.0.0.1:{server_port}")
    nginx = Nginx((server_port, server_port), {"    location / {": f"{block}\n    location / {{"})
    try:
        async with running(database.app_url, public, port=server_port), http_client(nginx.url) as client:
            head = {"Host": name, "Origin": f"https://{name}"}
            made = await client.post("/tape/v1/generations", json=demo(tokens=3), headers=head)
            assert made.status_code == 202, made.text
            place = made.headers["Location"]
            assert place.startswith("/tape/v1/generations/")
            stream = await client.get(f"{place}/events", headers={**head, "Accept": "text/event-stream"})
            assert stream.text.endswith("data: [DONE]\n\n")
            docs = await client.get("/tape/docs", headers=head)
            assert "/tape/openapi.json" in docs.text
            conversation = made.json()["conversation"]
            upgrade = {**head, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
            request = f"GET /tape/v1/conversations/{conversation}/ws HTTP/1.1\r\n" + "".join(
                f"{field}: {value}\r\n" for field, value in upgrade.items()
            )
            async with await trio.open_tcp_stream("127.0.0.1", nginx.port) as socket:
                await socket.send_all(f"{request}\r\n".encode())
                with trio.fail_after(10):
                    assert b" 101 " in await socket.receive_some()
    finally:
        nginx.close()


async def test_server_holds_as_many_database_connections_as_documented(up: Stack) -> None:
    """Counted after both have served runs."""
    async with Api.open(up.nginx.port) as api:
        for _ in range(4):
            await api.finished(await api.generate(tokens=20))
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tokentape %'"
    done = up.postgres.psql(up.postgres.superuser_url, count)
    assert 0 < int(done.stdout) <= MAX_CONNECTIONS * len(up.servers)
    assert "about a dozen to the database, sixteen at most" in " ".join(DATABASE.split())
    assert (
        PostgresOptions("").parallel_appends + QUERY_CONNECTIONS + len(("reads", "heads", "retention", *HINTS))
        == MAX_CONNECTIONS
    )


async def test_backup_can_be_restored(up: Stack) -> None:
    """With the page's own words: the events are the same, and the role that serves may still change none."""
    dump, restore = (
        line.split("db ", 1)[1].split(" > ")[0].split(" < ")[0].split()
        for line in DATABASE.splitlines()
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
