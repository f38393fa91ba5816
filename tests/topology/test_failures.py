"""Servers killed and stopped, the database and nginx restarted: readers get everything exactly once."""

import signal
from collections.abc import Sequence

import trio

from tests.clients.api import Api, demo, new_key
from tests.faults.readers import SseReader
from tests.harness.http import http_client

from .followers import Event, Follower, LineFollower, SocketFollower
from .stack import Stack


async def test_reader_continues_after_its_server_is_killed(up: Stack) -> None:
    """The run is on one server, its reader on the other, which is killed: nginx brings the reader to the first."""
    runs_here, reads_here = up.servers
    async with Api.open(up.nginx.port) as api:
        conversation = await api.conversation()
        await runs_here.kill()
        reader = SseReader(f"{up.url}{conversation}/events")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.follow)
            await _until(reader.events, 1)  # it can only be on the one that lives
            await runs_here.start()
            async with Api.open(runs_here.port) as direct:
                run = await direct.generate(conversation, tokens=400, rate=400)
            await _until(reader.events, 50)
            assert reader.connections == 1
            await reads_here.kill()
            await api.finished(run)
            log = await api.log(conversation)
            await _until(reader.events, len(log))
            assert reader.connections > 1
            nursery.cancel_scope.cancel()
    assert reader.events == log
    assert log[-1]["type"] == "generation.completed", "the run was on the other server"


async def test_rolling_restart(up: Stack) -> None:
    """Both servers stopped and started, one after the other, under twenty readers and a steady poster."""
    async with Api.open(up.nginx.port) as api:
        conversation = await api.conversation()
        followers = _twenty_followers(up, conversation)
        posted: list[str] = []
        rolled = trio.Event()

        async def post() -> None:
            while not rolled.is_set():
                text = f"message {len(posted)}"
                body = {"role": "user", "content": text}
                answer = await api.post(f"{conversation}/messages", body, Idempotency_Key=new_key())
                assert answer.status_code == 201, "nginx had another server to ask"
                posted.append(text)
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            for follower in followers:
                nursery.start_soon(follower.follow)
            for follower in followers:
                await _until(follower.events, 1)
            async with trio.open_nursery() as posting:
                posting.start_soon(post)
                for server in up.servers:
                    async with Api.open(server.port) as direct:
                        await direct.generate(conversation, tokens=100_000, rate=100)
                    assert await server.stop() == 0
                    await server.start()
                rolled.set()
            await api.message(conversation, "the end")
            log = await api.log(conversation)
            for follower in followers:
                await _until(follower.events, len(log))
            nursery.cancel_scope.cancel()
    assert [event["position"] for event in log] == list(range(1, len(log) + 1))
    for follower in followers:
        assert follower.events == log
    said = [event["content"] for event in log if event["type"] == "message.posted"]
    assert said == [*posted, "the end"]
    ends = [event["error"]["code"] for event in log if event["type"] == "generation.failed"]
    assert ends == ["server_stopped"] * 2


async def test_nginx_retries_refusals_of_a_stopping_server(up: Stack) -> None:
    """While it drains it refuses new runs and streams with 503; nginx takes those to the other server."""
    stopping = up.servers[0]
    async with Api.open(stopping.port) as direct, Api.open(up.nginx.port) as api:
        run = await direct.generate(tokens=100_000, rate=100)  # it holds the drain up for a while
        stopping.send_signal(signal.SIGTERM)
        with trio.fail_after(10):
            while (await direct.http.get("/readyz")).status_code != 503:
                await trio.sleep(0.01)
        for _ in range(4):
            assert (await api.post("/v1/generations", demo(1), Idempotency_Key=new_key())).status_code == 202
            async with api.http.stream("GET", f"{run}/events", params={"format": "ndjson"}) as lines:
                assert lines.status_code == 200
        assert stopping.process is not None
        with trio.fail_after(20):
            assert await trio.to_thread.run_sync(stopping.process.wait) == 0  # a second signal would hurry it


async def test_readers_continue_after_a_database_restart(up: Stack) -> None:
    """Runs and readers wait for it; nobody is told anything but the truth, and nothing is lost."""
    async with Api.open(up.nginx.port) as api:
        conversation = await api.conversation()
        run = await api.generate(conversation, tokens=600, rate=300)
        followers = _twenty_followers(up, conversation)[:8]
        async with trio.open_nursery() as nursery:
            for follower in followers:
                nursery.start_soon(follower.follow)
            for follower in followers:
                await _until(follower.events, 20)
            await trio.to_thread.run_sync(up.postgres.stop)
            away = await api.http.get("/readyz")
            assert away.status_code == 503
            assert away.headers["Content-Type"] == "application/problem+json"
            assert away.json()["detail"] == "The database does not answer.", "the servers' own word, not nginx's"
            await trio.to_thread.run_sync(up.postgres.start)
            await _ready(up)
            await api.finished(run)
            log = await api.log(conversation)
            for follower in followers:
                await _until(follower.events, len(log))
            nursery.cancel_scope.cancel()
    assert log[-1]["type"] == "generation.completed"
    for follower in followers:
        assert follower.events == log


async def test_nginx_answers_with_json_when_no_server_does(up: Stack) -> None:
    """Both servers are gone: a native EventSource is asked to come back, all others get a problem."""
    for server in up.servers:
        await server.kill()
    async with http_client(up.url) as client:
        events = "/v1/conversations/con_x/events"
        native = [await client.get(events, headers={"Accept": "text/event-stream"}) for _ in range(12)]
        assert {answer.status_code for answer in native} == {200}
        assert {answer.headers["Content-Type"] for answer in native} == {"text/event-stream"}
        assert native[0].headers["Access-Control-Allow-Origin"] == "*", "from afar it would give up"
        retries = {int(answer.text.splitlines()[0].removeprefix("retry: ")) for answer in native}
        assert all(answer.text.count("\n\n") == 1 and "id:" not in answer.text for answer in native)
        assert min(retries) >= 1_000
        assert len(retries) > 1, "all would come back in the same moment"
        assert all(line.startswith(("retry:", ":")) for line in native[0].text.splitlines() if line)
        others = [
            await client.get(events, params={"format": "sse"}),
            await client.get(events),
            await client.get(events, params={"format": "json"}, headers={"Accept": "text/event-stream"}),
            await client.get("/readyz"),
            await client.post("/v1/generations", json=demo()),
            await client.post("/v1/generations", json=demo(), headers={"Idempotency-Key": new_key()}),
            await client.post("/v1/generations", json=demo(), headers={"Accept": "text/event-stream"}),
        ]
        assert [answer.status_code for answer in others] == [200] + [503] * 6
        for answer in others[1:]:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json()["code"] == "unavailable"
            assert int(answer.headers["Retry-After"]) >= 1
    await up.mend()
    async with Api.open(up.nginx.port) as api:
        for _ in range(4):  # nginx holds no grudge against either
            await api.finished(await api.generate(tokens=2))


async def test_streams_survive_an_nginx_reload(up: Stack) -> None:
    """Old workers let go of endless streams within seconds; their readers come back to the new ones."""
    async with Api.open(up.nginx.port) as api:
        conversation = await api.conversation()
        reader = SseReader(f"{up.url}{conversation}/events")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.follow)
            await _until(reader.events, 1)
            before = up.nginx.workers()
            up.nginx.reload()
            with trio.fail_after(20):
                while before & up.nginx.workers():
                    await trio.sleep(0.02)
            await api.message(conversation, "still there?")
            await _until(reader.events, 2)
            nursery.cancel_scope.cancel()
        assert reader.connections == 2
        assert reader.events == await api.log(conversation)


def _twenty_followers(up: Stack, conversation: str) -> list[Follower]:
    url = f"{up.url}{conversation}/events"
    made: list[Follower] = []
    for _ in range(5):
        made += [SseReader(url), SocketFollower(up.nginx.port, conversation), LineFollower(url), SseReader(url)]
    return made


async def _until(events: Sequence[Event], count: int) -> None:
    with trio.fail_after(40):
        while len(events) < count:
            await trio.sleep(0.01)


async def _ready(up: Stack) -> None:
    async with http_client(up.url) as client:
        with trio.fail_after(30):
            while (await client.get("/readyz")).status_code != 200:
                await trio.sleep(0.02)
