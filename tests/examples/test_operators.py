"""The operator's terminal and the audit of the service bot: through a bad network, and by two people."""

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from examples.service_bot import audit, operator_terminal
from tests.clients.api import Api
from tests.examples.cutting_proxy import cutting
from tests.examples.programs import Program, starting
from tests.harness.api_keys import make_key
from tests.harness.databases import TestDatabase
from tests.harness.servers import ROOT, Server, running

EXAMPLES = ROOT / "examples"
BOT = {"TOKENTAPE_WORKFLOWS": "examples.service_bot.app", "SERVICE_BOT_RATE": "200"}
TICKET = {"workflow": "service_bot", "input": {"text": "It has a dent.", "order": "1017"}}


@pytest.fixture
async def server(database: TestDatabase, shop: Path) -> AsyncIterator[Server]:
    """The bot, without pages."""
    async with running(database.app_url, BOT | {"SERVICE_BOT_SHOP": str(shop)}) as server:
        yield server


async def test_an_operator_at_a_terminal(server: Server, shop: Path) -> None:
    """Modifies, rejects, leaves a note and approves, through cuts and a killed server; the audit tells it all."""
    with cutting(server.port, seed=54) as network, _terminal(network.url) as terminal:
        async with Api.open(server.port) as api:
            run = (await api.post("/v1/generations", TICKET)).headers["Location"]
            shown = await terminal.hear("refund")
            number = _number(shown)
            assert '"cents": 4900' in shown
            terminal.write(f"m {number} cents")
            await terminal.hear("as JSON")
            terminal.write("a 99")
            await terminal.hear("No call of the number '99' waits.")
            await server.kill()
            terminal.write(f'm {number} {{"cents": 2500}}')
            await server.start()
            await terminal.hear("modified by anonymous")
            number = _number(await terminal.hear("close_ticket"))
            terminal.write(f"n {number} She is a regular.")
            terminal.write(f"r {number} Say it nicer")
            await terminal.hear("rejected by anonymous: Say it nicer")
            number = _number(await terminal.hear("close_ticket"))
            terminal.write(f"a {number}")
            await terminal.hear("approved by anonymous")
            events = await api.finished(run)
            assert events[-1]["type"] == "generation.completed", events[-1]
            kinds = [event["type"] for event in events]
            assert kinds.count("tool.decided") == 3
            said = await api.log(f"/v1/conversations/{(await api.get(run))['conversation']}")
            assert [event["type"] for event in said].count("message.posted") == 1
            calls = (await api.get(run))["tool_calls"]
        terminal.write("l")
        await terminal.hear("Nothing waits.")
        terminal.write("q")
        assert await terminal.ended() == 0, terminal.errors()
        order = _order(shop)
        assert (order["refunded"], order["closed"], len(order["messages"])) == (3000, True, 1)
        assert [call["decision"] for call in calls] == [None, None, "modified", "rejected", "approved"]

        while network.cuts == 0:
            await _audit(network.url)
        told = await _audit(network.url)
        assert [call["asked"] for call in told] == [False, False, True, True, True]
        assert [[one["what"] for one in call["decisions"]] for call in told[2:]] == [
            ["modified"],
            ["rejected"],
            ["approved"],
        ]
        assert [call["ran"] for call in told] == [
            call["arguments"] if call["decision"] != "rejected" else None for call in calls
        ]
        assert [call["ran_digest"] for call in told if call["ran"]] == [
            call["arguments_digest"] for call in calls if call["decision"] != "rejected"
        ]
        assert not any(call["faults"] for call in told)
        with starting(
            [sys.executable, "-m", "service_bot.audit"], {"TOKENTAPE_URL": server.url}, cwd=EXAMPLES
        ) as program:
            assert await program.ended() == 0, program.errors()
            text = program.rest()
        for piece in (
            '"cents": 4900',
            '"cents": 2500',
            "asked     nobody",
            "rejected  by anonymous",
            "Say it nicer",
        ):
            assert piece in text
        assert text.count("SHA-256") == len(calls) + 1 + len([call for call in told if call["ran"]])


async def test_two_people_approve(database: TestDatabase, shop: Path) -> None:
    """Each at a terminal, with a key: nothing runs before both have said yes to the same arguments."""
    keys = [await make_key(database, "read,write,decide") for _ in range(2)]
    auditor = await make_key(database, "audit")
    env = BOT | {"SERVICE_BOT_SHOP": str(shop), "SERVICE_BOT_APPROVERS": "2"}
    async with running(database.app_url, env) as server, Api.open(server.port) as api:
        headers = {"Authorization": f"Bearer {keys[0].text}"}
        started = await api.post("/v1/generations", TICKET, **headers)
        found = started.json()
        with _terminal(server.url, keys[0].text) as ann, _terminal(server.url, keys[1].text) as bob:
            a, b = _number(await ann.hear("refund")), _number(await bob.hear("refund"))
            assert "0 of 2 have approved it" in await ann.line()
            ann.write(f"a {a}")
            await bob.hear("1 of 2 have approved it")
            ann.write(f"a {a}")
            await ann.hear("refused: ")
            # Other arguments: the approval before was of others, and counts no more.
            bob.write(f'm {b} {{"cents": 2600}}')
            await ann.hear('"cents": 2600')
            assert f"1 of 2 have approved it ['{keys[1].id}']" in await ann.hear("have approved it")
            ann.write(f"a {a}")
            await bob.hear(f"modified by {keys[1].id}, {keys[0].id}")
            b = _number(await bob.hear("close_ticket"))
            bob.write(f"a {b}")
            await ann.hear(f"close_ticket: approved by {keys[1].id}")
            with trio.fail_after(40):
                while True:
                    answer = await api.http.get(f"/v1/generations/{found['id']}", headers=headers)
                    if answer.json()["status"] == "completed":
                        break
        assert _order(shop)["refunded"] == 3100
        # Who may read logs and nothing else is told who the two were.
        told = await _audit(server.url, found["conversation"], key=auditor.text)
        (call,) = [call for call in told if len(call["decisions"]) > 1]
        people = [(one["by"], one["what"], one["remaining"]) for one in call["decisions"]]
        assert people == [(keys[0].id, "approved", 1), (keys[1].id, "modified", 1), (keys[0].id, "approved", 0)]
        assert call["ran"] == {"order": "1017", "cents": 2600, "reason": "Dented"}
        assert call["faults"] == []


def _proposed(arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    fields = {"generation": "gen_1", "call": "call_1", "name": "refund", "needs_approval": True, **more}
    digest = audit.digest_of(arguments)
    return {
        "type": "tool.proposed",
        "position": 3,
        "at": "",
        "arguments": arguments,
        "arguments_digest": digest,
        **fields,
    }


def test_a_log_that_was_changed_is_a_fault() -> None:
    """Other arguments under the same digest; a decision on others; a call that ran without its approvals."""
    event = _proposed({"cents": 1})
    assert audit.fold("conv_1", [event])[0].faults == []
    (call,) = audit.fold("conv_1", [event | {"arguments": {"cents": 100}}])
    assert "does not fit" in call.faults[0]
    yes = {
        "type": "tool.decided",
        "call": "call_1",
        "decision": "approved",
        "at": "",
        "position": 4,
        "by": "key_1",
    }
    yes |= {"arguments": {"cents": 1}, "arguments_digest": event["arguments_digest"]}
    (call,) = audit.fold("conv_1", [event, yes | {"proposed_digest": "0" * 64}])
    assert "other arguments" in call.faults[0]
    ran = {"type": "tool.started", "call": "call_1", "at": "", "position": 5}
    assert audit.fold("conv_1", [event, yes | {"proposed_digest": event["arguments_digest"]}, ran])[0].faults == []
    (call,) = audit.fold("conv_1", [event, ran])
    assert "0 of 1 had approved it" in call.faults[0]
    with pytest.raises(ValueError, match="never proposed"):
        audit.fold("conv_1", [ran])


def _order(shop: Path) -> dict[str, Any]:
    order: dict[str, Any] = json.loads(shop.read_text())["orders"]["1017"]
    return order


def test_a_terminal_shows_what_nobody_would_see(capsys: pytest.CaptureFixture[str]) -> None:
    """Characters that reorder the text, that are empty, or that move the cursor, stand there as escapes."""
    desk = operator_terminal.Desk()
    follower = operator_terminal.Follower(cast(operator_terminal.Server, None), desk, "conv_1")
    arguments = {"to": "evil\u202etxt\u3164\x1b[2J", "café": "\U000e0041 naïve"}
    hidden = ["U+202E", "U+3164", "U+E0041"]
    event = _proposed(arguments, hidden_characters=hidden)
    desk.propose(follower, "gen_1", event, event["arguments_digest"])
    said = capsys.readouterr().out
    assert '{"to": "evil\\u202etxt\\u3164\\u001b[2J", "café": "\\udb40\\udc41 naïve"}' in said
    assert "hidden characters" in said
    assert said.replace("\n", "").isprintable()


@contextmanager
def _terminal(url: str, key: str | None = None) -> Iterator[Program]:
    env = {"TOKENTAPE_URL": url} | ({"TOKENTAPE_KEY": key} if key else {})
    with starting([sys.executable, "-m", "service_bot.operator_terminal"], env, cwd=EXAMPLES) as program:
        yield program


def _number(line: str) -> str:
    found = re.match(r"\[(\d+)\] ", line)
    assert found is not None, line
    return found[1]


async def _audit(url: str, *conversations: str, key: str | None = None) -> list[dict[str, Any]]:
    """What the command tells, as JSON."""
    env = {"TOKENTAPE_URL": url} | ({"TOKENTAPE_KEY": key} if key else {})
    command = [sys.executable, "-m", "service_bot.audit", "--json", *conversations]
    with starting(command, env, cwd=EXAMPLES) as program:
        assert await program.ended() == 0, program.errors()
        return [json.loads(line) for line in program.rest().splitlines()]
