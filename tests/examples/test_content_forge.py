"""The article studio and its clients, through a network that cuts: one article for each job, and the log's."""

import base64
import html
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from standardwebhooks import Webhook

from examples.content_forge.receiver import is_signed
from server.config.webhook_signing_keys import SigningKey, new_signing_key
from tests.clients.api import Api
from tests.examples.conftest import ALLOWED
from tests.examples.cutting_proxy import cutting
from tests.examples.page_checks import check_page, needs_pages
from tests.examples.programs import NO_NODE, NO_PHP, NODE, PHP, starting
from tests.harness.browser import browsing
from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, Server, running

FORGE = ROOT / "examples" / "content_forge"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAIR = new_signing_key()
PATIENCE = 40
Job = dict[str, Any]


@pytest.fixture
async def server(database: TestDatabase, pages: str, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """The studio, which may send webhooks to this machine.

    It writes faster than for people, unless a test says how many tokens a second.
    """
    env = {
        "TOKENTAPE_WORKFLOWS": "examples.content_forge.app",
        "TOKENTAPE_ALLOWED_ORIGINS": pages,
        "TOKENTAPE_WEBHOOK_SECRET": SECRET,
        "TOKENTAPE_WEBHOOK_SIGNING_KEY": PAIR.private_text,
        "TOKENTAPE_WEBHOOK_ALLOW_PRIVATE": "true",
        "CONTENT_FORGE_RATE": getattr(request, "param", "200"),
    }
    async with running(database.app_url, env) as server:
        ALLOWED.append(server.url)
        yield server
        ALLOWED.clear()


@pytest.mark.skipif(PHP is None, reason=NO_PHP)
async def test_wordpress_has_one_post_for_each_topic(server: Server, tmp_path: Path) -> None:
    """Through cuts, and although the first run is killed in the middle; a later run writes nothing new."""
    topics = ["Moon clocks", "Größe & Zeit <3", "1066"]
    (tmp_path / "topics.txt").write_text("\n".join(topics) + "\n\n", encoding="utf-8")
    posts = tmp_path / "posts"
    with cutting(server.port, seed=6) as network:
        command = [str(PHP), str(FORGE / "wordpress_cron.php"), str(tmp_path / "topics.txt")]
        env = {"TOKENTAPE_URL": network.url, "CONTENT_FORGE_POSTS": str(posts), "CONTENT_FORGE_PAUSE": "0.1"}
        with starting(command, env) as first:
            await _until(lambda: all("id" in job for job in _stored(posts).values()) and _stored(posts))
            first.kill()
        for _ in range(2):
            with starting(command, env) as again:
                assert await again.ended() == 0, again.errors()
        assert network.cuts > 0
    jobs = await _jobs(server)
    assert sorted(job["input"]["topic"] for job in jobs) == sorted(topics)
    assert {path.name for path in posts.glob("*.html")} == {f"{job['id']}.html" for job in jobs}
    for job in jobs:
        post = (posts / f"{job['id']}.html").read_text(encoding="utf-8")
        assert html.unescape(re.sub(r"<.*?>", "", post)).split() == _text(job["result"]).split()


@pytest.mark.skipif(PHP is None, reason=NO_PHP)
async def test_wordpress_repeats_what_was_lost_and_asks_for_what_is_new(tmp_path: Path) -> None:
    """The same key until there is a job, then the ETag; a job that failed and may succeed is another one."""
    job = {
        "id": "gen_1",
        "status": "running",
        "progress": {"done": 1, "total": 3},
        "retryable": None,
        "error": None,
    }
    failed = {**job, "status": "failed", "retryable": True, "error": {"message": "lost"}}
    done = {**job, "id": "gen_2", "status": "completed", "result": {"title": "A & B", "sections": []}}
    script: list[tuple[int, dict[str, str], str, bool]] = [
        (503, {"Retry-After": "1"}, '{"detail": "busy"}', False),
        (202, {}, json.dumps(job), True),
        (202, {}, json.dumps(job), False),
        (200, {"ETag": '"5"'}, json.dumps(job), False),
        (200, {"ETag": '"6"'}, json.dumps(job), True),
        (304, {"ETag": '"5"'}, "", False),
        (200, {"ETag": '"9"'}, json.dumps(failed), False),
        (202, {}, json.dumps({**job, "id": "gen_2"}), False),
        (200, {"ETag": '"12"'}, json.dumps(done), False),
    ]
    (tmp_path / "topics.txt").write_text("Clocks\n", encoding="utf-8")
    async with _scripted(script) as (url, asked):
        command = [str(PHP), str(FORGE / "wordpress_cron.php"), str(tmp_path / "topics.txt")]
        env = {"TOKENTAPE_URL": url, "CONTENT_FORGE_POSTS": str(tmp_path), "CONTENT_FORGE_PAUSE": "0.01"}
        with starting(command, env | {"TOKENTAPE_KEY": "tt_key_1"}) as program:
            assert await program.ended() == 0, program.errors()
    assert script == []
    assert [line.split(" ")[0:2] for line, _ in asked] == [
        *[["POST", "/v1/generations"]] * 3,
        *[["GET", "/v1/generations/gen_1"]] * 4,
        ["POST", "/v1/generations"],
        ["GET", "/v1/generations/gen_2"],
    ]
    keys = [headers["idempotency-key"] for line, headers in asked if line.startswith("POST")]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert [headers.get("if-none-match") for _, headers in asked[3:]] == [None, '"5"', '"5"', '"5"', None, None]
    assert all(headers["authorization"] == "Bearer tt_key_1" for _, headers in asked)
    assert "<h1>A &amp; B</h1>" in (tmp_path / "gen_2.html").read_text(encoding="utf-8")


@asynccontextmanager
async def _scripted(
    script: list[tuple[int, dict[str, str], str, bool]],
) -> AsyncIterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A server with prepared answers: status, headers, body, whether it is cut. And what it was asked."""
    asked: list[tuple[str, dict[str, str]]] = []

    async def answer(stream: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += await stream.receive_some()
        asked.append((first, headers))
        status, more, text, cut = script.pop(0)
        told = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        length = "" if status == 304 else f"Content-Length: {len(text.encode())}\r\n"
        begins = f"HTTP/1.1 {status} Said\r\nConnection: close\r\n{told}{length}\r\n"
        await stream.send_all((begins + (text[: len(text) // 2] if cut else text)).encode())
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", asked
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(NODE is None, reason=NO_NODE)
@pytest.mark.parametrize("server", ["30"], indirect=True)  # six seconds an article: each job is found at work once
async def test_n8n_walks_every_node(server: Server, tmp_path: Path) -> None:
    """By both triggers, through cuts. A job that is asked for twice is one article; one that fails says why."""
    ended: list[list[dict[str, Any]]] = []
    with _receiver(server, tmp_path) as receiver, cutting(server.port, seed=3) as network:
        settings = {"server": network.url, "publish_to": f"http://127.0.0.1:{receiver}/articles"}
        asked = {"body": {"topic": "Clocks of the sea", "job": "sea-1"}}
        sand = {"body": {"topic": "Sand"}}

        sand_waits = trio.Event()

        async def walk(trigger: str, item: object) -> None:
            def seen(node: str) -> None:
                if item is sand and node == "As long as it says":
                    sand_waits.set()

            ended.append(await _walk(trigger, item, settings, seen))

        async def cancel() -> None:
            with trio.fail_after(PATIENCE):
                await sand_waits.wait()
                found = {job["input"]["topic"]: job["id"] for job in await _jobs(server)}
            async with Api.open(server.port) as api:
                await api.post(f"/v1/generations/{found['Sand']}/cancel", {"reason": "No more sand."})

        async def calm() -> None:
            await _until(lambda: network.cuts >= 4)
            network.calm()  # n8n itself gives a request up after five tries

        async with trio.open_nursery() as others:
            others.start_soon(calm)
            async with trio.open_nursery() as walks:
                walks.start_soon(walk, "Every morning", {})
                for one in (asked, asked, sand):
                    walks.start_soon(walk, "Somebody asks", one)
                walks.start_soon(cancel)
            others.cancel_scope.cancel()
        assert network.cuts > 0
    last = sorted((steps[-1]["node"], steps[-1].get("error", "")) for steps in ended)
    assert last[:3] == [("Publish it", "")] * 3
    assert last[3][0] == "Say why not"
    assert last[3][1].endswith("ended as cancelled: No more sand.")

    walked = {step["node"] for steps in ended for step in steps}
    nodes = json.loads((FORGE / "workflow.json").read_text(encoding="utf-8"))["nodes"]
    assert walked == {node["name"] for node in nodes}
    await _shelf_is_the_log(server, tmp_path, articles=2)


@pytest.mark.skipif(NODE is None, reason=NO_NODE)
async def test_apps_script_has_one_row_for_each_job(server: Server) -> None:
    """Told by the webhook alone; found through cuts; hints of others, and repetitions, change nothing."""
    with starting([str(NODE), "tests/examples/apps_script.mjs", str(FORGE / "Code.gs")], {}) as script:
        port = json.loads(await script.line())["port"]

        async def do(**asked: Any) -> dict[str, Any]:
            script.write(json.dumps(asked))
            told: dict[str, Any] = json.loads(await script.line())
            return told

        hook = f"http://127.0.0.1:{port}/exec?token=T0P5ECRET"
        await do(properties={"SERVER": server.url, "HOOK": hook, "TOKEN": "T0P5ECRET"})
        await do(call="startArticle", arguments=["=HYPERLINK(moon)"])
        with trio.fail_after(PATIENCE):
            while len((told := await do())["rows"]) < 1:
                await trio.sleep(0.05)
        with trio.fail_after(PATIENCE):
            while not (told := await do())["answers"]:
                await trio.sleep(0.02)
        assert told["answers"] == [200], (
            "what ContentService answers would be a redirect, and the webhook come again"
        )

        with cutting(server.port, seed=11) as network:
            await do(properties={"SERVER": network.url})
            for topic in ("Tides", "Towers"):
                await do(call="startArticle", arguments=[topic])
            with trio.fail_after(PATIENCE):
                while len((told := await do(call="lookAtJobs"))["rows"]) < 3:
                    await trio.sleep(0.05)
            assert network.cuts > 0
        await do(properties={"SERVER": server.url})

        jobs = {job["id"]: job for job in await _jobs(server)}
        async with Api.open(port) as web:
            for token, name in [("T0P5ECRET", row[0]) for row in told["rows"]] + [
                ("guessed", "gen_1"),
                ("T0P5ECRET", "gen_1"),
            ]:
                answer = await web.post(
                    f"/exec?token={token}", {"type": "generation.completed", "data": {"generation": name}}
                )
                assert answer.status_code == 200
            shown = await web.http.get("/exec", follow_redirects=True)
        told = await do(call="lookAtJobs")
        assert sorted(row[0] for row in told["rows"]) == sorted(jobs)
        assert [one["job"] for one in shown.json()] == [row[0] for row in told["rows"]]
        for name, title, text in told["rows"]:
            assert title.lstrip("'") == jobs[name]["result"]["title"]
            assert text.split() == _text(jobs[name]["result"], title=False).split()
        assert told["rows"][0][1] == "'=HYPERLINK(moon)", "no topic becomes a formula"
        assert not [name for name in told["properties"] if name.startswith(("job:", "start:"))]


async def test_receivers_of_both_signatures(server: Server, tmp_path: Path) -> None:
    """The server is killed in the middle of two articles: both are finished, and told. What is forged is not."""
    with _receiver(server, tmp_path) as by_secret, _receiver(server, tmp_path, PAIR.public_text) as by_key:
        async with Api.open(server.port) as api, Api.open(by_key) as hooks:
            jobs = []
            for port in (by_secret, by_key):
                body = {
                    "workflow": "content_forge",
                    "input": {"topic": "Bells", "sections": 4, "words": 80},
                    "webhook": f"http://127.0.0.1:{port}/hook",
                }
                jobs.append((await api.post("/v1/generations", body)).headers["Location"])
            with trio.fail_after(PATIENCE):
                while ((await api.get(jobs[1]))["progress"] or {"done": 0})["done"] < 1:
                    await trio.sleep(0.02)
            await server.kill()
            await server.start()
            for job in jobs:
                events = await api.finished(job)
                assert [event["type"] for event in events].count("generation.started") == 2
            await _until(lambda: len(list((tmp_path / "articles").glob("gen_*.json"))) == 2)
            told: dict[str, Any] = {"type": "generation.completed", "data": {"generation": "gen_1"}}
            forged = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1a,AAAA"}
            for headers in ({}, forged):
                answer = await hooks.http.post("/hook", content=json.dumps(told), headers=headers)
                assert answer.status_code == 401
            # What is signed and cannot be read now is to come again; what is not there is not.
            told["data"] = {"generation": "gen_" + 26 * "0"}
            assert (await _tell(hooks, told)).status_code == 410
            await server.kill()
            assert (await _tell(hooks, told)).status_code == 503
            await server.start()
    await _shelf_is_the_log(server, tmp_path, articles=2)


async def _tell(hooks: Api, told: object) -> httpx2.Response:
    """Sends a webhook as the server would."""
    body, at = json.dumps(told), str(int(datetime.now(UTC).timestamp()))
    signature = base64.b64encode(PAIR.sign(f"msg_1.{at}.{body}".encode())).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": at, "webhook-signature": f"v1a,{signature}"}
    return await hooks.http.post("/hook", content=body, headers=headers)


def test_what_counts_as_signed() -> None:
    """Every way, and every way to forge it."""
    now, body = datetime.now(UTC), b'{"type": "generation.completed"}'
    stranger = new_signing_key()
    at = str(int(now.timestamp()))

    def headers(*signatures: str, at: str = at) -> dict[str, str]:
        return {"webhook-id": "msg_1", "webhook-timestamp": at, "webhook-signature": " ".join(signatures)}

    def v1a(pair: SigningKey, at: str = at, message: str = "msg_1") -> str:
        return "v1a," + base64.b64encode(pair.sign(f"{message}.{at}.".encode() + body)).decode()

    v1 = Webhook(SECRET).sign("msg_1", now, body.decode())
    keys = [stranger.public_text, PAIR.public_text]
    for good in ([v1], [v1a(PAIR)], [v1, v1a(PAIR)], [v1a(stranger), v1], ["v1a,AAAA", "v2,x", v1a(PAIR)]):
        assert is_signed(headers(*good), body, SECRET, keys), good
    assert is_signed(headers(v1), body, SECRET, [])
    assert is_signed(headers(v1a(PAIR)), body, None, keys)

    old = str(int(at) - 301)
    assert not is_signed({}, body, SECRET, keys)
    assert not is_signed(headers(v1), body, None, keys)
    assert not is_signed(headers(v1a(PAIR)), body, SECRET, [])
    assert not is_signed(headers(v1a(stranger)), body, SECRET, [PAIR.public_text])
    assert not is_signed(headers(v1a(PAIR, old), at=old), body, SECRET, keys), "recorded, and sent again"
    assert not is_signed(headers(v1a(PAIR), v1), body + b" ", SECRET, keys)
    assert not is_signed(headers(v1a(PAIR, message="msg_2")), body, SECRET, keys)
    for bad in ("", "v1", "v1a,", "v1a,é", "v1,é", "v1a," + "A" * 88, "v1a " + v1a(PAIR)[4:]):
        assert not is_signed(headers(bad), body, SECRET, keys), bad


@needs_pages
async def test_the_desk_shows_what_the_log_says(server: Server, pages: str) -> None:
    """Jobs of the page and of others, through cuts; the article as it stands in the log; a job that is stopped."""
    async with browsing() as browser, Api.open(server.port) as api:
        page = browser.desktop
        with cutting(server.port, seed=4) as network:
            ALLOWED.append(network.url)
            await page.do("goto", f"{pages}/content_forge/page.html?server={network.url}")
            await page.see("#none")
            await api.post("/v1/generations", {"workflow": "content_forge", "input": {"topic": "From elsewhere"}})
            await page.do("fill", "[name=topic]", "Bells <b>& gongs</b>")
            await page.do("click", "#order button")
            await page.see("#article")
            await page.see("#article #about:has-text('completed')")
            await page.see("#jobs li.completed >> text=From elsewhere")
            await page.see("#jobs li.completed >> text=gongs")
            jobs = {job["input"]["topic"]: job for job in await _jobs(server)}
            assert sorted(jobs) == ["Bells <b>& gongs</b>", "From elsewhere"]
            for topic in sorted(jobs):
                await page.do("click", f"#jobs a:text-is('{topic}')")
                await page.see(f"#title:text-is('{topic}')")
                shown = await page.text("#title") + " " + await page.text("#body")
                assert shown.split() == _text(jobs[topic]["result"]).split()
            await page.do("reload")
            await page.see("#article #about:has-text('completed')")
            assert await page.do("evaluate", "document.querySelectorAll('#jobs li').length") in (0, 1, 2)
            await page.see("#jobs li:nth-child(2)")
        await check_page(page)
        assert await browser.complaints() == []
        assert await browser.hosts() == ["127.0.0.1"]


@needs_pages
async def test_the_desk_stops_a_job(server: Server, pages: str) -> None:
    """On a phone, in the dark: the job is cancelled, and the page says so."""
    async with browsing() as browser, Api.open(server.port) as api:
        phone = browser.phone
        await phone.do("goto", f"{pages}/content_forge/page.html?server={server.url}")
        await phone.do("fill", "[name=sections]", "8")
        await phone.do("fill", "[name=words]", "400")
        await phone.do("click", "#order button")
        await phone.see("#bar")
        await check_page(phone)
        await phone.do("click", "#cancel")
        await phone.see("#article #about:has-text('cancelled')")
        await phone.see("#jobs li.cancelled")
        (job,) = await _jobs(server)
        assert job["status"] == "cancelled"
        assert (await api.get(f"/v1/generations/{job['id']}"))["result"] is None


async def _jobs(server: Server) -> list[Job]:
    """All jobs of the server: of a conversation each."""
    found: list[Job] = []
    async with Api.open(server.port) as api:
        for line in (await api.get("/v1/conversations", limit=100))["conversations"]:
            found += (await api.get(f"/v1/conversations/{line['id']}"))["generations"]
    return found


def _text(article: Mapping[str, Any], *, title: bool = True) -> str:
    parts = [f"{section['heading']}\n{section['text']}" for section in article["sections"]]
    return "\n\n".join([article["title"], *parts] if title else parts)


def _stored(posts: Path) -> dict[str, Any]:
    """The jobs as WordPress keeps them; none before it wrote any."""
    place = posts / ".jobs.json"
    stored: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {"": {}}
    return stored


async def _until(holds: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not holds():
            await trio.sleep(0.02)


async def _walk(
    trigger: str, item: object, settings: Mapping[str, str], seen: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """What each node gave out, in order. `seen` is called with the name of each as it has."""
    command = [str(NODE), str(ROOT / "tests" / "examples" / "n8n_walker.mjs"), str(FORGE / "workflow.json")]
    asked = json.dumps({"trigger": trigger, "item": item, "settings": settings}).encode()
    steps: list[dict[str, Any]] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, command, stdin=asked, stdout=subprocess.PIPE)
            process = await nursery.start(start)
            pending = b""
            async for data in process.stdout:
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    steps.append(json.loads(line))
                    seen(steps[-1].get("node", ""))
    assert steps.pop() == {"end": True}
    return steps


@contextmanager
def _receiver(server: Server, folder: Path, public_key: str | None = None) -> Iterator[int]:
    """The receiver, with a shelf in a folder; its port. It checks with the secret, or with the key alone."""
    env = {"TOKENTAPE_URL": server.url, "CONTENT_FORGE_SHELF": str(folder / "articles")}
    env |= {"WEBHOOK_PUBLIC_KEYS": public_key} if public_key else {"WEBHOOK_SECRET": SECRET}
    command = [sys.executable, "-m", "content_forge.receiver", "0"]
    with starting(command, env, cwd=FORGE.parent) as receiver:
        port = re.match(r"http://127.0.0.1:(\d+)/", receiver.line_now())
        assert port is not None
        yield int(port[1])


async def _shelf_is_the_log(server: Server, folder: Path, *, articles: int) -> None:
    """Each completed job has one file, which holds its result."""
    jobs = [job for job in await _jobs(server) if job["status"] == "completed"]
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "articles").iterdir()}
    assert found == {job["id"]: job["result"] for job in jobs}
    assert len(found) == articles
