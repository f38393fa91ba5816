"""The log goes back under a server: on every way to read it nobody is shown what is not in the log any more.

Either it is shorter now than what was read of it, or it has grown past that with other events. Who holds
something of the past is told, and the caches of this process are none of those who keep it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from eventstore import Event, Rewound, Snapshot, StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from server.conversations.stored_state import FORM, to_stored
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.unreliable_logs import Wrapped
from tests.runtime.runtime_process import ask, folded, say

from .asgi import Answered, Web, _scope, web

HEAD, BACK, GROWN = 5, 3, 7
"""A conversation: started; requested, started, a token, completed. It goes back to before the token."""
FATES = ["shorter", "grown"]


class SignedApp:
    """A server whose log goes back."""

    def __init__(self, log: MemoryBackend, here: Web, conversation: str, generation: str) -> None:
        self.log, self.here, self.conversation, self.generation = log, here, conversation, generation
        self.path = f"/v1/conversations/{conversation}"
        self.events = f"{self.path}/events"

    def go_back(self, fate: str) -> None:
        """As when a standby is promoted that lacked the newest events; and others write to it at once."""
        stream = self.log.streams[self.conversation]
        del stream.events[BACK:]
        if fate == "grown":
            for position in range(BACK + 1, GROWN + 1):
                data = f'{{"message":"msg_{position}","role":"user","content":"other","by":"b"}}'
                stream.events.append(Event(position, "message.posted", self.log.now(), None, data))
            self.log.living[self.here.runtime.store.owner].history_changed("timeline 2 after 1")

    def head(self, fate: str) -> int:
        """Where the log ends now."""
        return GROWN if fate == "grown" else BACK

    async def get(self, path: str, query: str = "", **headers: str) -> Answered:
        """The whole answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.here.ask("GET", path, named, query=query, whole=True)


@asynccontextmanager
async def world() -> AsyncIterator[SignedApp]:
    """Everything was read once: folded, cached, in the tail."""
    log = MemoryBackend()
    async with web(log.process(), FakeUpstream(("phantom",))) as here:
        conversation, generation = await ask(here.runtime)
        found = SignedApp(log, here, conversation, generation)
        while log.streams[conversation].head < HEAD:
            await trio.sleep(0.1)
        await trio.sleep(1)
        for path in (found.path, f"/v1/generations/{generation}", found.events):
            assert (await found.get(path)).status == 200
        yield found


def told_of_rewind(answer: Answered, there: SignedApp, fate: str) -> None:
    """410, with what a client needs to go on."""
    assert (answer.status, answer.code) == (410, "cursor_expired")
    assert answer.json["snapshot"] == there.path
    assert answer.json["head"] == there.head(fate)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("form", ["text/event-stream", "application/x-ndjson"])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_stream(form: str, fate: str, whole: bool, autojump_clock: MockClock) -> None:
    """It ends. Who comes back with a cursor past the end is told so."""
    async with world() as there:
        heard = bytearray()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                query = "" if whole else f"after={HEAD}"
                nursery.start_soon(there.here.follow, there.events, {"Accept": form}, query, heard.extend)
                await trio.sleep(1)
                there.go_back(fate)
        assert (b"phantom" in heard) is whole
        assert b"other" not in heard, "what comes behind a gap"
        again = await there.here.ask("GET", there.events, {"Accept": form}, query=f"after={HEAD}")
        if fate == "shorter":
            assert (again.status, again.code, again.json["head"]) == (400, "cursor_ahead", BACK)
        else:
            assert again.status == 200
        fresh = await there.here.ask("GET", there.events, {"Accept": form})
        assert fresh.status == 200


@pytest.mark.parametrize("fate", FATES)
async def test_a_page(fate: str, autojump_clock: MockClock) -> None:
    async with world() as there:
        there.go_back(fate)
        page = (await there.get(there.events)).json
        assert [event["position"] for event in page["events"]] == list(range(1, there.head(fate) + 1))
        assert "phantom" not in str(page)
        behind = await there.get(there.events, f"after={HEAD}")
        if fate == "shorter":
            assert (behind.status, behind.code) == (400, "cursor_ahead")
        else:
            assert behind.json["next"] == GROWN


@pytest.mark.parametrize("fate", FATES)
async def test_a_message(fate: str, autojump_clock: MockClock) -> None:
    """Who writes has no place in the log to lose: it is taken."""
    async with world() as there:
        there.go_back(fate)
        position = await say(there.here.runtime, there.conversation, "hello")
        assert position == there.head(fate) + 1


@pytest.mark.parametrize("fate", FATES)
async def test_a_held_page(fate: str, autojump_clock: MockClock) -> None:
    async with world() as there:
        answers: list[Answered] = []

        async def hold() -> None:
            answers.append(await there.get(there.events, f"after={HEAD}&wait=20"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await trio.sleep(1)
            there.go_back(fate)
        told_of_rewind(answers[0], there, fate)


@pytest.mark.parametrize("fate", FATES)
async def test_a_held_snapshot(fate: str, autojump_clock: MockClock) -> None:
    """It is answered with what is there now."""
    async with world() as there:
        answers: list[Answered] = []

        async def hold() -> None:
            answers.append(await there.get(there.path, "wait=20", If_None_Match=f'"{HEAD}"'))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await trio.sleep(1)
            there.go_back(fate)
        assert (answers[0].status, answers[0].json["position"]) == (200, there.head(fate))


@pytest.mark.parametrize("fate", FATES)
async def test_a_snapshot(fate: str, autojump_clock: MockClock) -> None:
    """Of the conversation and of its generation; an ETag that lies ahead is no reason for a 304."""
    async with world() as there:
        there.go_back(fate)
        for path in (there.path, f"/v1/generations/{there.generation}"):
            for headers in ({}, {"If_None_Match": f'"{HEAD}"'}):
                found = await there.get(path, **headers)
                assert found.status == 200
                assert "phantom" not in str(found.json)
        state = (await there.get(there.path)).json
        assert state["position"] == there.head(fate)
        assert len(state["messages"]) == (GROWN - BACK if fate == "grown" else 0)
        run = (await there.get(f"/v1/generations/{there.generation}")).json
        assert (run["status"], run["text"], run["position"]) == ("running", "", BACK)


@pytest.mark.parametrize("of", ["conversation", "generation"])
async def test_a_snapshot_at_a_position(of: str, autojump_clock: MockClock) -> None:
    """One that was asked for before is not what stands there now."""
    async with world() as there:
        path = there.path if of == "conversation" else f"/v1/generations/{there.generation}"
        before = (await there.get(path, f"at={BACK + 1}")).json
        assert "phantom" in str(before)
        there.go_back("grown")
        after = (await there.get(path, f"at={BACK + 1}")).json
        assert "phantom" not in str(after)
        assert len(after.get("messages", "x")) == 1


@pytest.mark.parametrize("fate", FATES)
async def test_a_generations_log_is_open_again(fate: str, autojump_clock: MockClock) -> None:
    """Its end is not in the log any more: no 204, and no page says that it is closed."""
    async with world() as there:
        events = f"/v1/generations/{there.generation}/events"
        assert (await there.get(events)).json["closed"] is True
        there.go_back(fate)
        page = (await there.get(events)).json
        assert ([event["position"] for event in page["events"]], page["closed"]) == ([2, 3], False)
        stream = await there.here.ask("GET", events, {"Accept": "text/event-stream"}, query=f"after={BACK}")
        assert stream.status == 200


@pytest.mark.parametrize("fate", FATES)
async def test_a_fold(fate: str, autojump_clock: MockClock) -> None:
    async with world() as there:
        there.go_back(fate)
        runtime = there.here.runtime
        state = await runtime.conversation(there.conversation)
        assert (state.position, len(state.messages)) == (there.head(fate), there.head(fate) - BACK)
        for _ in range(2):
            if fate == "shorter":
                with pytest.raises(Rewound):
                    await runtime.states.at(there.conversation, HEAD)
            else:
                assert len((await runtime.states.at(there.conversation, HEAD)).messages) == HEAD - BACK


async def test_a_stored_snapshot_of_the_past(autojump_clock: MockClock) -> None:
    """It was on its way when the log went back: it is ahead of the log, and not used."""
    async with world() as there:
        state = await there.here.runtime.conversation(there.conversation)
        there.go_back("shorter")
        stored = Snapshot(HEAD, to_stored(state))
        there.log.streams[there.conversation].snapshots.setdefault(FORM, {})[HEAD] = stored
        for _ in range(2):
            assert (await there.here.runtime.conversation(there.conversation)).position == BACK


class SavesLate(Wrapped):
    """A log that is away for those who store a snapshot, until it is `back`."""

    back = False

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if name == "save_snapshot" and not self.back:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable("away")
        return await call()


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_snapshot_that_is_stored_when_the_log_went_back(
    noticed: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was tried before, and is tried again. Kept, it would be taken for true once the log is longer."""
    monkeypatch.setattr("server.runtime.state_cache.STORE_EVERY", HEAD)
    log = MemoryBackend()
    view = SavesLate(log.process())
    async with web(view, FakeUpstream(("phantom",))) as here:
        conversation, _ = await ask(here.runtime)
        while log.streams[conversation].head < HEAD:
            await trio.sleep(0.1)
        await here.runtime.conversation(conversation)
        await trio.sleep(1)
        del log.streams[conversation].events[BACK:]
        if noticed:
            log.living[here.runtime.store.owner].history_changed("timeline 2 after 1")
        view.back = True
        await trio.sleep(5)
    async with web(log.process()) as there:
        for number in range(GROWN):
            await say(there.runtime, conversation, f"other {number}")
    async with web(log.process()) as fresh:
        assert await fresh.runtime.conversation(conversation) == folded(log, conversation)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("whole", [True, False])
async def test_a_websocket(fate: str, whole: bool, autojump_clock: MockClock) -> None:
    async with world() as there:
        query = "after=0" if whole else f"after={HEAD}"
        scope: dict[str, Any] = _scope("websocket", f"{there.path}/ws", {"Host": "localhost:8000"}, query)
        scope |= {"scheme": "ws", "subprotocols": []}
        answers: list[Answered] = []

        async def follow() -> None:
            answers.append(await there.here._run(scope, [{"type": "websocket.connect"}], answers=99))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.sleep(1)
            there.go_back(fate)
        (answer,) = answers
        assert answer.closed == 4410
        assert answer.frames[-1]["code"] == "cursor_expired"
        assert answer.frames[-1]["head"] == there.head(fate)
        assert answer.frames[-1]["snapshot"] == there.path
        assert "other" not in msgspec.json.encode(answer.frames).decode()


async def test_another_database_that_lacks_nothing_costs_no_reader_its_place(autojump_clock: MockClock) -> None:
    """A synchronous standby was promoted: who was shown an event finds it there."""
    async with world() as there:
        heard = bytearray()
        async with trio.open_nursery() as nursery:
            accept = {"Accept": "text/event-stream"}
            nursery.start_soon(there.here.follow, there.events, accept, "", heard.extend)
            await trio.sleep(1)
            there.log.living[there.here.runtime.store.owner].history_changed("timeline 2 after 1")
            await trio.sleep(1)
            await ask(there.here.runtime, there.conversation)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert heard.count(b"phantom") == 2


async def test_who_waits_behind_a_cursor_is_no_reader_that_lost_something(autojump_clock: MockClock) -> None:
    """A held page, and a stream that has sent no event yet: both wait on, and get what comes."""
    async with world() as there:
        answers: list[Answered] = []
        heard = bytearray()

        async def hold() -> None:
            answers.append(await there.get(there.events, f"after={HEAD}&wait=20"))

        async with trio.open_nursery() as nursery:
            accept = {"Accept": "application/x-ndjson"}
            nursery.start_soon(there.here.follow, there.events, accept, f"after={HEAD}", heard.extend)
            nursery.start_soon(hold)
            await trio.sleep(1)
            there.log.living[there.here.runtime.store.owner].history_changed("timeline 2 after 1")
            await trio.sleep(1)
            await ask(there.here.runtime, there.conversation)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert answers[0].status == 200
        assert answers[0].json["events"][0]["position"] == HEAD + 1
        assert heard.count(b"phantom") == 1
