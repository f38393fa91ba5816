"""Files over HTTP: every form of body, at every bound and cut anywhere; ranges; and what a browser is told."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreUnavailable
from server.auth.principal import ALL_SCOPES
from server.files.file_store import CHUNK_BYTES, FileUnknown
from server.files.memory_file_store import MemoryFileStore
from server.web import upload_body
from server.web.file_endpoints import MAX_UPLOADS, MAX_UPLOADS_OF_CALLER, MAX_UPLOADS_OF_TENANT
from tests.files.sample_files import BOUNDARY, FORM, FORMS, PNG, SAMPLES, TEXT, cut, form

from .asgi import Answered, Web, web
from .signed_requests import SignedApp, bearer

MAX = 2_048
RAW = {"Content-Type": "application/octet-stream"}
Wrap = Callable[[bytes], bytes]


def kept(store: MemoryFileStore) -> tuple[int, int]:
    """How many files and uploads are in the store."""
    return len(store._files), len(store._uploads)


def outcomes(app: Web) -> dict[str, int]:
    """What came of uploads, as the metrics say."""
    return {name: count for (name,), count in app.runtime.metrics.uploads.counts.items() if count}


async def send(app: Web, data: bytes, headers: dict[str, str] | None = None) -> Answered:
    """Uploads a file as it is."""
    return await app.upload([data], {**RAW, **(headers or {})})


@pytest.mark.parametrize("way", FORMS)
async def test_a_file_comes_back_as_what_it_is(way: str) -> None:
    """Of every type, sent in every form and in parts of any size; the second time it is the same one."""
    headers, wrap = FORMS[way]
    async with web() as app:
        for media_type, data in SAMPLES.items():
            digest = hashlib.sha256(data).hexdigest()
            answers = [await app.upload(cut(wrap(data), size), headers) for size in (10_000, 1, 7)]
            assert [answer.status for answer in answers] == [201, 200, 200], answers[0].body
            for answer in answers:
                assert answer.headers["location"] == f"/v1/files/{digest}"
                assert answer.headers["cache-control"] == "no-store"
                shown = answer.json
                assert shown["digest"] == digest
                assert (shown["media_type"], shown["size"]) == (media_type, len(data))
                assert shown["created_at"] < shown["expires_at"]
            got = await app.ask("GET", f"/v1/files/{digest}", whole=True)
            assert (got.status, got.body) == (200, data)
            assert got.headers["content-type"].partition(";")[0] == media_type
        assert outcomes(app) == {"created": len(SAMPLES), "repeated": 2 * len(SAMPLES)}


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("way", FORMS)
async def test_the_largest_file(way: str, announced: bool) -> None:
    """One byte more is 413, which says how many are allowed, and leaves nothing behind."""
    headers, wrap = FORMS[way]
    store = MemoryFileStore()
    async with web(files=store, max_file=MAX) as app:
        for size, status in ((MAX - 1, 201), (MAX, 201), (MAX + 1, 413), (20 * MAX, 413)):
            body = wrap(bytes(random.Random(size).randbytes(size)))
            length = {"Content-Length": str(len(body))} if announced else {}
            before = kept(store)
            answer = await app.upload(cut(body, 500), {**headers, **length})
            assert answer.status == status, (size, answer.body)
            if status == 413:
                assert (answer.code, answer.json["limit"]) == ("file_too_large", MAX)
                assert "TOKENTAPE_MAX_FILE" in answer.json["detail"]
                assert kept(store) == before


@pytest.mark.parametrize("way", FORMS)
async def test_a_file_of_several_chunks(way: str) -> None:
    headers, wrap = FORMS[way]
    data = random.Random(1).randbytes(3 * CHUNK_BYTES + 5)
    async with web() as app:
        for size in (CHUNK_BYTES - 1, CHUNK_BYTES, 10 * CHUNK_BYTES, 65_536):
            digest = (await app.upload(cut(wrap(data), size), headers)).json["digest"]
            assert digest == hashlib.sha256(data).hexdigest()
        assert (await app.ask("GET", f"/v1/files/{digest}", whole=True)).body == data


@pytest.mark.parametrize("way", FORMS)
async def test_an_empty_file_is_refused(way: str) -> None:
    headers, wrap = FORMS[way]
    store = MemoryFileStore()
    async with web(files=store) as app:
        answer = await app.upload([wrap(b"")], headers)
        assert (answer.status, answer.code) == (422, "empty_file")
        assert kept(store) == (0, 0)
        assert outcomes(app) == {"refused": 1}


@pytest.mark.parametrize("way", ["raw", "form"])
async def test_a_client_that_goes_leaves_nothing(way: str) -> None:
    """Wherever its body is cut."""
    headers, wrap = FORMS[way]
    store = MemoryFileStore()
    body = wrap(TEXT * 3)
    async with web(files=store) as app:
        for end in range(len(body) + 1):
            with trio.move_on_after(0.5) as waited:  # nobody is answered
                await app.upload([body[:end]] if end else [], headers, cut=True)
            assert not waited.cancelled_caught, end
            assert kept(store) == (0, 0), end
        assert outcomes(app) == {"cut": len(body) + 1}
        assert app.runtime.metrics.uploaded_bytes == sum(range(len(body) + 1))


async def test_chunks_of_a_client_that_goes_are_removed() -> None:
    store = MemoryFileStore()
    async with web(files=store) as app:
        await app.upload([b"x" * CHUNK_BYTES] * 3, RAW, cut=True)
        assert kept(store) == (0, 0)


BAD_FORMS: dict[str, tuple[dict[str, str], bytes, int, str]] = {
    "no boundary": ({"Content-Type": "multipart/form-data"}, form(b"x"), 422, "no boundary"),
    "long boundary": ({"Content-Type": f"multipart/form-data; boundary={'x' * 71}"}, b"", 422, "no boundary"),
    "other boundary": ({"Content-Type": "multipart/form-data; boundary=other"}, form(b"x"), 422, "last boundary"),
    "no field": (FORM, f"--{BOUNDARY}--\r\n".encode(), 422, "it has none"),
    "nothing": (FORM, b"", 422, "last boundary"),
    "another field": (FORM, form(b"x", 'name="picture"'), 422, "'picture'"),
    "no name": (FORM, form(b"x", 'filename="x"'), 422, "a field ''"),
    "two": (FORM, form(b"x").replace(b"--\r\n", b"\r\n") + form(b"y"), 422, "several"),
    "no disposition": (FORM, form(b"x").replace(b"Content-Disposition", b"Content-X"), 422, "cannot be read"),
    "no utf-8": (FORM, form(b"x").replace(b"x.bin", b"\xff"), 422, "cannot be read"),
    "endless head": (FORM, form(b"x", 'name="file"; x="' + "x" * 200_000), 422, "besides its file"),
    "endless preamble": (FORM, b"x" * 200_000, 422, "besides its file"),
    "cut": (FORM, form(b"x")[:-6], 422, "last boundary"),
}


@pytest.mark.parametrize("size", [100_000_000, 1_000, 1])
@pytest.mark.parametrize("case", BAD_FORMS)
async def test_a_bad_form_is_told_what_is_wrong(case: str, size: int) -> None:
    headers, body, status, says = BAD_FORMS[case]
    if size == 1 and len(body) > 10_000:
        size = 999
    store = MemoryFileStore()
    async with web(files=store) as app:
        answer = await app.upload(cut(body, size), headers)
        assert (answer.status, answer.code) == (status, "invalid_form"), answer.body
        assert says in answer.json["detail"]
        assert kept(store) == (0, 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "Application/JSON; charset=utf-8"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/mixed; boundary=x"},
        {"Content-Type": "image/png", "Content-Encoding": "gzip"},
    ],
)
async def test_what_is_no_file(headers: dict[str, str]) -> None:
    async with web() as app:
        answer = await app.upload([b"{}"], headers)
        assert (answer.status, answer.code) == (415, "unsupported_media_type")


async def test_every_spelling_of_the_address_is_the_same() -> None:
    """None of them lets a body into the framework, which would hold it whole."""
    async with web(max_body=1_024) as app:
        for path in ("/v1/files", "/v1/files/", "/v1/files//"):
            answer = await app.ask("POST", path, RAW, b"x" * 5_000, whole=True)
            assert answer.status in (200, 201), (path, answer.body)
        assert (await app.ask("PUT", "/v1/files")).status == 405
        assert (await app.ask("OPTIONS", "/v1/files")).headers["allow"] == "OPTIONS, POST"


async def test_a_body_that_stands_still(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryFileStore()
    async with web(files=store) as app:
        monkeypatch.setattr(upload_body, "STALL_SECONDS", 5.0)  # clients of these tests wait for ten
        answer = await app.upload([b"x" * CHUNK_BYTES], RAW, stall=True)
        assert (answer.status, answer.code) == (408, "body_too_slow")
        assert kept(store) == (0, 0)


async def test_a_body_that_trickles(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a time for all of it, too."""

    async def later() -> dict[str, Any]:
        await trio.sleep(1.0)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async with web() as app:
        monkeypatch.setattr(upload_body, "MAX_BODY_SECONDS", 5.0)
        answer = await app.upload([later] * 20, RAW)  # type: ignore[list-item]
        assert (answer.status, answer.code) == (408, "body_too_slow")


@pytest.mark.parametrize(
    ("callers", "places", "other_key", "other_tenant"),
    [
        # Keys of a tenant, the places that each takes, and what a further key of it and another tenant are told.
        (1, MAX_UPLOADS_OF_CALLER - 1, 201, 201),
        (1, MAX_UPLOADS_OF_CALLER, 201, 201),
        (3, MAX_UPLOADS_OF_TENANT // 3, 429, 201),
    ],
)
async def test_slow_uploads_of_one_shut_out_nobody_else(
    callers: int, places: int, other_key: int, other_tenant: int
) -> None:
    async with web(require_keys=True) as app, trio.open_nursery() as nursery:
        made = SignedApp(app)
        keys = [{**RAW, **bearer(await made.key(ALL_SCOPES)).headers} for _ in range(callers + 1)]
        elsewhere = {**RAW, **bearer(await made.key(ALL_SCOPES, tenant="globex")).headers}
        for number in range(callers * places):
            nursery.start_soon(partial(app.upload, [b"x"], keys[number % callers], stall=True))
        await trio.testing.wait_all_tasks_blocked()
        answer = await send(app, b"one more", keys[0])
        assert answer.status == (201 if places < MAX_UPLOADS_OF_CALLER else 429)
        if answer.status == 429:
            named = ("caller.uploads", "16")
            assert (answer.code, answer.json["limit"], answer.json["value"]) == ("rate_limited", *named)
            assert int(answer.headers["retry-after"]) == answer.json["retry_after"] > 0
        assert (await send(app, b"two more", keys[-1])).status == other_key
        assert (await send(app, b"one more", elsewhere)).status == other_tenant
        nursery.cancel_scope.cancel()


async def test_many_uploads_at_once() -> None:
    """Of two tenants, so that both together take all places."""
    async with web(require_keys=True) as app, trio.open_nursery() as nursery:
        made = SignedApp(app)
        keys = [
            {**RAW, **bearer(await made.key(ALL_SCOPES, tenant=tenant)).headers}
            for tenant in ("acme", "globex")
            for _ in range(MAX_UPLOADS // 2 // MAX_UPLOADS_OF_CALLER)
        ]
        last = {**RAW, **bearer(await made.key(ALL_SCOPES, tenant="initech")).headers}
        for number in range(MAX_UPLOADS):
            nursery.start_soon(partial(app.upload, [b"%d" % number], keys[number % len(keys)], stall=True))
        await trio.testing.wait_all_tasks_blocked()
        answer = await send(app, b"one more", last)
        assert (answer.status, answer.code, answer.json["limit"]) == (503, "overloaded", MAX_UPLOADS)
        assert answer.headers["retry-after"] == "2"
        nursery.cancel_scope.cancel()
    async with web() as app:
        assert (await send(app, b"one more")).status == 201


async def test_a_place_is_free_again() -> None:
    """However an upload ends. Without credentials the tenant's places are there for everybody."""
    async with web() as app:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for number in range(MAX_UPLOADS_OF_TENANT):
                    nursery.start_soon(partial(app.upload, [b"%d" % number], RAW, stall=True))
                await trio.testing.wait_all_tasks_blocked()
                answer = await send(app, b"one more")
                assert (answer.status, answer.json["limit"]) == (429, "tenant.uploads")
                nursery.cancel_scope.cancel()
            for _ in range(MAX_UPLOADS_OF_TENANT):
                assert (await send(app, b"x")).status in (200, 201)
                assert (await send(app, b"")).status == 422
                await app.upload([b"x"], RAW, cut=True)


async def test_a_database_that_is_away() -> None:
    store = MemoryFileStore()
    async with web(files=store) as app:
        digest = (await send(app, PNG)).json["digest"]
        store.available = False
        assert (await send(app, TEXT)).status == 503
        assert (await app.ask("GET", f"/v1/files/{digest}")).status == 503
        store.available = True
        assert (await send(app, TEXT)).status == 201


# -- reading


SIZE = 1_000
RANGES: dict[str, tuple[int, int] | int | None] = {
    # A part, 416, or None for the whole file.
    "bytes=0-0": (0, 1),
    "bytes=0-": (0, SIZE),
    "bytes=0-99": (0, 100),
    "bytes=100-199": (100, 200),
    "bytes=999-": (999, SIZE),
    "bytes=999-5000": (999, SIZE),
    "bytes=0-999": (0, SIZE),
    "bytes=-1": (999, SIZE),
    "bytes=-1000": (0, SIZE),
    "bytes=-5000": (0, SIZE),
    "Bytes=0-0": (0, 1),
    "bytes=1000-": 416,
    "bytes=1000-1001": 416,
    "bytes=-0": None,
    "bytes=5-4": None,
    "bytes=0-1,5-6": None,
    "bytes=": None,
    "bytes=x-y": None,
    "bytes=1-2-3": None,
    "lines=0-1": None,
    "0-1": None,
    "": None,
    "bytes=9999999999999999999999-": 416,
}


@pytest.mark.parametrize("asked", RANGES)
async def test_a_range(asked: str) -> None:
    data = random.Random(2).randbytes(SIZE)
    async with web() as app:
        path = (await send(app, data)).headers["location"]
        answer = await app.ask("GET", path, {"Range": asked}, whole=True)
        expected = RANGES[asked]
        if expected == 416:
            assert (answer.status, answer.code) == (416, "range_not_satisfiable")
            assert answer.headers["content-range"] == f"bytes */{SIZE}"
        elif isinstance(expected, tuple):
            start, stop = expected
            assert (answer.status, answer.body) == (206, data[start:stop])
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
            assert answer.headers["content-length"] == str(stop - start)
        else:
            assert (answer.status, answer.body) == (200, data)
            assert "content-range" not in answer.headers
        head = await app.ask("HEAD", path, {"Range": asked}, whole=True)
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(SIZE))


async def test_ranges_across_chunks() -> None:
    data = random.Random(3).randbytes(2 * CHUNK_BYTES + 10)
    edges = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, len(data) - 1)
    async with web() as app:
        path = (await send(app, data)).headers["location"]
        for first in edges:
            for last in edges:
                if first <= last:
                    answer = await app.ask("GET", path, {"Range": f"bytes={first}-{last}"}, whole=True)
                    assert (answer.status, answer.body) == (206, data[first : last + 1]), (first, last)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": '"{}"'}, 304),
        ({"If-None-Match": 'W/"{}"'}, 304),
        ({"If-None-Match": '"x", "{}"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": "{}"}, 304),  # without its quotes, as some proxies send it
        ({"If-None-Match": '"{}"', "Range": "bytes=0-1"}, 304),
        ({"If-Range": '"{}"', "Range": "bytes=0-1"}, 206),
        ({"If-Range": '"x"', "Range": "bytes=0-1"}, 200),
        ({"If-Range": 'W/"{}"', "Range": "bytes=0-1"}, 200),
        ({"If-Range": "Wed, 21 Oct 2015 07:28:00 GMT", "Range": "bytes=0-1"}, 200),
    ],
)
async def test_a_version_that_the_client_has(headers: dict[str, str], status: int) -> None:
    async with web() as app:
        made = await send(app, TEXT)
        sent = {name: value.replace("{}", made.json["digest"]) for name, value in headers.items()}
        answer = await app.ask("GET", made.headers["location"], sent, whole=True)
        assert answer.status == status
        assert answer.headers["etag"] == f'"{made.json["digest"]}"'
        assert answer.headers["cache-control"] == "private, max-age=3600, immutable"
        if status == 304:
            assert answer.body == b""


@pytest.mark.parametrize("media_type", SAMPLES)
async def test_what_a_browser_is_told(media_type: str) -> None:
    """No file acts as a page of this server: its type is certain, and it has no scripts and no origin."""
    async with web() as app:
        path = (await send(app, SAMPLES[media_type], {"Content-Type": "text/html"})).headers["location"]
        for method in ("GET", "HEAD"):
            told: dict[str, Any] = (await app.ask(method, path, whole=True)).headers
            assert told["x-content-type-options"] == "nosniff"
            assert told["content-type"] == media_type + ("; charset=utf-8" if media_type == "text/plain" else "")
            shown = "attachment" if media_type == "application/octet-stream" else "inline"
            assert told["content-disposition"].startswith(f'{shown}; filename="')
            policy = told.get("content-security-policy")
            assert policy == (None if media_type == "application/pdf" else "default-src 'none'; sandbox")
            assert told["cross-origin-resource-policy"] == "same-site"
            assert told["accept-ranges"] == "bytes"


async def test_a_page_of_another_origin_may_read_what_it_may() -> None:
    async with web(allowed_origins=("https://app.example",)) as app:
        path = (await send(app, TEXT)).headers["location"]
        answer = await app.ask("GET", path, {"Origin": "https://app.example", "Range": "bytes=0-1"}, whole=True)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "Content-Range" in answer.headers["access-control-expose-headers"]
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
        preflight = await app.ask("OPTIONS", path, asked)
        assert "Range" in preflight.headers["access-control-allow-headers"]


class Emptied(MemoryFileStore):
    """Knows its files, and has the bytes of none."""

    why: Exception = FileUnknown("0" * 64)

    async def stream(
        self, tenant: str, digest: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        for _ in range(start, start + 1):
            raise self.why
        yield b""


@pytest.mark.parametrize(
    ("why", "status"), [(FileUnknown("0" * 64), 404), (StoreUnavailable("away"), 503)], ids=["removed", "away"]
)
async def test_a_file_of_which_the_first_byte_is_missing(why: Exception, status: int) -> None:
    """It was there a moment ago. Nothing is sent yet, so the answer says what is wrong."""
    store = Emptied()
    store.why = why
    async with web(files=store) as app:
        path = (await send(app, b"x")).headers["location"]
        assert (await app.ask("GET", path, whole=True)).status == status


async def test_a_file_that_is_removed_while_it_is_read() -> None:
    """The answer breaks off: what has come must not look whole."""
    store = MemoryFileStore()
    data = random.Random(4).randbytes(3 * CHUNK_BYTES)
    async with web(files=store) as app:
        path = (await send(app, data)).headers["location"]
        got = b""

        def heard(part: bytes) -> None:
            nonlocal got
            got += part
            store._files.clear()

        assert not await app.follow(path, {}, "", heard)
        assert got == data[:CHUNK_BYTES]
