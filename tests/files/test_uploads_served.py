"""Uploads to a real server: large ones, ones that are cut, and ones in which the server is killed."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from h2.exceptions import StreamClosedError

from server.auth.principal import DEFAULT_TENANT
from server.files.file_store import CHUNK_BYTES, UPLOAD_SECONDS
from server.files.postgres_file_store import PostgresFileStore
from tests.clients import http2
from tests.clients.http1 import Broken
from tests.files.conftest import AGE, COUNTS
from tests.files.sample_files import BOUNDARY, FORM, form
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running

MIB = 1_048_576
BOUND = 30.0
RAW = {"Content-Type": "application/octet-stream"}


@asynccontextmanager
async def served(postgres: Postgres, **env: str) -> AsyncIterator[tuple[Server, TestDatabase]]:
    """A server on a database of its own."""
    settings = {f"TOKENTAPE_{name.upper()}": value for name, value in env.items()}
    with postgres.clone() as database:
        async with running(database.app_url, settings) as server:
            yield server, database


def counts(postgres: Postgres, database: TestDatabase) -> tuple[int, ...]:
    """Files, uploads, chunks and uses in the database."""
    return tuple(map(int, postgres.sql(COUNTS, database.name).split()))


async def until(is_so: Callable[[], bool]) -> None:
    """Waits until something is so."""
    with trio.fail_after(BOUND):
        while True:
            if await trio.to_thread.run_sync(is_so):
                return
            await trio.sleep(0.02)


def memory(server: Server, what: str) -> int:
    """The server's resident memory now (`VmRSS`), or the most it ever was (`VmHWM`), in bytes."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


async def begin_upload(server: Server, data: bytes, size: int, headers: dict[str, str]) -> trio.SocketStream:
    """A connection that announces a body of `size` bytes and has sent `data` of it."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    lines = {"Host": f"127.0.0.1:{server.port}", "Content-Length": str(size), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    await stream.send_all(f"POST /v1/files HTTP/1.1\r\n{head}\r\n".encode() + data)
    return stream


@pytest.mark.parametrize("way", ["raw", "form"])
async def test_a_large_file_takes_little_memory(postgres: Postgres, way: str) -> None:
    """In and out: 30 MiB pass through a server whose memory grows by a fraction of that."""
    data = random.Random(1).randbytes(30 * MIB)
    async with served(postgres) as (server, _), http_client(server.url) as client:
        small = await client.post("/v1/files", content=b"small", headers=RAW)
        assert (await client.get(small.headers["Location"])).content == b"small"
        before = memory(server, "VmRSS")
        body, headers = (data, RAW) if way == "raw" else (form(data), FORM)
        made = await client.post("/v1/files", content=body, headers=headers, timeout=BOUND)
        assert made.status_code == 201, made.text
        assert made.json()["digest"] == hashlib.sha256(data).hexdigest()
        got = await client.get(made.headers["Location"], timeout=BOUND)
        assert got.content == data
        grown = memory(server, "VmHWM") - before
        assert grown < 12 * MIB, f"{grown / MIB:.1f} MiB"


async def test_a_slow_reader_of_a_large_file_takes_little_memory(postgres: Postgres) -> None:
    """The server reads the next chunk when the last one was taken."""
    data = random.Random(2).randbytes(30 * MIB)
    async with served(postgres) as (server, _), http_client(server.url) as client:
        made = await client.post("/v1/files", content=data, headers=RAW, timeout=BOUND)
        before = memory(server, "VmHWM")
        readers = []
        for _ in range(8):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            await stream.send_all(
                f"GET {made.headers['Location']} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
            )
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200 ")
            readers.append(stream)
        assert (await client.get("/healthz")).status_code == 200
        await client.get(made.headers["Location"], timeout=BOUND)
        grown = memory(server, "VmHWM") - before
        assert grown < 20 * MIB, f"{grown / MIB:.1f} MiB"
        for stream in readers:
            await stream.aclose()


async def test_uploads_that_are_cut_leave_nothing(postgres: Postgres) -> None:
    """Raw and as a form, cut at many bytes: the connection is closed, or reset."""
    data = random.Random(3).randbytes(2 * CHUNK_BYTES + 1_000)
    whole = {"raw": (data, RAW), "form": (form(data), FORM)}
    async with served(postgres) as (server, database), http_client(server.url) as client:
        for body, headers in whole.values():
            edges = {0, 1, 50, len(BOUNDARY) + 2, 150, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 200}
            for end in sorted({*edges, len(body) - CHUNK_BYTES, *(len(body) - back for back in (1, 2, 3, 6, 30))}):
                stream = await begin_upload(server, body[:end], len(body), headers)
                if end >= 2 * CHUNK_BYTES:
                    await until(lambda: counts(postgres, database)[1] == 1)
                await stream.aclose()
                await until(lambda: counts(postgres, database) == (0, 0, 0, 0))
        assert (await client.post("/v1/files", content=data, headers=RAW)).status_code == 201
        assert counts(postgres, database) == (1, 0, 3, 0)
        assert "Traceback" not in server.logged()


async def test_a_server_that_is_killed_in_an_upload(postgres: Postgres) -> None:
    """What has come of it is no file, and is swept; sent again it is one."""
    data = random.Random(4).randbytes(8 * CHUNK_BYTES)
    async with served(postgres) as (server, database):
        stream = await begin_upload(server, data[: 5 * CHUNK_BYTES], len(data), RAW)
        await until(lambda: counts(postgres, database)[2] >= 4)
        await server.kill()
        await stream.aclose()
        assert counts(postgres, database)[:2] == (0, 1)
        await server.start()
        async with http_client(server.url) as client:
            digest = hashlib.sha256(data).hexdigest()
            assert (await client.get(f"/v1/files/{digest}")).status_code == 404
            made = await client.post("/v1/files", content=data, headers=RAW)
            assert (made.status_code, made.json()["digest"]) == (201, digest)
            assert (await client.get(f"/v1/files/{digest}")).content == data
            # Nobody waits for an hour here.
            age = f"UPDATE tokentape_files.uploads SET touched_at = touched_at - interval '{UPLOAD_SECONDS + 1} s'"
            postgres.sql(age, database.name)
            await until(lambda: counts(postgres, database) == (1, 0, 8, 0))
            assert (await client.get(f"/v1/files/{digest}")).content == data


async def test_a_client_that_sends_all_before_it_reads_is_told(postgres: Postgres) -> None:
    """Too large, announced or not: the refusal can be read by a client that sends its whole body first."""
    async with served(postgres, max_file=str(MIB)) as (server, _):
        for announced in (True, False):
            body = bytes(3 * MIB)
            headers = dict(RAW)
            if not announced:
                headers |= {"Transfer-Encoding": "chunked"}
                body = b"".join(b"%x\r\n%b\r\n" % (65_536, bytes(65_536)) for _ in range(48)) + b"0\r\n\r\n"
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            lines = {"Host": f"127.0.0.1:{server.port}", **headers}
            if announced:
                lines["Content-Length"] = str(len(body))
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            await stream.send_all(f"POST /v1/files HTTP/1.1\r\n{head}\r\n".encode() + body)
            answer = b""
            with trio.fail_after(BOUND), suppress(trio.BrokenResourceError):
                while data := await stream.receive_some(65_536):
                    answer += data
            assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
            assert b"file_too_large" in answer
            await stream.aclose()


async def test_a_client_that_waits_for_100_sends_no_byte_in_vain(postgres: Postgres) -> None:
    async with served(postgres, max_file=str(MIB)) as (server, _):
        for size, first in ((2 * MIB, b"HTTP/1.1 413 "), (5, b"HTTP/1.1 100 ")):
            stream = await begin_upload(server, b"", size, {**RAW, "Expect": "100-continue"})
            with trio.fail_after(BOUND):
                assert (await stream.receive_some(13)) == first
            await stream.aclose()


async def test_uploads_on_http2(postgres: Postgres) -> None:
    """Whole, as parts of unknown length, too large, and reset in the middle, on one connection."""
    data = random.Random(5).randbytes(3 * CHUNK_BYTES)
    async with served(postgres, max_file=str(MIB)) as (server, database), http2.connect(server.port) as connection:
        with trio.fail_after(BOUND):
            made = await connection.request("POST", "/v1/files", RAW, data)
            assert (await made.head()).status == 201
            location = json.loads(await made.body())["digest"]
            got = await connection.request("GET", f"/v1/files/{location}", {"Range": "bytes=10-"})
            assert (await got.head()).status == 206
            assert await got.body() == data[10:]
            for size in (MIB + 1, 3 * MIB):
                refused = await connection.request("POST", "/v1/files", RAW, end=False)
                with suppress(Broken, StreamClosedError):
                    await refused.send(bytes(size), end=True)
                assert (await refused.head()).status == 413
            cut = await connection.request("POST", "/v1/files", RAW, data, end=False)
            await until(lambda: counts(postgres, database)[1] == 1)
            await cut.cancel()
            await until(lambda: counts(postgres, database) == (1, 0, 3, 0))
            again = await connection.request("POST", "/v1/files", RAW, data)
            assert (await again.head()).status == 200


async def test_a_file_that_is_removed_while_it_is_read(postgres: Postgres) -> None:
    """Its reader is cut off, and sees that by the length. The server has not failed: its log has no traceback."""
    data = random.Random(3).randbytes(30 * MIB)
    async with served(postgres) as (server, database), http_client(server.url) as client:
        made = await client.post("/v1/files", content=data, headers=RAW, timeout=BOUND)
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(
                f"GET {made.headers['Location']} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
            )
            head = await stream.receive_some(100)
            assert head.startswith(b"HTTP/1.1 200 ")
            postgres.sql("DELETE FROM tokentape_files.chunks", database.name)
            got = len(head)
            with trio.fail_after(BOUND), suppress(trio.BrokenResourceError):
                while part := await stream.receive_some(MIB):
                    got += len(part)
        assert got < len(data)
        assert (await client.get("/healthz")).status_code == 200
        (line,) = [one for one in server.log_lines() if one["event"] == "response cut"]
        assert made.json()["digest"] in str(line["why"])
        assert not [one for one in server.log_lines() if one["level"] == "error"]


async def test_files_are_erased_with_their_conversation(postgres: Postgres) -> None:
    """By the server's own housekeeping; one that nothing uses goes after its time."""
    env = {"ephemeral_seconds": "0.5", "file_unused_seconds": "3600"}
    async with served(postgres, **env) as (server, database), http_client(server.url) as client:
        store = PostgresFileStore(database.app_url)
        uploads = [await client.post("/v1/files", content=data, headers=RAW) for data in (b"a", b"b", b"c")]
        paths = [made.headers["Location"] for made in uploads]
        digests = [path.rpartition("/")[2] for path in paths]
        body = {"model": "demo", "parameters": {"tokens": 1, "rate": 0}}
        async with store.open():
            lasting = (await client.post("/v1/generations", json=body)).json()["conversation"]
            await store.use(DEFAULT_TENANT, lasting, [digests[1]])
            short = (await client.post("/v1/generations", json={**body, "ephemeral": True})).json()["conversation"]
            await store.use(DEFAULT_TENANT, short, [digests[0]])
        await until(lambda: counts(postgres, database) == (2, 0, 2, 1))
        assert [(await client.get(path)).status_code for path in paths] == [404, 200, 200]
        postgres.sql(AGE.format(3_601), database.name)
        await until(lambda: counts(postgres, database) == (1, 0, 1, 1))
        assert [(await client.get(path)).status_code for path in paths] == [404, 200, 404]
