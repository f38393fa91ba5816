"""Several requests in one conversation: one after the other (`queue`), or the newest instead of the others
(`interrupt`).
"""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.decide import MAX_QUEUED
from server.generations.run_context import Run
from server.problem import Problem
from server.workflows import Workflow
from tests.generations.fake_upstream import FOREVER, FakeUpstream, Step
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import Mute, Slow

from .run_commands import At, ended, events, kinds, play, snapshot
from .runtime_process import app, cancel, folded, key, of, process, refused, say, start


def positions_of_runs(log: MemoryBackend, runs: list[At]) -> list[tuple[int, int]]:
    """The positions of the first and last event of each run."""
    return [(events(log, run, "generation.started")[0].position, the_end(of(log, *run)).position) for run in runs]


async def test_queued_runs_run_in_order(autojump_clock: MockClock) -> None:
    """Requested at two processes, one without notifications; each run's prompt holds what came before it."""
    log, upstream = MemoryBackend(), FakeUpstream(1.0, ("a",), 1.0)
    async with process(log.process(), upstream) as here, process(Mute(log.process()), upstream) as there:
        conversation = await start(here)
        runs = [
            await play((here, there)[number % 2], conversation, model="fake", if_running="queue")
            for number in range(6)
        ]
        assert [(await snapshot(here, run)).status for run in runs[1:]] == ["queued"] * 5
        await say(here, conversation, "meanwhile")
        for run in runs:
            await ended(there, run)
    ordered = [place for span in positions_of_runs(log, runs) for place in span]
    assert ordered == sorted(ordered)
    said = [[one.content for one in prompt.messages] for prompt in upstream.asked]
    assert said == [[], *(["a"] * n + ["meanwhile"] for n in range(1, 6))]


STEPS: tuple[Step, ...] = (0.05, ("a",))


async def test_concurrent_requests_form_one_queue(autojump_clock: MockClock) -> None:
    """None is refused, whatever is appended in between, for example tokens of the running one."""
    log, upstream = MemoryBackend(), FakeUpstream(*STEPS * 20)
    every = ("append", "read")
    async with (
        process(Slow(log.process(), 0.1, only=every), upstream) as here,
        process(Slow(log.process(), 0.1, only=every), upstream) as there,
    ):
        conversation = await start(here)
        runs: list[At] = []

        async def attempt(number: int) -> None:
            runs.append(await play((here, there)[number % 2], conversation, model="fake", if_running="queue"))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(attempt, number)
        for run in runs:
            await ended(here, run)
    asked = {found.id: found.requested_position for found in folded(log, conversation).generations}
    runs.sort(key=lambda run: asked[run[1]])
    ordered = [place for span in positions_of_runs(log, runs) for place in span]
    assert ordered == sorted(ordered)
    assert len(asked) == 8


async def test_queued_run_can_be_cancelled(autojump_clock: MockClock) -> None:
    """Through any process; the runs behind do not wait for it, and it asks no upstream."""
    log, upstream = MemoryBackend(), FakeUpstream(5.0, ("a",))
    async with process(log.process(), upstream) as here, process(log.process()) as there:
        conversation = await start(here)
        runs = [await play(here, conversation, model="fake", if_running="queue") for _ in range(3)]
        await trio.sleep(1)
        assert await cancel(there, *runs[1]) is True
        assert (await snapshot(there, runs[1])).status == "cancelled"
        await ended(here, runs[2])
        assert here.supervisor.runs == {}
    assert kinds(log, runs[1]) == ["generation.requested", "generation.cancelled"]
    assert upstream.opened == 2


async def test_reject_is_refused_while_a_run_is_queued(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(FOREVER)) as here:
        conversation = await start(here)
        runs = [await play(here, conversation, model="fake", if_running="queue") for _ in range(2)]
        await cancel(here, *runs[0])
        with pytest.raises(Problem) as caught:
            await play(here, conversation, model="fake")
        assert refused(caught) == (409, "generation_running")


async def test_queue_is_bounded(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(FOREVER), max_runs=1_000) as here:
        conversation = await start(here)
        runs = [await play(here, conversation, model="fake", if_running="queue") for _ in range(MAX_QUEUED)]
        with pytest.raises(Problem) as caught:
            await play(here, conversation, model="fake", if_running="queue")
        assert refused(caught) == (409, "queue_full")
        assert caught.value.extra == {"limit": MAX_QUEUED}
        await cancel(here, *runs[50])
        await play(here, conversation, model="fake", if_running="queue")


async def test_interrupt_keeps_the_text_so_far(autojump_clock: MockClock) -> None:
    """It cancels the running and all queued generations, and its prompt holds their text."""
    log, upstream = MemoryBackend(), FakeUpstream(("half",), 10.0, (" whole",))
    async with process(log.process(), upstream) as here, process(log.process(), upstream) as there:
        conversation = await start(here)
        runs = [await play(here, conversation, model="fake", if_running="queue") for _ in range(3)]
        await trio.sleep(1)
        newest = await play(there, conversation, model="fake", if_running="interrupt")
        found = await ended(there, newest)
        before = [await snapshot(there, run) for run in runs]
    assert [one.status for one in before] == ["cancelled"] * 3
    assert [one.text for one in before] == ["half", "", ""]
    assert [one.reason for one in before] == [f"interrupted by {newest[1]}"] * 3
    assert found.text == "half whole"
    assert [one.content for one in upstream.asked[-1].messages] == ["half"]
    assert upstream.opened == 2, "none of those that waited had a moment"


async def test_interrupt_with_nothing_running(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        for conversation in (None, await start(here)):
            assert (
                await ended(here, await play(here, conversation, model="fake", if_running="interrupt"))
            ).text == "a"


@pytest.mark.parametrize("delay", [number / 4 for number in range(16)])
async def test_interrupt_sent_twice_does_not_interrupt_itself(delay: float, autojump_clock: MockClock) -> None:
    """With one key, through two processes, however the two overlap."""
    log, upstream = MemoryBackend(), FakeUpstream(30.0, ("a",))
    every = ("append", "read", "find_key")
    async with (
        process(Slow(log.process(), 0.5, only=every), upstream) as here,
        process(Slow(log.process(), 0.5, only=every), upstream) as there,
    ):
        conversation = await start(here)
        first = await play(here, conversation, model="fake")
        await trio.sleep(1)

        async def attempt(one: object, pause: float) -> None:
            await trio.sleep(pause)
            runtime = here if one is here else there
            await play(runtime, conversation, model="fake", if_running="interrupt", key=key("k"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, here, 0.0)
            nursery.start_soon(attempt, there, delay)
        await trio.sleep(100)
        generations = folded(log, conversation).generations
    assert [found.status for found in generations] == ["cancelled", "completed"]
    assert generations[0].id == first[1]


@pytest.mark.parametrize("refusal", ["draining", "unknown_model", "invalid_parameters", "webhooks_not_configured"])
async def test_refused_interrupt_cancels_nothing(refusal: str, autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(("a",), FOREVER)) as here:
        run = await play(here, model="fake")
        await trio.sleep(1)
        if refusal == "draining":
            here.drain.begin(1.0)
        model = "nobody/x" if refusal == "unknown_model" else "fake"
        more: dict[str, Any] = {"bad": 1} if refusal == "invalid_parameters" else {}
        webhook = "https://hooks.example/x" if refusal == "webhooks_not_configured" else None
        with pytest.raises(Problem) as caught:
            await play(here, run[0], model=model, if_running="interrupt", webhook=webhook, **more)
        assert caught.value.code == refusal
        await trio.sleep(1)
        assert (await snapshot(here, run)).status == "running"


async def test_full_server_refuses_an_interrupt(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(("a",), FOREVER), max_runs=1) as here:
        run = await play(here, model="fake")
        await trio.sleep(1)
        with pytest.raises(Problem) as caught:
            await play(here, run[0], model="fake", if_running="interrupt")
        assert refused(caught) == (503, "overloaded")
        assert (await snapshot(here, run)).status == "running"


async def test_workflow_is_queued_too(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> list[str]:
        return [turn.text for turn in await run.context()]

    log, upstream = MemoryBackend(), FakeUpstream(3.0, ("a",))
    async with process(log.process(), upstream, registry=app(Workflow("w", work))) as here:
        first = await play(here, model="fake", said="hi")
        second = await play(here, first[0], if_running="queue")
        assert (await ended(here, second)).result == ["hi", "a"]
    assert fields(the_end(of(log, *second)))["finish_reason"] == "stop"
