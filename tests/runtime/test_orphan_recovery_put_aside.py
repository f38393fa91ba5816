"""An orphaned run or webhook that cannot be recovered is put aside: it ends no process and does not hide the
others.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from pydantic import SecretStr
from trio.testing import MockClock

from eventstore import Append, Event, Snapshot, StoreError
from eventstore.backend import Outcome
from eventstore.memory_backend import MemoryBackend
from server.conversations.fold import OutOfOrder
from server.conversations.state_machine import InvalidTransition
from server.conversations.stored_state import FORM
from server.generations.run_context import Run
from server.runtime.orphan_recovery import LOOK_SECONDS, SUSPECT_SECONDS
from server.webhooks.retry_schedule import WebhookOptions
from server.webhooks.webhook_events import stream_of
from server.workflows import Workflow
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import Wrapped

from .run_commands import At, ended, kinds, play, started
from .runtime_process import app, of, process

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOOKS = WebhookOptions(secret=SecretStr(SECRET), pause=0.1)
URL = "http://93.184.216.34/"
SOON = SUSPECT_SECONDS + 3 * LOOK_SECONDS


async def _again(run: Run) -> int:
    await run.token(f"{run.attempt}")
    if run.attempt == 1:
        await trio.sleep_forever()
    return run.attempt


AGAIN = app(Workflow("w", _again))


class RefusingBackend(Wrapped):
    """A database that refuses every append to some streams."""

    def __init__(self, inside: Any, *streams: str) -> None:
        super().__init__(inside)
        self.streams = set(streams)

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        whole = [one for one in batch if one.stream not in self.streams]
        taken = iter(await super().append(whole)) if whole else iter(())
        return [StoreError("refused") if one.stream in self.streams else next(taken) for one in batch]


def _raw(log: MemoryBackend, run: At, kind: str, data: str = "{}") -> None:
    stream = log.streams[run[0]]
    stream.events.append(Event(stream.head + 1, kind, stream.events[-1].at, run[1], data))


def _store(log: MemoryBackend, run: At, data: str) -> None:
    log.streams[run[0]].snapshots.setdefault(FORM, {})[2] = Snapshot(2, data)


def _impossible(log: MemoryBackend, run: At) -> None:
    _raw(log, run, "generation.cancelled")
    _raw(log, run, "token", '{"delta":"x"}')


def _hole(log: MemoryBackend, run: At) -> None:
    del log.streams[run[0]].events[1]


def _trimmed(log: MemoryBackend, run: At) -> None:
    stream = log.streams[run[0]]
    stream.earliest = stream.head
    del stream.events[:-1]


def _nothing(log: MemoryBackend, run: At) -> None:
    pass


Break = Callable[[MemoryBackend, At], None]
UNREADABLE: dict[str, Break] = {
    "impossible move": _impossible,
    "hole": _hole,
    "no JSON": partial(_raw, kind="generation.started", data="{"),
    "missing field": partial(_raw, kind="generation.started"),
}
READABLE: dict[str, Break] = {
    "newer type": partial(_raw, kind="generation.teleported"),
    "stored snapshot of another shape": partial(_store, data='{"id":5}'),
    "stored snapshot that is no JSON": partial(_store, data="{"),
    "stored snapshot that is no object": partial(_store, data="[1]"),
}


async def _lost(log: MemoryBackend, number: int, **options: Any) -> list[At]:
    async with process(log.process(), FakeUpstream(FOREVER), registry=AGAIN, webhooks=HOOKS) as lost:
        runs = [await play(lost, **options) for _ in range(number)]
        for run in runs:
            await started(lost, run, text="1")
    return runs


@pytest.mark.parametrize("how", UNREADABLE)
async def test_run_that_cannot_be_folded_is_put_aside(how: str, lines: Any, autojump_clock: MockClock) -> None:
    """By recovery and by a request for its snapshot. The other runs are taken over at once."""
    log = MemoryBackend()
    first, broken, last = await _lost(log, 3)
    UNREADABLE[how](log, broken)
    before = kinds(log, broken)
    async with process(log.process(), registry=AGAIN) as here:
        await trio.sleep(SOON)
        assert [(await ended(here, run)).result for run in (first, last)] == [2, 2]
        assert here.supervisor.metrics.put_aside == 1
        for ask in (here.conversation(broken[0]), here.generation(broken[1])):
            with pytest.raises((InvalidTransition, OutOfOrder, KeyError, msgspec.DecodeError)):
                await ask
        await trio.sleep(100)
        assert kinds(log, broken) == before, "nothing is ended because it could not be understood"
    told = [line for line in lines if line["event"] == "not taken over: put aside"]
    assert {line["writer"] for line in told} == {broken[1]}
    assert 3 < len(told) < 7, "less and less often"


@pytest.mark.parametrize("how", READABLE)
async def test_run_readable_without_its_snapshot_is_recovered(how: str, autojump_clock: MockClock) -> None:
    """From the events where a stored snapshot is useless, and past events that only a newer server knows."""
    log = MemoryBackend()
    (run,) = await _lost(log, 1)
    READABLE[how](log, run)
    async with process(log.process(), registry=AGAIN) as here:
        assert (await here.conversation(run[0])).generation(run[1]) is not None
        assert (await ended(here, run)).result == 2
        assert here.supervisor.metrics.put_aside == 0


async def test_run_whose_events_are_trimmed_is_ended(autojump_clock: MockClock) -> None:
    """No process can tell any more what it was."""
    log = MemoryBackend()
    broken, other = await _lost(log, 2)
    _trimmed(log, broken)
    async with process(log.process(), registry=AGAIN) as here:
        assert (await ended(here, other)).result == 2
        assert fields(log.streams[broken[0]].events[-1])["error"]["code"] == "worker_lost"
        assert log.streams[broken[0]].writers[broken[1]].closed


@pytest.mark.parametrize("on_crash", ["restart", "fail"])
async def test_run_whose_append_is_refused_is_tried_again(
    on_crash: Any, lines: Any, autojump_clock: MockClock
) -> None:
    """Whether it is taken over or ended; it succeeds when the database accepts the append."""
    log = MemoryBackend()
    first, broken, last = await _lost(log, 3, on_crash=on_crash)
    view = RefusingBackend(log.process(), broken[0])
    async with process(view, registry=AGAIN) as here:
        await trio.sleep(SOON)
        for run in (first, last):
            await ended(here, run)
        assert here.supervisor.metrics.put_aside == 1
        view.streams.clear()
        await ended(here, broken)
        await trio.sleep(2)
        assert here.supervisor.metrics.put_aside == 0
    the_end(of(log, *broken))


HOOK_BREAKS: dict[str, Break] = {
    "missing field": partial(_raw, kind="webhook.tried"),
    "no JSON": partial(_raw, kind="webhook.tried", data="{"),
    "first of another type": lambda log, run: log.streams[run[0]].events.__setitem__(
        0, Event(1, "conversation.started", log.now(), None, "{}")
    ),
    "refused": _nothing,
}


@pytest.mark.parametrize("how", HOOK_BREAKS)
async def test_broken_webhook_is_put_aside(how: str, autojump_clock: MockClock) -> None:
    """The other webhooks are delivered, and the run of the broken webhook is recovered."""
    log = MemoryBackend()
    first, broken, last = await _lost(log, 3, webhook=URL)
    hook = stream_of(broken[1])
    HOOK_BREAKS[how](log, (hook, ""))
    view = RefusingBackend(log.process(), *([hook] if how == "refused" else []))
    async with process(view, registry=AGAIN, webhooks=HOOKS) as here:
        await trio.sleep(SOON)
        for run in (first, last):
            assert here.webhooks.drives(stream_of(run[1]))
        assert not here.webhooks.drives(hook)
        assert (await ended(here, broken)).result == 2
        assert here.supervisor.metrics.put_aside == (how != "first of another type")


async def test_server_without_a_webhook_secret_leaves_webhooks_to_others(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    (run,) = await _lost(log, 1, webhook=URL)
    async with process(log.process(), registry=AGAIN) as here:
        await ended(here, run)
        await trio.sleep(100)
        assert here.supervisor.metrics.put_aside == 0
    async with process(log.process(), registry=AGAIN, webhooks=HOOKS) as there:
        await trio.sleep(SOON)
        assert there.webhooks.drives(stream_of(run[1]))


async def test_many_orphans_are_taken_over_within_max_runs(autojump_clock: MockClock) -> None:
    """A process takes only what it has places for, and the rest when places are free again."""
    log = MemoryBackend()
    runs = await _lost(log, 30)
    async with process(log.process(), registry=app(Workflow("w", _slowly)), max_runs=10) as here:
        most = 0
        while here.supervisor.metrics.taken_over < len(runs):
            await trio.sleep(0.1)
            most = max(most, here.supervisor.load)
        for run in runs:
            assert (await ended(here, run)).status == "completed"
    assert most == 10


async def _slowly(run: Run) -> None:
    await run.token("x")
    await trio.sleep(5)


async def test_recovery_survives_an_unexpected_error(lines: Any, autojump_clock: MockClock) -> None:
    """A bug in one look ends no process, and the next look is made."""

    class Odd(Wrapped):
        odd = True

        async def around(self, name: str, call: Any) -> Any:
            if name == "open_writers" and self.odd:
                raise KeyError("a verdict of a newer database")
            return await call()

    log = MemoryBackend()
    (run,) = await _lost(log, 1)
    view = Odd(log.process())
    async with process(view, registry=AGAIN) as here:
        await trio.sleep(10)
        view.odd = False
        assert (await ended(here, run)).result == 2
    assert any(line["event"] == "orphan recovery failed" for line in lines)
