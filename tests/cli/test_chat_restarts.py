"""`tokentape chat` when the server dies, or the network fails, within an answer."""

import json

import trio

from tests.cli.command_runner import tokentape
from tests.cli.virtual_terminal import on_terminal
from tests.faults.readers import read_log
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.proxy import cuttable
from tests.harness.servers import Server, running


async def _log(server: Server) -> list[dict[str, object]]:
    async with http_client(server.url) as client:
        name = (await client.get("/v1/conversations")).json()["conversations"][0]["id"]
    return await read_log(f"{server.url}/v1/conversations/{name}/events")


def _squeezed(text: str) -> str:
    """The text without spaces and line ends, because a narrow terminal wraps rows."""
    return "".join(text.split())


def _text(log: list[dict[str, object]], generation: object) -> str:
    return "".join(str(one["delta"]) for one in log if one["type"] == "token" and one["generation"] == generation)


async def test_chat_survives_a_killed_server(database: TestDatabase) -> None:
    """It waits, says how the answer ended, and asks again at Enter; the screen shows the whole log once."""
    async with running(database.app_url) as server:
        words = ("chat", "--url", server.url, "-p", "tokens=200", "-p", "rate=50")
        async with on_terminal(*words) as it:
            await it.until("›")
            it.type("tell me\n")
            await it.until("eleven")
            await server.kill()
            await it.until("reconnecting…")
            await server.start()
            await it.until("worker_lost")
            await it.until("Enter asks again")
            it.type("\n")
            await it.until("200 out")
            await it.prompted()
            it.type("\x04")
            assert await it.end() == 0
        log = await _log(server)
        first, second = (one["generation"] for one in log if one["type"] == "generation.requested")
        lost, whole = _squeezed(_text(log, first)), _squeezed(_text(log, second))
        assert 0 < len(lost) < len(whole)
        shown = _squeezed(it.screen.text)
        begin = shown.index("tellme") + len("tellme")
        assert shown[begin:].startswith(lost + "worker_lost")
        assert shown.count(whole) == 1
        assert shown.count(whole[:40]) == 2  # each answer's beginning once
        assert [one["content"] for one in log if one["type"] == "message.posted"] == ["tell me"]


async def test_json_output_of_a_stopped_server_is_the_log(database: TestDatabase) -> None:
    """Exit status 1, and the error says how to go on."""
    async with running(database.app_url, {"TOKENTAPE_STOP_TIMEOUT": "2"}) as server:
        words = ("chat", "x", "--json", "--url", server.url, "-p", "tokens=5000", "-p", "rate=50")
        async with trio.open_nursery() as nursery:
            done = None

            async def run() -> None:
                nonlocal done
                done = await tokentape(*words)

            nursery.start_soon(run)
            while True:
                try:
                    if len(await _log(server)) > 20:
                        break
                except IndexError:
                    pass
                await trio.sleep(0.02)
            assert await server.stop() == 0
            await server.start()
        assert done is not None
        assert done.status == 1
        log = await _log(server)
        assert [json.loads(line) for line in done.out.splitlines()] == [one for one in log if "generation" in one]
        assert log[-1]["type"] == "generation.failed"
        error = json.loads(done.err.splitlines()[-1])["error"]
        assert error["code"] == "server_stopped"
        assert "--again" in error["next"]
        name = error["next"].split("--conversation ")[1].split()[0]
        again = await tokentape("chat", "--conversation", name, "--again", "--url", server.url, "-p", "tokens=3")
        assert again.status == 0, again.err
        assert again.out == "Nothing was lost.\n"


async def test_cut_connections_leave_no_trace_in_the_answer(database: TestDatabase) -> None:
    """Five cuts, on a pipe and on a terminal."""
    async with running(database.app_url) as server, cuttable(server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        words = ("chat", "x", "--url", url, "-p", "tokens=300", "-p", "rate=100")
        async with on_terminal(*words) as it:
            for word in ("Nobody", "eleven", "“Nothing is lost,”", "Every tape", "patient"):
                await it.until(word)
                before = proxy.connections
                proxy.cut()
                while proxy.connections == before:
                    await it.read()
            await it.until("300 out")
            assert await it.end() == 0
        log = await _log(server)
        text = "".join(str(one["delta"]) for one in log if one["type"] == "token")
        assert _squeezed(it.screen.text).startswith(_squeezed(text) + "1tokenin")
        assert proxy.connections >= 6
        assert "reconnecting" not in it.screen.text


async def test_chat_gives_up_after_its_patience(database: TestDatabase) -> None:
    """Status 3; the text shown so far stays."""
    async with running(database.app_url) as server:
        words = ("chat", "x", "--url", server.url, "-p", "tokens=5000", "-p", "rate=50", "--patience", "1")
        async with on_terminal(*words) as it:
            await it.until("eleven")
            await server.kill()
            assert await it.end() == 3
        assert "no server answers" in it.screen.text
        assert "tokentape serve" in it.screen.text
        assert "Nobody at Café Solano" in it.screen.text
        await server.start()  # `running` ends a server that runs
