"""The server is killed or stopped while runs wait for people or execute tools.

What was decided is done exactly once; a tool whose outcome is unknown is never repeated; a provider request that
was paid for is not sent twice. Side effects are counted outside of the event log.
"""

from datetime import UTC, datetime
from pathlib import Path

import trio

from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import running
from tests.transports.command_clients import approval, send_by_post, start_run, wait_until, waits_for_decision

from .tool_side_effects import (
    app_settings,
    calls_of,
    count_side_effects,
    log_of_interrupted_run,
    side_effect,
    tool_run,
)

PATIENCE = 60.0


async def test_second_server_takes_over_the_runs_of_a_killed_one(database: TestDatabase, tmp_path: Path) -> None:
    """Killed after a decision, within a tool, and after a finished step."""
    diary = tmp_path / "diary"
    env = app_settings(diary)
    with trio.fail_after(PATIENCE):
        async with (
            running(database.app_url, env) as first,
            running(database.app_url, env) as second,
            Api.open(first.port) as api,
            Api.open(second.port) as other,
        ):
            asked = await start_run(api, "/v1", tool_run("refund", amount=5))
            [call] = (await wait_until(api, asked, waits_for_decision))["tool_calls"]
            mailing = await start_run(api, "/v1", tool_run("mail", text="once"))
            storing = await start_run(api, "/v1", tool_run("store", text="twice"))
            careful = await start_run(api, "/v1", {"workflow": "careful"})
            [going_on] = (await wait_until(api, careful, waits_for_decision))["tool_calls"]
            plain = await start_run(api, "/v1", {"model": "demo", "parameters": {"tokens": 1000, "rate": 5}})
            begun_tools = {side_effect("mail", text="once"), side_effect("store", text="twice")}
            while not begun_tools <= count_side_effects(diary).keys():
                await trio.sleep(0.01)
            await first.kill()
            # Nobody drives it now; the decision is taken all the same, and no other one after it.
            modified = approval(call, decision="modified", arguments={"amount": 4, "to": "Ada"})
            told = await send_by_post(other)("decide", asked, **modified)
            assert told.status == 200, told
            refused = await send_by_post(other)("decide", asked, **approval(call))
            assert (refused.status, refused.code) == (409, "already_decided")
            assert count_side_effects(diary)[side_effect("refund", amount=5, to="the customer")] == 0

            log = await log_of_interrupted_run(other, asked)
            [result] = [event["result"] for event in log if event["type"] == "tool.finished"]
            assert result == {"paid": 4, "to": "Ada"}
            assert calls_of(log) == [f"tool.{what}" for what in ("proposed", "decided", "started", "finished")]

            log = await log_of_interrupted_run(other, mailing)
            [error] = [event["error"] for event in log if event["type"] == "tool.finished"]
            assert error["code"] == "outcome_unknown"
            assert calls_of(log) == ["tool.proposed", "tool.started", "tool.finished"]
            assert log[-1]["type"] == "generation.completed", "the model was told, and went on"

            log = await log_of_interrupted_run(other, storing)
            [result] = [event["result"] for event in log if event["type"] == "tool.finished"]
            assert result == "stored twice"
            assert calls_of(log) == ["tool.proposed", "tool.started", "tool.finished"]

            await send_by_post(other)("decide", careful, **approval(going_on))
            asking = await wait_until(
                other, careful, lambda one: waits_for_decision(one) and len(one["tool_calls"]) == 2
            )
            await send_by_post(other)("decide", careful, **approval(asking["tool_calls"][1]))
            await log_of_interrupted_run(other, careful)
            snapshot = await other.get(careful)
            assert snapshot["result"] == "fetched 1, again 1"
            assert (snapshot["text"], snapshot["attempt"]) == ("attempt 2", 2)

            log = await other.finished(plain)
            assert (log[-1]["type"], log[-1]["error"]["code"]) == ("generation.failed", "worker_lost")
            assert count_side_effects(diary) == {
                side_effect("refund", amount=4, to="Ada"): 1,
                side_effect("mail", text="once"): 1,
                side_effect("store", text="twice"): 2,
                side_effect("fetch"): 1,
                side_effect("fetch again"): 1,
            }
            for path in (asked, mailing, storing, careful):
                reasons = [
                    one["reason"] for one in await other.log(path) if one["type"] == "generation.interrupted"
                ]
                assert reasons == ["worker_lost"]
            assert "Traceback" not in second.logged()


async def test_restarted_server_runs_what_was_decided_once(database: TestDatabase, tmp_path: Path) -> None:
    """A decision that comes too late is refused, also by a server without the workflow, and the run goes on as
    rejected.
    """
    diary = tmp_path / "diary"
    with trio.fail_after(PATIENCE):
        async with running(database.app_url, app_settings(diary)) as server, running(database.app_url) as bare:
            async with Api.open(server.port) as api:
                asked = await start_run(api, "/v1", tool_run("refund", amount=5))
                hurried = await start_run(api, "/v1", {"workflow": "hurried"})
                before = await wait_until(api, asked, waits_for_decision)
                [call] = (await wait_until(api, hurried, waits_for_decision))["tool_calls"]
            await server.kill()
            while datetime.now(UTC) < datetime.fromisoformat(call["expires_at"]):
                await trio.sleep(0.05)
            async with Api.open(bare.port) as api:
                late = await send_by_post(api)("decide", hurried, **approval(call))
                assert (late.status, late.code) == (409, "decision_expired")
                assert (await api.get(hurried))["status"] == "waiting"
            await server.start()
            async with Api.open(server.port) as api:
                after = await wait_until(api, asked, lambda one: one["attempt"] == 2 and waits_for_decision(one))
                assert after["tool_calls"] == before["tool_calls"], "the model is not asked a second time"
                log = await log_of_interrupted_run(api, hurried)
                [decided] = [event for event in log if event["type"] == "tool.decided"]
                assert (decided["decision"], decided["reason"], decided["by"]) == (
                    "rejected",
                    "expired",
                    "tokentape",
                )
                assert (await api.get(hurried))["result"] == "rejected"
                assert count_side_effects(diary) == {}
                told = await send_by_post(api)("decide", asked, **approval(after["tool_calls"][0]))
                assert told.status == 200
                log = await log_of_interrupted_run(api, asked)
            assert count_side_effects(diary) == {side_effect("refund", amount=5, to="the customer"): 1}
            assert calls_of(log) == [f"tool.{what}" for what in ("proposed", "decided", "started", "finished")]
            assert "Traceback" not in server.logged() + bare.logged()


async def test_stopped_server_hands_over_its_waiting_runs(database: TestDatabase, tmp_path: Path) -> None:
    """They are interrupted, not failed, and the next server resumes them at once."""
    diary = tmp_path / "diary"
    env = {**app_settings(diary), "TOKENTAPE_STOP_TIMEOUT": "2"}
    with trio.fail_after(PATIENCE):
        async with running(database.app_url, env) as server:
            async with Api.open(server.port) as api:
                careful = await start_run(api, "/v1", {"workflow": "careful"})
                [call] = (await wait_until(api, careful, waits_for_decision))["tool_calls"]
                conversation = f"/v1/conversations/{(await api.get(careful))['conversation']}"
                behind = await start_run(api, conversation, {**tool_run("look", page=1), "if_running": "queue"})
                mailing = await start_run(api, "/v1", tool_run("mail", text="once"))
                while side_effect("mail", text="once") not in count_side_effects(diary):
                    await trio.sleep(0.01)
            assert await server.stop() == 0
            await server.start()
            async with Api.open(server.port) as api:
                assert (await send_by_post(api)("decide", careful, **approval(call))).status == 200
                found = await wait_until(
                    api, careful, lambda one: waits_for_decision(one) and len(one["tool_calls"]) == 2
                )
                assert (await api.get(behind))["status"] == "queued", "its turn has not come"
                await send_by_post(api)("decide", careful, **approval(found["tool_calls"][1]))
                log = await log_of_interrupted_run(api, careful)
                interruption = [event for event in log if event["type"] == "generation.interrupted"]
                assert [(one["attempt"], one["reason"]) for one in interruption] == [(1, "server_stopped")]
                assert (await api.get(careful))["result"] == "fetched 1, again 1"
                log = await api.finished(behind)
                assert log[-1]["type"] == "generation.completed"
                log = await log_of_interrupted_run(api, mailing)
                [error] = [event["error"] for event in log if event["type"] == "tool.finished"]
                assert error["code"] == "outcome_unknown"
            assert count_side_effects(diary) == {
                side_effect("fetch"): 1,
                side_effect("fetch again"): 1,
                side_effect("look", page=1): 1,
                side_effect("mail", text="once"): 1,
            }
            assert "Traceback" not in server.logged()
