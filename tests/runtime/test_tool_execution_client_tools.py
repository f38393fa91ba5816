"""Tools that the client runs: it learns of the call by `tool.started`, and sends one result in time."""

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations import tool_execution
from server.problem import Problem
from tests.generations.run_owner import fields
from tests.generations.unreliable_logs import Mute, Slow

from .run_commands import calls, ended, events, finish, kinds, play, snapshot
from .runtime_process import process
from .tool_examples import SHIP, told, wants


async def test_client_finishes_its_call(autojump_clock: MockClock) -> None:
    log, agent = MemoryBackend(), wants(("ship", '{"to": "Ada"}'))
    async with process(log.process(), agent) as here, process(log.process()) as there:
        run = await play(here, model="fake", tools=(SHIP,))
        with trio.fail_after(60):
            while "tool.started" not in kinds(log, run):
                await trio.sleep(0.1)
        assert (await snapshot(here, run)).status == "running"
        await trio.sleep(1_000)
        await finish(there, run, {"result": {"parcel": 3}})
        await ended(here, run)
    assert told(agent) == ['{"parcel":3}']
    assert fields(events(log, run, "tool.finished")[0])["by"] == "anonymous"


async def test_one_of_many_concurrent_results_wins(autojump_clock: MockClock) -> None:
    log, agent = MemoryBackend(), wants(("ship", "{}"))
    every = ("append", "read", "find_key")
    async with (
        process(Slow(log.process(), 0.3, only=every), agent) as here,
        process(Slow(log.process(), 0.2, only=every)) as there,
    ):
        run = await play(here, model="fake", tools=(SHIP,))
        with trio.fail_after(60):
            while "tool.started" not in kinds(log, run):
                await trio.sleep(0.1)
        answers: list[str] = []

        async def attempt(number: int) -> None:
            try:
                await finish(there if number % 2 else here, run, {"result": number})
            except Problem as problem:
                answers.append(problem.code)
            else:
                answers.append(f"{number}")

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(attempt, number)
        await ended(here, run)
    (event,) = events(log, run, "tool.finished")
    assert len([one for one in answers if one == f"{fields(event)['result']}"]) == 1
    assert set(answers) <= {f"{fields(event)['result']}", "already_finished", "generation_ended"}
    assert told(agent) == [f"{fields(event)['result']}"]


@pytest.mark.parametrize("before", [0.25, 0.0, -0.25])
async def test_client_result_races_with_the_time_limit(
    before: float, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are on their way to the log at once: one of them stands."""
    monkeypatch.setattr(tool_execution, "CLIENT_SECONDS", 100.0)
    log, agent = MemoryBackend(), wants(("ship", "{}"))
    async with process(Slow(log.process(), 1.0), agent) as here, process(Mute(Slow(log.process(), 1.0))) as there:
        run = await play(here, model="fake", tools=(SHIP,))
        with trio.fail_after(60):
            while "tool.started" not in kinds(log, run):
                await trio.sleep(0.1)
        begun = events(log, run, "tool.started")[0].at
        await trio.sleep(100.0 - (log.now() - begun).total_seconds() + 0.5 - before)
        refusals: list[str] = []
        try:
            await finish(there, run, {"result": "late"})
        except Problem as problem:
            refusals.append(problem.code)
        await ended(here, run)
    (call,) = calls(log, run)
    if call.error is None:
        assert (call.result, refusals) == ("late", [])
    else:
        assert call.error["code"] == "client_timeout"
        assert refusals in (["already_finished"], ["generation_ended"])
    if before:
        assert (call.error is None) is (before > 0)


async def test_client_call_survives_a_crash(autojump_clock: MockClock) -> None:
    """The client is still working on it: the call is neither started again nor given up."""
    log, agent = MemoryBackend(), wants(("ship", "{}"))
    async with process(log.process()) as other:
        async with process(log.process(), agent) as lost:
            run = await play(lost, model="fake", tools=(SHIP,))
            with trio.fail_after(60):
                while "tool.started" not in kinds(log, run):
                    await trio.sleep(0.1)
        await finish(other, run, {"error": {"code": "lost", "message": "in the post"}})
        async with process(log.process(), agent) as here:
            await ended(here, run)
    assert kinds(log, run).count("tool.started") == 1
    assert told(agent) == ['{"error":{"code":"lost","message":"in the post"}}']
