"""A server is killed, or stopped, while people talk to its runs.

What was decided is done once, and just that; what nobody knows the outcome of is never done again; what was paid
for is not paid for twice. All of it counted outside of the log.
"""

from datetime import UTC, datetime
from pathlib import Path

import trio

from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import running
from tests.transports.control_clients import approval, begun, by_post, is_asking, until

from .talking import app_settings, calls_of, done, interrupted, line, tool_run

PATIENCE = 60.0


async def test_killed_and_taken_over_by_another(database: TestDatabase, tmp_path: Path) -> None:
    """Decided while nobody drives it; in the middle of a tool; behind a finished step: another server goes on."""
    diary = tmp_path / "diary"
    env = app_settings(diary)
    with trio.fail_after(PATIENCE):
        async with (
            running(database.app_url, env) as first,
            running(database.app_url, env) as second,
            Api.open(first.port) as api,
            Api.open(second.port) as other,
        ):
            asked = await begun(api, "/v1", tool_run("refund", amount=5))
            [call] = (await until(api, asked, is_asking))["tool_calls"]
            mailing = await begun(api, "/v1", tool_run("mail", text="once"))
            storing = await begun(api, "/v1", tool_run("store", text="twice"))
            careful = await begun(api, "/v1", {"workflow": "careful"})
            [going_on] = (await until(api, careful, is_asking))["tool_calls"]
            plain = await begun(api, "/v1", {"model": "demo", "parameters": {"tokens": 1000, "rate": 5}})
            begun_tools = {line("mail", text="once"), line("store", text="twice")}
            while not begun_tools <= done(diary).keys():
                await trio.sleep(0.01)
            await first.kill()
            # Nobody drives it now; the decision is taken all the same, and no other one after it.
            modified = approval(call, decision="modified", arguments={"amount": 4, "to": "Ada"})
            told = await by_post(other)("decide", asked, **modified)
            assert told.status == 200, told
            refused = await by_post(other)("decide", asked, **approval(call))
            assert (refused.status, refused.code) == (409, "already_decided")
            assert done(diary)[line("refund", amount=5, to="the customer")] == 0

            log = await interrupted(other, asked)
            [result] = [event["result"] for event in log if event["type"] == "tool.finished"]
            assert result == {"paid": 4, "to": "Ada"}
            assert calls_of(log) == [f"tool.{what}" for what in ("proposed", "decided", "started", "finished")]

            log = await interrupted(other, mailing)
            [error] = [event["error"] for event in log if event["type"] == "tool.finished"]
            assert error["code"] == "outcome_unknown"
            assert calls_of(log) == ["tool.proposed", "tool.started", "tool.finished"]
            assert log[-1]["type"] == "generation.completed", "the model was told, and went on"

            log = await interrupted(other, storing)
            [result] = [event["result"] for event in log if event["type"] == "tool.finished"]
            assert result == "stored twice"
            assert calls_of(log) == ["tool.proposed", "tool.started", "tool.finished"]

            await by_post(other)("decide", careful, **approval(going_on))
            asking = await until(other, careful, lambda one: is_asking(one) and len(one["tool_calls"]) == 2)
            await by_post(other)("decide", careful, **approval(asking["tool_calls"][1]))
            await interrupted(other, careful)
            snapshot = await other.get(careful)
            assert snapshot["result"] == "fetched 1, again 1"
            assert (snapshot["text"], snapshot["attempt"]) == ("attempt 2", 2)

            log = await other.finished(plain)
            assert (log[-1]["type"], log[-1]["error"]["code"]) == ("generation.failed", "worker_lost")
            assert done(diary) == {
                line("refund", amount=4, to="Ada"): 1,
                line("mail", text="once"): 1,
                line("store", text="twice"): 2,
                line("fetch"): 1,
                line("fetch again"): 1,
            }
            for path in (asked, mailing, storing, careful):
                reasons = [
                    one["reason"] for one in await other.log(path) if one["type"] == "generation.interrupted"
                ]
                assert reasons == ["worker_lost"]
            assert "Traceback" not in second.logged()


async def test_killed_and_started_again(database: TestDatabase, tmp_path: Path) -> None:
    """What a person sees and decides then is what runs, once. A decision that comes too late is refused, also by a
    server that could not run it, and the run goes on as rejected."""
    diary = tmp_path / "diary"
    with trio.fail_after(PATIENCE):
        async with running(database.app_url, app_settings(diary)) as server, running(database.app_url) as bare:
            async with Api.open(server.port) as api:
                asked = await begun(api, "/v1", tool_run("refund", amount=5))
                hurried = await begun(api, "/v1", {"workflow": "hurried"})
                before = await until(api, asked, is_asking)
                [call] = (await until(api, hurried, is_asking))["tool_calls"]
            await server.kill()
            while datetime.now(UTC) < datetime.fromisoformat(call["expires_at"]):
                await trio.sleep(0.05)
            async with Api.open(bare.port) as api:
                late = await by_post(api)("decide", hurried, **approval(call))
                assert (late.status, late.code) == (409, "decision_expired")
                assert (await api.get(hurried))["status"] == "waiting"
            await server.start()
            async with Api.open(server.port) as api:
                after = await until(api, asked, lambda one: one["attempt"] == 2 and is_asking(one))
                assert after["tool_calls"] == before["tool_calls"], "the model is not asked a second time"
                log = await interrupted(api, hurried)
                [decided] = [event for event in log if event["type"] == "tool.decided"]
                assert (decided["decision"], decided["reason"], decided["by"]) == (
                    "rejected",
                    "expired",
                    "tokentape",
                )
                assert (await api.get(hurried))["result"] == "rejected"
                assert done(diary) == {}
                told = await by_post(api)("decide", asked, **approval(after["tool_calls"][0]))
                assert told.status == 200
                log = await interrupted(api, asked)
            assert done(diary) == {line("refund", amount=5, to="the customer"): 1}
            assert calls_of(log) == [f"tool.{what}" for what in ("proposed", "decided", "started", "finished")]
            assert "Traceback" not in server.logged() + bare.logged()


async def test_stopped_with_runs_that_wait(database: TestDatabase, tmp_path: Path) -> None:
    """SIGTERM hands them over: they are interrupted, not failed, and go on under the next server at once."""
    diary = tmp_path / "diary"
    env = {**app_settings(diary), "TOKENTAPE_STOP_TIMEOUT": "2"}
    with trio.fail_after(PATIENCE):
        async with running(database.app_url, env) as server:
            async with Api.open(server.port) as api:
                careful = await begun(api, "/v1", {"workflow": "careful"})
                [call] = (await until(api, careful, is_asking))["tool_calls"]
                conversation = f"/v1/conversations/{(await api.get(careful))['conversation']}"
                behind = await begun(api, conversation, {**tool_run("look", page=1), "if_running": "queue"})
                mailing = await begun(api, "/v1", tool_run("mail", text="once"))
                while line("mail", text="once") not in done(diary):
                    await trio.sleep(0.01)
            assert await server.stop() == 0
            await server.start()
            async with Api.open(server.port) as api:
                assert (await by_post(api)("decide", careful, **approval(call))).status == 200
                found = await until(api, careful, lambda one: is_asking(one) and len(one["tool_calls"]) == 2)
                assert (await api.get(behind))["status"] == "queued", "its turn has not come"
                await by_post(api)("decide", careful, **approval(found["tool_calls"][1]))
                log = await interrupted(api, careful)
                interruption = [event for event in log if event["type"] == "generation.interrupted"]
                assert [(one["attempt"], one["reason"]) for one in interruption] == [(1, "server_stopped")]
                assert (await api.get(careful))["result"] == "fetched 1, again 1"
                log = await api.finished(behind)
                assert log[-1]["type"] == "generation.completed"
                log = await interrupted(api, mailing)
                [error] = [event["error"] for event in log if event["type"] == "tool.finished"]
                assert error["code"] == "outcome_unknown"
            assert done(diary) == {
                line("fetch"): 1,
                line("fetch again"): 1,
                line("look", page=1): 1,
                line("mail", text="once"): 1,
            }
            assert "Traceback" not in server.logged()
