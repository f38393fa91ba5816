"""Streams through a real nginx that is configured with `proxy_pass` alone.

Its buffering must hold back no token, and its read timeout must not cut a quiet stream.
"""

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.faults.readers import SseReader, ask, read_log
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import free_port, running

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="Debian's package nginx is not installed (tools/test-needs)")

CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{target}; {extra} }}
    }}
}}
"""


@asynccontextmanager
async def _nginx(target: int, extra: str = "") -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        config = Path(folder) / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, port=port, target=target, extra=extra))
        process = subprocess.Popen([str(NGINX), "-c", str(config), "-p", folder], stderr=subprocess.DEVNULL)
        try:
            with trio.fail_after(10):
                while True:
                    try:
                        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                        break
                    except OSError:
                        await trio.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


async def test_nginx_holds_back_no_token(database: TestDatabase) -> None:
    """Its default buffering is on; the first tokens arrive while the run has hardly begun."""
    async with running(database.app_url) as server, _nginx(server.port) as url:
        run = await ask(url, {"model": "demo", "parameters": {"tokens": 2_000, "rate": 20}})
        reader = SseReader(f"{url}/v1/generations/{run['id']}/events")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.follow)
            with trio.fail_after(20):
                while len(reader.events) < 10:
                    await trio.sleep(0.01)
            async with http_client(server.url) as client:
                now = (await client.get(f"/v1/generations/{run['id']}")).json()
                await client.post(f"/v1/generations/{run['id']}/cancel")
            assert now["tokens"] < 40, "nginx had to gather tokens before it let one through"
            with trio.fail_after(20):
                await reader.done.wait()
        assert reader.events == await read_log(f"{server.url}/v1/generations/{run['id']}/events")


async def test_heartbeats_keep_a_quiet_stream_open(database: TestDatabase) -> None:
    """nginx cuts after 2 s of silence; a heartbeat comes every 0.5 s."""
    env = {"TOKENTAPE_HEARTBEAT": "0.5"}
    async with running(database.app_url, env) as server, _nginx(server.port, "proxy_read_timeout 2s;") as url:
        async with http_client(url) as client:
            conversation = (await client.post("/v1/conversations", json={})).json()["id"]
            reader = SseReader(f"{url}/v1/conversations/{conversation}/events")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.follow)
                with trio.fail_after(10):
                    while not reader.events:
                        await trio.sleep(0.01)
                await trio.sleep(5)  # the silence is what is tested
                message = {"role": "user", "content": "still there?"}
                await client.post(f"/v1/conversations/{conversation}/messages", json=message)
                with trio.fail_after(10):
                    while len(reader.events) < 2:
                        await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            assert reader.connections == 1
