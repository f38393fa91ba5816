"""`tokentape replay`: prints a log completely, in its original time, and through a server restart."""

import json
import shlex
import sys
import time
from datetime import datetime, timedelta

import pytest
import trio

from server.cli.replay import ReplayClock
from tests.cli.command_runner import tokentape
from tests.cli.virtual_terminal import on_terminal
from tests.faults.readers import Event, ask, read_log, wait_closed
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server, running

START = datetime.fromisoformat("2026-11-22T10:00:00.000000Z")


async def _recorded(server: Server, tokens: int, rate: int) -> tuple[str, str, list[Event]]:
    run = await ask(server.url, {"model": "demo", "input": "hi", "parameters": {"tokens": tokens, "rate": rate}})
    await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
    log = await read_log(f"{server.url}/v1/conversations/{run['conversation']}/events")
    return run["conversation"], run["id"], log


def _seconds(log: list[Event]) -> float:
    first, last = (datetime.fromisoformat(log[place]["at"]) for place in (0, -1))
    return (last - first).total_seconds()


async def test_instant_replay_of_all_and_of_a_range(database: TestDatabase) -> None:
    """`--instant --json` gives the log, `--from` and `--to` a part; for a generation only its events."""
    async with running(database.app_url) as server:
        name, generation, log = await _recorded(server, 1200, 0)  # more than a page

        async def replay(*words: str) -> list[Event]:
            done = await tokentape("replay", *words, "--json", "--url", server.url)
            assert done.status == 0, done.err
            assert done.err == ""
            return [json.loads(line) for line in done.out.splitlines()]

        assert await replay(name, "--instant") == log
        assert await replay(name, "--pace", "0", "--from", "10", "--to", "700") == log[9:700]
        own = [event for event in log if event.get("generation") == generation]
        assert await replay(generation, "--instant") == own
        assert await replay(generation, "--instant", "--from", "600", "--to", "601") == log[599:601]
        assert await replay(generation, "--instant", "--to", "1") == []
        ahead = await tokentape("replay", name, "--from", "5000", "--url", server.url)
        assert ahead.status == 2
        assert f"ends at position {len(log)}" in ahead.err
        plain = await tokentape("replay", name, "--instant", "--url", server.url)
        assert "".join(event.get("delta", "") for event in log) in plain.out
        assert "message.posted  user: hi" in plain.out
        assert f"{len(log)} events" in plain.err


async def test_replay_keeps_the_pace_and_shortens_pauses(database: TestDatabase) -> None:
    """At pace 2 it takes half of the original time."""
    async with running(database.app_url) as server:
        name, _, log = await _recorded(server, 60, 30)
        before = time.monotonic()
        done = await tokentape("replay", name, "--pace", "2", "--url", server.url)
        assert time.monotonic() - before >= _seconds(log) / 2
        assert "shortened" not in done.err
        name, _, log = await _recorded(server, 2, 1)
        done = await tokentape("replay", name, "--max-gap", "0.1", "--url", server.url)
        assert "1 pause shortened to 0.1 s, 1 s left out" in done.err


@pytest.mark.parametrize(
    ("pace", "gaps", "due", "left_out"),
    [
        (1, [0, 2, 5], [0, 0, 2, 7], 0),
        (4, [4, 20], [0, 1, 6], 0),
        (0.25, [1], [0, 4], 0),
        (1, [60, 1], [0, 5, 6], 55),
        (4, [60], [0, 5], 40),
        (0, [60, 60], [0, 0, 0], 0),
        (1, [-1, 1], [0, 0, 1], 0),
    ],
)
def test_due_times_by_pace_and_longest_pause(
    pace: float, gaps: list[float], due: list[float], left_out: float
) -> None:
    tempo = ReplayClock(pace, 5.0)
    at = START
    tempo.step(at)
    found = [tempo.due]
    for gap in gaps:
        at += timedelta(seconds=gap)
        tempo.step(at)
        found.append(tempo.due)
    assert found == due
    assert tempo.left_out == left_out


async def test_replay_waits_for_a_restarted_server(database: TestDatabase) -> None:
    """The server is killed during the first pages; the rest follows when it is back."""
    async with running(database.app_url) as server:
        name, _, log = await _recorded(server, 1500, 1000)
        words = ("replay", name, "--pace", "0.5", "--url", server.url)
        async with on_terminal(*words) as it:
            await it.until("eleven")
            await server.kill()
            await it.until("reconnecting…")
            await server.start()
            assert await it.end(60) == 0
        text = "".join("".join(event.get("delta", "") for event in log).split())
        assert text in it.screen.squeezed
        assert f"{len(log)} events, up to position {len(log)}" in it.screen.text


async def test_progress_bar_and_ctrl_c(database: TestDatabase) -> None:
    """After Ctrl-C it says where to go on, and that continues exactly."""
    async with running(database.app_url) as server:
        name, _, log = await _recorded(server, 300, 300)
        async with on_terminal("replay", name, "--pace", "0.17", "--url", server.url) as it:
            await it.until("tape in Café")
            await it.until(f"of {len(log)} positions")
            await it.until("of 0:0")
            it.type("\x03")
            await it.until("go on with --from")
            assert await it.end() == 130
        last = next(line for line in it.screen.text.splitlines() if "go on with --from" in line)
        begin = int(last.split("--from ")[1].split(";")[0])
        rest = await tokentape("replay", name, "--instant", "--from", str(begin), "--json", "--url", server.url)
        assert [json.loads(line) for line in rest.out.splitlines()] == log[begin - 1 :]
        shown = "".join("".join(event.get("delta", "") for event in log[: begin - 1]).split())
        assert f"{shown}stoppedafterposition{begin - 1}" in it.screen.squeezed


async def test_closed_pipe_causes_no_error(database: TestDatabase) -> None:
    """As in `… | head -1`."""
    async with running(database.app_url) as server:
        name, _, _ = await _recorded(server, 2000, 0)
        python = shlex.quote(sys.executable)
        command = f"{python} -m server replay {name} --instant --json --url {server.url} | head -n 1"
        done = await trio.run_process(["sh", "-c", command], capture_stdout=True, capture_stderr=True)
        assert done.stdout.count(b"\n") == 1
        assert done.stderr == b""
