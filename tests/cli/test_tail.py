"""`tokentape tail` follows a conversation from any position, through kills and restarts."""

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio_websocket import HandshakeError

from server.client.api import open_websocket
from tests.cli.command_runner import tokentape
from tests.cli.virtual_terminal import on_terminal
from tests.faults.readers import ask, read_log, wait_closed
from tests.harness.databases import TestDatabase
from tests.harness.processes import ROOT
from tests.harness.servers import Server, running


@asynccontextmanager
async def _tailing(server: Server, conversation: str, *words: str) -> AsyncIterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "server", "tail", conversation, "--url", server.url, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_tail_follows_through_a_kill_and_a_stop(database: TestDatabase) -> None:
    """Every event once and in order, though the server was killed, started, stopped and started again."""
    async with running(database.app_url, {"TOKENTAPE_STOP_TIMEOUT": "2"}) as server:
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 50_000, "rate": 100}})
        async with _tailing(server, run["conversation"], "--json") as process:
            assert process.stdout is not None
            got = [await _line(process) for _ in range(50)]
            await server.kill()
            await server.start()
            await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            second = await ask(
                server.url, {"model": "demo", "parameters": {"tokens": 50_000, "rate": 100}}, run["conversation"]
            )
            got += [await _line(process) for _ in range(150)]
            assert await server.stop() == 0
            await server.start()
            await wait_closed(f"{server.url}/v1/generations/{second['id']}/events")
            log = await read_log(f"{server.url}/v1/conversations/{run['conversation']}/events")
            got += [await _line(process) for _ in range(len(log) - len(got))]
            assert got == log


async def test_a_cut_in_the_handshake_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits for an answer that will not come, for a minute unless it is told otherwise."""
    monkeypatch.setattr("server.client.api.CONNECT_SECONDS", 0.1)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, trio.SocketStream.aclose, [listener])
        with trio.fail_after(10), pytest.raises(HandshakeError):
            async with open_websocket(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"):
                raise AssertionError
        nursery.cancel_scope.cancel()
    with warnings.catch_warnings():  # the library leaves the socket of a failed handshake to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def test_after_and_until_end(database: TestDatabase) -> None:
    """And the text of an answer, as a person sees it."""
    async with running(database.app_url) as server:
        run = await ask(server.url, {"model": "demo", "input": "hi", "parameters": {"tokens": 20, "rate": 0}})
        log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
        text = "".join(event["delta"] for event in log if event["type"] == "token")
        shown = await tokentape("tail", run["conversation"], "--url", server.url, "--until-end")
        assert shown.status == 0
        assert text in shown.out
        assert "message.posted  user: hi" in shown.out
        later = await tokentape(
            "tail", run["conversation"], "--url", server.url, "--until-end", "--json", "--after", "10"
        )
        assert [json.loads(line)["position"] for line in later.out.splitlines()] == list(
            range(11, log[-1]["position"] + 1)
        )


async def test_terminal_shows_that_tail_reconnects(database: TestDatabase) -> None:
    """And how long the server has been away. Ctrl-C leaves with status 130."""
    async with running(database.app_url) as server:
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 50_000, "rate": 100}})
        async with on_terminal("tail", run["conversation"], "--url", server.url) as it:
            await it.until("eleven")
            await server.kill()
            await it.until("reconnecting…")
            await server.start()
            await it.until("generation.failed")
            it.type("\x03")
            assert await it.end() == 130
        log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
        text = "".join("".join(event["delta"] for event in log if event["type"] == "token").split())
        assert it.screen.squeezed.count(text) == 1
        assert "reconnecting" not in it.screen.text
        assert it.raw.rfind(b"\x1b[?25h") > it.raw.rfind(b"\x1b[?25l")  # the cursor is shown again


async def test_tail_reports_errors_without_a_traceback(database: TestDatabase) -> None:
    """An unknown conversation, an impossible id and a bad URL."""
    async with running(database.app_url) as server:
        unknown = await tokentape("tail", "conv_00000000000000000000000000", "--url", server.url)
        assert unknown.status == 1
        assert "no such conversation" in unknown.err
    wrong = await tokentape("tail", "conv_x", "--url", "nowhere")
    assert wrong.status == 2
    assert "http://" in wrong.err
    assert "Traceback" not in unknown.err + wrong.err


async def _line(process: "subprocess.Popen[str]") -> object:
    assert process.stdout is not None
    with trio.fail_after(40):
        return json.loads(await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True))
