"""On real servers and a real database: approvals at the same moment, and a budget that outlasts its server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from eventstore.postgres import PostgresBackend, PostgresOptions
from server.problem import Problem
from tests.clients.api import Api
from tests.generations.fake_agent import FakeAgent, Say
from tests.harness.databases import TestDatabase
from tests.harness.servers import running
from tests.runtime.run_commands import decide, play, snapshot, started
from tests.runtime.runtime_process import process
from tests.transports.command_clients import (
    CommandResult,
    approval,
    send_by_post,
    start_run,
    wait_until,
    waits_for_decision,
)

PATIENCE = 60.0
SHIP = {"name": "ship", "description": "Sends a parcel.", "approvers": 2}


async def test_nobody_who_is_anonymous_counts_as_two(database: TestDatabase) -> None:
    """However many answer at once, at two servers: no approval counts, and one rejection does."""
    asked = {
        "model": "demo",
        "tools": [SHIP],
        "parameters": {"tokens": 2, "rate": 0, "calls": [{"name": "ship", "arguments": {"to": "x"}}]},
    }
    with trio.fail_after(PATIENCE):
        async with (
            running(database.app_url) as first,
            running(database.app_url) as second,
            Api.open(first.port) as api,
            Api.open(second.port) as other,
        ):
            run = await start_run(api, "/v1", asked)
            snapshot = await wait_until(api, run, waits_for_decision)
            [call] = snapshot["tool_calls"]
            assert (snapshot["waiting_for"], call["approvers"], call["approvals"]) == ("approval", 2, [])
            told: list[CommandResult] = []

            async def answer(at: Api, **more: Any) -> None:
                told.append(await send_by_post(at)("decide", run, **approval(call, **more)))

            async with trio.open_nursery() as nursery:
                for at in (api, other) * 5:
                    nursery.start_soon(answer, at)
            assert {(one.status, one.code) for one in told} == {(403, "another_person_required")}
            await answer(other, decision="rejected")
            assert told[-1].status == 200
            log = await api.finished(run)
    assert [event["type"] for event in log if event["type"].startswith("tool.")][-1] == "tool.decided"


@pytest.mark.parametrize("approvers", [2, 3])
async def test_people_who_approve_at_the_same_moment(database: TestDatabase, approvers: int) -> None:
    """In two processes on one database, each person twice: all are heard, and nobody counts twice."""
    people = ("Ada", "Bob", "Cem")[:approvers]
    declared = {**SHIP, "approvers": approvers}
    told: list[str] = []

    def log() -> PostgresBackend:
        return PostgresBackend(PostgresOptions(database.app_url, database.owner_url))

    with trio.fail_after(PATIENCE):
        for _ in range(10):
            model = FakeAgent(Say([["so "]], [("ship", '{"to":"x"}')]), Say([["done"]]))
            told.clear()
            async with process(log(), model) as here, process(log()) as there:
                run = await play(here, model="fake", tools=(declared,))
                [call] = (await started(here, run, text="so ", waiting=1)).tool_calls

                async def approve(by: str, at: Any) -> None:
                    try:
                        await decide(at, run, "approved", by=by, call=call.call)  # noqa: B023  # awaited in here
                    except Problem as problem:
                        told.append(problem.code)

                async with trio.open_nursery() as nursery:
                    for by in people:
                        for at in (here, there):
                            nursery.start_soon(approve, by, at)
                [call] = (await snapshot(there, run)).tool_calls
                assert sorted(call.approvals) == sorted(people), told
                assert call.decision == "approved"
                assert len(told) == approvers


async def test_a_paused_run_outlasts_its_server(database: TestDatabase, tmp_path: Path) -> None:
    """Another server takes it over, and it waits on; raised there, it goes on without a round paid for twice."""
    prices = tmp_path / "prices.toml"
    prices.write_text("[demo]\ninput = 1000\noutput = 1000\n")
    env = {"TOKENTAPE_PRICES": str(prices)}
    asked = {
        "model": "demo",
        "tools": [{**SHIP, "approvers": 1, "approval": "never"}],
        "budget": {"tokens": 1, "cost": 100},
        "parameters": {"tokens": 5, "rate": 0, "calls": [{"name": "ship", "arguments": {"to": "x"}}]},
    }
    with trio.fail_after(PATIENCE):
        async with running(database.app_url, env) as second, Api.open(second.port) as other:
            async with running(database.app_url, env) as first, Api.open(first.port) as api:
                run = await start_run(api, "/v1", asked)
                snapshot = await wait_until(api, run, lambda one: one["tool_calls"])
                [call] = snapshot["tool_calls"]
                told = await send_by_post(api)("tool_result", run, call=call["call"], result={"sent": True})
                while told.code == "not_started":
                    told = await send_by_post(api)("tool_result", run, call=call["call"], result={"sent": True})
                assert told.status == 200, told
                await wait_until(api, run, lambda one: one["waiting_for"] == "budget")
                await first.kill()
            snapshot = await wait_until(other, run, lambda one: one["attempt"] == 2)
            assert (snapshot["status"], snapshot["waiting_for"]) == ("waiting", "budget")
            refused = await send_by_post(other)("budget", run, tokens=1)
            assert (refused.status, refused.code) == (422, "invalid_budget")
            told = await send_by_post(other)("budget", run, tokens=10_000)
            assert (told.status, told.body["status"], told.body["waiting_for"]) == (200, "running", None)
            log = await other.finished(run)
            snapshot = await other.get(run)
    kinds = [event["type"] for event in log]
    assert kinds[-1] == "generation.completed"
    assert (kinds.count("budget.reached"), kinds.count("budget.raised")) == (1, 1)
    counted = snapshot["usage"]["input_tokens"] + snapshot["usage"]["output_tokens"]
    assert snapshot["usage"]["cost"] == counted / 1000
