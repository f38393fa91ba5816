"""The bytes that callers may upload a day: announced or not, cut, at the same time, and on two servers."""

from __future__ import annotations

import pytest
import trio

from server.auth.auth_store import Use
from server.auth.limits.limit_list import LEVELS, Level
from server.auth.limits.upload_count import UploadCount
from server.auth.memory_auth_store import MemoryAuthStore
from server.auth.principal import ALL_SCOPES, Principal
from server.problem import Problem
from tests.auth.conftest import Stores, auth_database, closed_stores, database, stores  # noqa: F401
from tests.limits.test_rate_limiter import ADA, BOB, KEY, Server, two_servers
from tests.web.asgi import Answered, Web, web
from tests.web.signed_requests import SignedApp, bearer

RAW = {"Content-Type": "text/plain"}
WHO: dict[Level, tuple[Principal, str]] = {
    "key": (KEY, KEY.subject),
    "user": (ADA, "user:acme/ada"),
    "tenant": (ADA, "tenant:acme"),
}


async def used(store: object, *uses: Use) -> dict[Use, float]:
    """Today's sums."""
    return dict((await store.read_usage(uses)).sums)  # type: ignore[attr-defined]


async def upload(server: Server, who: Principal, size: int, announced: int | None = None, parts: int = 10) -> bool:
    """Whether an upload was let in whole. `announced`: how much was, when it is not `size`."""
    try:
        count = await UploadCount.begin(server.limiter, who, size if announced is None else announced)
    except Problem as problem:
        if problem.code != "rate_limited":
            raise
        return False
    try:
        for at in range(0, size, parts):
            count.take(min(parts, size - at))
    except Problem as problem:
        if problem.code != "rate_limited":
            raise
        return False
    finally:
        count.settle()
    return True


@pytest.mark.parametrize("announced", [None, 0], ids=["announced", "not announced"])
@pytest.mark.parametrize("level", LEVELS)
async def test_a_limit_holds_to_the_byte(level: Level, announced: int | None) -> None:
    who, account = WHO[level]
    store = MemoryAuthStore()
    async with store.open(), two_servers(f"{level}.upload=100/day", store) as (server, _):
        for size, fits in ((60, True), (41, False), (40, True), (1, False)):
            if not fits and announced == 0:
                continue  # what was received before the refusal counts: below
            assert await upload(server, who, size, announced) is fits, size
        await server.limiter.write_usage()
        assert await used(store, (account, "upload")) == {(account, "upload"): 100.0}


async def test_bytes_that_came_before_a_refusal_count() -> None:
    store = MemoryAuthStore()
    async with store.open(), two_servers("tenant.upload=100/day", store) as (server, _):
        assert not await upload(server, ADA, 150, announced=0)
        await server.limiter.write_usage()
        assert await used(store, ("tenant:acme", "upload")) == {("tenant:acme", "upload"): 100.0}
        assert not await upload(server, BOB, 1)
        assert server.refused == ["tenant.upload", "tenant.upload"]


async def test_what_was_announced_and_did_not_come_is_given_back() -> None:
    store = MemoryAuthStore()
    async with store.open(), two_servers("tenant.upload=100/day", store) as (server, _):
        for _ in range(5):
            count = await UploadCount.begin(server.limiter, ADA, 50)
            count.take(10)
            await server.limiter.write_usage()
            count.settle()
            count.settle()
        await server.limiter.write_usage()
        assert await used(store, ("tenant:acme", "upload")) == {("tenant:acme", "upload"): 50.0}
        assert await upload(server, ADA, 50)


async def test_uploads_at_the_same_time_see_each_other() -> None:
    """Announced ones before their first byte."""
    store = MemoryAuthStore()
    async with store.open(), two_servers("tenant.upload=100/day", store) as (server, _):
        outcomes = list[bool]()

        async def one() -> None:
            try:
                count = await UploadCount.begin(server.limiter, ADA, 40)
            except Problem:
                outcomes.append(False)
                return
            outcomes.append(True)
            await trio.lowlevel.checkpoint()
            count.take(40)
            count.settle()

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert sorted(outcomes) == [False] * 8 + [True] * 2


@pytest.mark.parametrize("announced", [0, 1, 40], ids=["nothing", "too little", "all"])
@pytest.mark.parametrize("level", LEVELS)
async def test_uploads_at_the_same_time_pass_no_limit_together(level: Level, announced: int) -> None:
    """Whatever they announce, and also where all have begun before the first of them has sent much."""
    who, account = WHO[level]
    store = MemoryAuthStore()
    async with store.open(), two_servers(f"{level}.upload=100/day", store) as (server, _):
        counts = list[UploadCount]()
        refused = 0
        for _ in range(10):
            try:
                counts.append(await UploadCount.begin(server.limiter, who, announced))
            except Problem:
                refused += 1
        await server.limiter.write_usage()  # what is on its way to the database counts once
        for _ in range(4):
            for count in [*counts]:
                try:
                    count.take(10)
                except Problem:
                    counts.remove(count)
                    count.settle()
                    refused += 1
        for count in counts:
            count.settle()
        await server.limiter.write_usage()
        ((_, brought),) = (await used(store, (account, "upload"))).items()
        assert 80 <= brought <= 100
        assert refused >= 7


async def test_two_servers_hold_it_together(stores: Stores) -> None:  # noqa: F811
    async with two_servers("tenant.upload=100/day", stores.app) as (one, two):
        assert await upload(one, ADA, 60)
        await one.limiter.write_usage()
        assert not await upload(two, BOB, 60)
        assert await upload(two, BOB, 40)
        await two.limiter.write_usage()
        assert not await upload(one, ADA, 1)


async def test_uploads_stop_no_runs_and_tokens_stop_no_uploads() -> None:
    store = MemoryAuthStore()
    async with store.open(), two_servers("tenant.upload=10/day, tenant.tokens=10/day", store) as (server, _):
        assert await upload(server, ADA, 10)
        assert not await upload(server, ADA, 1)
        assert await server.start(ADA)
        server.limiter.add_use("acme", "ada", 10, 0)
        assert not await server.start(ADA)
    async with store.open(), two_servers("tenant.upload=100/day, tenant.tokens=10/day", store) as (server, _):
        server.limiter.add_use("acme", "ada", 10, 0)
        assert await upload(server, ADA, 10)


async def send(app: Web, data: bytes, headers: dict[str, str], *, announced: bool = True) -> Answered:
    """Uploads a file."""
    length = {"Content-Length": str(len(data))} if announced else {}
    return await app.upload([data[:10], data[10:]], {**RAW, **headers, **length})


@pytest.mark.parametrize("announced", [True, False])
async def test_a_refusal_names_the_limit(announced: bool) -> None:
    """And leaves nothing behind; a file that the tenant has counts again, for its bytes came again."""
    async with web(require_keys=True, limits="tenant.upload=100/day, key.upload=1000/day") as app:
        made = SignedApp(app)
        first, second = bearer(await made.key(ALL_SCOPES)).headers, bearer(await made.key(ALL_SCOPES)).headers
        assert (await send(app, b"x" * 60, first, announced=announced)).status == 201
        answer = await send(app, b"y" * 60, second, announced=announced)
        assert (answer.status, answer.code) == (429, "rate_limited")
        assert (answer.json["limit"], answer.json["value"]) == ("tenant.upload", "100/day")
        assert "uploaded bytes" in answer.json["detail"]
        assert int(answer.headers["retry-after"]) == answer.json["retry_after"] > 0
        assert len(app.runtime.files._files) == 1  # type: ignore[attr-defined]
        if announced:
            assert (await send(app, b"x" * 40, second)).status == 201
            assert (await send(app, b"x" * 40, second)).status == 429
