"""Fields that a provider wants back in the next request of an agent come back unchanged, also from another
process.
"""

from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.providers import Finish, ToolCall
from server.wire_formats import encode_event
from tests.generations.fake_agent import USAGE, FakeAgent, Say
from tests.generations.run_owner import fields
from tests.generations.unreliable_logs import events_of

from .run_commands import decide, ended, events, play, snapshot, started
from .runtime_process import app, process
from .tool_examples import RefundTool

CARRY: Any = {
    "anthropic": [{"type": "thinking", "thinking": "é😀", "signature": "c2ln"}, 2**60 + 1, None, "\ufffd"]
}
CALLED: Any = {"openai": {"id": "g1", "extra_content": {"google": {"thought_signature": "c2lnbmF0dXJl"}}}}


def agent_with_carry(carry: Any, *calls: Any) -> FakeAgent:
    """A model that makes one call per entry of `calls` in its first turn, each with that entry as its carried
    fields.
    """
    wanted = tuple(ToolCall(f"p{n}", "refund", '{"order": 7}', one) for n, one in enumerate(calls))
    return FakeAgent(Say([["so "]], finish=Finish("tool_calls", USAGE, wanted, carry=carry)), Say([["done"]]))


def carried_back(agent: FakeAgent) -> tuple[Any, list[Any]]:
    """What the last request carried back: with the answer, and with each call."""
    (message,) = [one for one in agent.asked[-1].messages if one.calls]
    return message.carry, [call.carry for call in message.calls]


CASES = [
    (CARRY, [CALLED]),
    (None, [CALLED]),
    (CARRY, [None]),
    (None, [None]),
    ("", [0]),
    (CARRY, [None, CALLED, 1]),
]


@pytest.mark.parametrize(("carry", "calls"), CASES)
async def test_next_request_carries_the_fields_back(
    carry: Any, calls: list[Any], autojump_clock: MockClock
) -> None:
    log, agent = MemoryBackend(), agent_with_carry(carry, *calls)
    async with process(log.process(), agent, registry=app(RefundTool(approval="never").tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        await ended(here, run)
    assert carried_back(agent) == (carry, calls)
    first, last = (fields(event) for event in events(log, run, "step.finished"))
    assert ("carry" in first) is ((carry, set(map(str, calls))) != (None, {"None"}))
    assert "carry" not in last, "nothing is wanted back of an answer that calls nothing"


@pytest.mark.parametrize(("carry", "calls"), CASES)
async def test_next_request_from_another_process_carries_the_fields_back(
    carry: Any, calls: list[Any], autojump_clock: MockClock
) -> None:
    """The process is killed between the two requests, while a person is asked, in the first and second attempt."""
    log, first, second, third = MemoryBackend(), *(agent_with_carry(carry, *calls) for _ in range(3))
    registry = app(RefundTool().tool)
    async with process(log.process(), first, registry=registry) as lost:
        run = await play(lost, model="fake", tools=("refund",), on_crash="restart")
        await started(lost, run, text="so ", waiting=len(calls))
    async with process(log.process(), second, registry=registry) as lost:
        await started(lost, run, text="so ", waiting=len(calls), attempt=2)
    async with process(log.process(), third, registry=registry) as here:
        await started(here, run, text="so ", waiting=len(calls), attempt=3)
        await decide(here, run, "modified", {"order": 8})
        for call in (await snapshot(here, run)).tool_calls[1:]:
            await decide(here, run, "rejected", call=call.call)
        found = await ended(here, run)
    assert (found.status, found.text) == ("completed", "so done")
    assert [len(agent.asked) for agent in (first, second, third)] == [1, 0, 1]
    assert carried_back(third) == (carry, calls)


async def test_clients_never_see_carried_fields(autojump_clock: MockClock) -> None:
    log, agent = MemoryBackend(), agent_with_carry(CARRY, CALLED)
    async with process(log.process(), agent, registry=app(RefundTool(approval="never").tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        found = await ended(here, run)
    assert "c2ln" not in str(found)
    assert "c2ln" in "".join(event.data for event in events_of(log, run[0]))
    sent = b"".join(map(encode_event, events_of(log, run[0])))
    assert b"c2ln" not in sent
    assert b'"carry"' not in sent
    for event in events(log, run, "step.finished"):
        shown = msgspec.json.decode(encode_event(event))
        stored = {name: value for name, value in fields(event).items() if name != "carry"}
        assert {name: shown[name] for name in stored} == stored
