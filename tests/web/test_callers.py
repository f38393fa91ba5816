"""Who gives a command: named in its event, with keys of its own, in the roles and the tenant that it has."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from eventstore import Event
from eventstore.memory_backend import MemoryBackend
from server.conversations.command_types import ANONYMOUS_CALLER, Caller
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.web.commands import command_endpoints as commands
from server.web.commands.command_endpoints import CommandResult
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.generations.unreliable_logs import events_of
from tests.runtime.runtime_process import process

Body = dict[str, Any]
ANN = Caller("ann", "acme", frozenset({"write"}))
BOB = Caller("bob", "acme", frozenset({"write", "roles"}))
ASKED: Body = {"model": "fake", "input": "x"}


async def new_conversation(runtime: ConversationService, caller: Caller) -> str:
    """A conversation that the caller has started."""
    return (await commands.conversation_endpoint(runtime, caller, {}, None)).location.rpartition("/")[2]


async def post(runtime: ConversationService, caller: Caller, role: str) -> CommandResult:
    """A message in a role."""
    conversation = await new_conversation(runtime, caller)
    return await commands.message_endpoint(runtime, caller, conversation, {"role": role, "content": "x"}, None)


async def ask_there(runtime: ConversationService, caller: Caller, role: str) -> CommandResult:
    """A generation in a conversation, with messages, the last of them in the role."""
    conversation = await new_conversation(runtime, caller)
    given = [{"role": "user", "content": "a"}, {"role": role, "content": "b"}]
    return await commands.generation_endpoint(runtime, caller, conversation, {**ASKED, "input": given}, None)


async def ask(runtime: ConversationService, caller: Caller, role: str) -> CommandResult:
    """A generation in a conversation of its own."""
    given = [{"role": role, "content": "b"}, {"role": "user", "content": "a"}]
    return await commands.generation_endpoint(runtime, caller, None, {**ASKED, "input": given}, None)


WAYS: list[Callable[[ConversationService, Caller, str], Awaitable[CommandResult]]] = [post, ask_there, ask]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
@pytest.mark.parametrize("caller", [ANN, BOB, ANONYMOUS_CALLER], ids=lambda caller: caller.subject)
async def test_roles_need_a_scope(way: Any, role: str, caller: Caller) -> None:
    """A refused request leaves nothing in the log, and says which field and which scope."""
    log = MemoryBackend()
    async with process(log.process()) as runtime:
        if role == "user" or "roles" in caller.scopes:
            assert (await way(runtime, caller, role)).status in (201, 202)
            return
        with pytest.raises(Problem) as caught:
            await way(runtime, caller, role)
        assert (caught.value.status, caught.value.code) == (403, "scope_required")
        field = {post: "role", ask_there: "input.1.role", ask: "input.0.role"}[way]
        assert caught.value.extra == {"scope": "roles", "field": field}
        assert caught.value.detail.startswith(f"{field}: messages of the role {role} need the scope roles")
        assert {event.type for name in log.streams for event in events_of(log, name)} <= {"conversation.started"}


async def test_each_event_names_who_acted() -> None:
    """Every command of one caller; the conversation is its tenant's."""
    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(FOREVER)) as runtime:
        conversation = await new_conversation(runtime, BOB)
        await commands.message_endpoint(runtime, BOB, conversation, {"role": "tool", "content": "x"}, None)
        run = await commands.generation_endpoint(runtime, BOB, conversation, ASKED, None)
        assert run.generation is not None
        await commands.cancel_endpoint(runtime, BOB, run.generation, {}, None)
        own = await commands.generation_endpoint(runtime, BOB, None, ASKED, None)
        told = [event for name in log.streams for event in events_of(log, name)]
        by = {event.type: _by(event) for event in told if _by(event) is not None}
        assert by == dict.fromkeys(["message.posted", "generation.requested", "generation.cancelled"], "bob")
        assert (await runtime.conversation(conversation)).tenant == "acme"
        assert own.generation is not None
        assert (await runtime.generation(own.generation))[0].tenant == "acme"


def _by(event: Event) -> str | None:
    by: str | None = json.loads(event.data).get("by")
    return by


async def test_two_callers_may_use_one_key() -> None:
    """Each gets its own answer; with another body under its own key it is refused."""
    log = MemoryBackend()
    async with process(log.process()) as runtime:
        answers = {}
        for caller in (ANN, BOB, Caller("ann", "other", ANN.scopes), ANONYMOUS_CALLER):
            first = await commands.conversation_endpoint(runtime, caller, {"title": "T"}, "the-key")
            assert await commands.conversation_endpoint(runtime, caller, {"title": "T"}, "the-key") == first
            answers[first.location] = caller
            with pytest.raises(Problem, match="key_reused"):
                await commands.conversation_endpoint(runtime, caller, {"title": "X"}, "the-key")
        assert len(answers) == 4


SHIP: Body = {"name": "ship", "description": "Sends a parcel.", "approvers": 2, "another_person": True}


async def test_who_decides_is_the_caller() -> None:
    """Not whoever asked, and no one twice; the snapshot says who has approved, and the log what was declared."""
    log = MemoryBackend()
    model = FakeAgent(Say([["so "]], [("ship", '{"to":"x"}')]), Say([["done"]]))
    people = [Caller(name, "acme", frozenset({"decide"})) for name in ("ann", "bob", "cem")]
    ann, bob, cem = people
    async with process(log.process(), model) as runtime:
        asked = {**ASKED, "tools": [SHIP, {"name": "look", "description": "Looks."}]}
        made = await commands.generation_endpoint(runtime, ann, None, asked, None)
        assert made.generation is not None
        while not (found := (await runtime.generation(made.generation))[1]).tool_calls:
            await trio.sleep(0.01)
        shown = json.loads(made.body)["tools"]
        assert {name: shown[0][name] for name in ("approvers", "another_person")} == {
            "approvers": 2,
            "another_person": True,
        }
        assert not {"approvers", "another_person"} & shown[1].keys(), "as it always was"
        (call,) = found.tool_calls
        yes = {"call": call.call, "decision": "approved", "proposed_digest": call.proposed_digest}

        async def decide(caller: Caller) -> Any:
            assert made.generation is not None
            done = await commands.decision_endpoint(runtime, caller, made.generation, yes, None)
            return json.loads(done.body)["tool_calls"][0]

        for caller, code in ((ann, "another_person_required"), (bob, None), (bob, "already_approved")):
            if code is None:
                told = await decide(caller)
                assert (told["status"], told["approvers"], told["another_person"]) == ("proposed", 2, True)
                assert (told["approvals"], told["by"]) == (["bob"], None)
                continue
            with pytest.raises(Problem, match=code):
                await decide(caller)
        told = await decide(cem)
        assert (told["status"], told["approvals"], told["by"]) == ("approved", ["bob", "cem"], "cem")
