"""Commands that start conversations and append messages: what is appended, refused, and answered again for the
same key.
"""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from eventstore import Head, KeyReused, StreamUnknown
from eventstore.memory_backend import MemoryBackend
from server.conversations.command_types import StartConversation
from server.ids import new_id
from server.problem import Problem
from tests.generations.run_owner import the_end
from tests.generations.unreliable_logs import events_of

from .runtime_process import ask, asking, key, of, process, refused, say


async def test_starting_a_conversation_appends_its_first_event(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        done = await here.commands.start_conversation(StartConversation("Tea", {"a": 1}), None)
        assert (done.first, done.last, done.repeated) == (1, 1, False)
        state = await here.conversation(done.stream)
        assert (state.title, state.metadata, state.position) == ("Tea", {"a": 1}, 1)
        assert await here.first(done.stream) == state
        assert await here.head(done.stream) == Head(1, 1)
    assert log.streams[done.stream].category == "conversation"


@pytest.mark.parametrize(
    ("tenant", "category"),
    [("default", "conversation"), ("acme", "conversation:acme"), ("a-b_c", "conversation:a-b_c")],
)
async def test_conversation_is_listed_for_its_tenant_alone(
    tenant: str, category: str, autojump_clock: MockClock
) -> None:
    """Whether started by itself or with a generation."""
    log = MemoryBackend()
    async with process(log.process()) as here:
        started = await here.commands.start_conversation(StartConversation(None, None, tenant), None)
        own = await here.commands.request_generation(None, replace(asking(), tenant=tenant), None)
        # The tenant of a conversation that is there stays, whoever asks in it.
        await here.commands.request_generation(started.stream, replace(asking(), tenant="other"), None)
        await here.commands.request_generation(None, replace(asking(), tenant=tenant, ephemeral=True), None)
        for name in (started.stream, own.stream):
            assert (await here.conversation(name)).tenant == tenant
            assert log.streams[name].category == category
        listed = await here.store.list_streams(category, None, 10)
        assert [row.name for row in listed] == [own.stream, started.stream]


async def test_repeated_key_gets_the_same_answer(autojump_clock: MockClock) -> None:
    """In the same process and in another; with another body the key is refused."""
    log = MemoryBackend()
    async with process(log.process()) as here, process(log.process()) as there:
        first = await here.commands.start_conversation(StartConversation("T", None), key("k"))
        for runtime in (here, there):
            again = await runtime.commands.start_conversation(StartConversation("T", None), key("k"))
            assert (again.stream, again.last, again.repeated) == (first.stream, 1, True)
            with pytest.raises(Problem) as caught:
                await runtime.commands.start_conversation(StartConversation("X", None), key("k", b"other"))
            assert refused(caught) == (422, "key_reused")
            assert not isinstance(caught.value.__cause__, KeyReused)
        position = await say(here, first.stream, "hi", key("m"))
        assert await say(there, first.stream, "hi", key("m")) == position
        with pytest.raises(Problem) as caught:
            await say(there, first.stream, "ho", key("m", b"other"))
        assert refused(caught) == (422, "key_reused")
        run = await ask(here, first.stream, key("g"))
        assert (await ask(there, first.stream, key("g")))[0] == run[0]
        with pytest.raises(Problem) as caught:
            await ask(there, first.stream, key("g", b"other"))
        assert refused(caught) == (422, "key_reused")
        await trio.sleep(1)
    assert len(log.streams) == 1
    kinds = [event.type for event in events_of(log, first.stream)]
    assert kinds.count("message.posted") == kinds.count("generation.requested") == 1
    assert the_end(of(log, *run)).type == "generation.completed"


@pytest.mark.parametrize(
    "name", ["conv_01K9ZV3R8QJ4M5N6P7S8T9VWXY", "conv_1", "", "gen_01K9ZV3R8QJ4M5N6P7S8T9VWXY", "conv\0"]
)
async def test_commands_for_an_unknown_conversation_are_not_found(name: str, autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        for act in (lambda: say(here, name, "hi"), lambda: ask(here, name), lambda: here.conversation(name)):
            with pytest.raises(Problem) as caught:
                await act()
            assert refused(caught) == (404, "not_found")
        with pytest.raises(Problem) as caught:
            await here.head(name)
        assert refused(caught) == (404, "not_found")
        with pytest.raises(Problem) as caught:
            await here.place(name)
        assert refused(caught) == (404, "not_found")
        with pytest.raises(Problem) as caught:
            await here.place(new_id("gen"))
        assert refused(caught) == (404, "not_found")
        with pytest.raises(StreamUnknown):
            await here.store.head(name)
    assert log.streams == {}


async def test_title_outlives_the_first_event(autojump_clock: MockClock) -> None:
    """After a trim, the title comes from the fold that is stored or cached."""
    log = MemoryBackend()
    async with process(log.process()) as here:
        done = await here.commands.start_conversation(StartConversation("Tea", None), None)
        await say(here, done.stream, "hi")
        await here.conversation(done.stream)
        await here.store.trim(done.stream, 2)
        assert (await here.first(done.stream)).title == "Tea"
    async with process(log.process()) as cold:
        assert (await cold.first(done.stream)).title is None, "nothing tells it any more; a list goes on"
