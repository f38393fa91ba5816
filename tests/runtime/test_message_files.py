"""Files in messages: looked up and kept when a message is posted, loaded when a model is asked."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.command_types import StartConversation
from server.files.memory_file_store import MemoryFileStore
from server.generations.run import run_files
from server.message_parts import FilePart, ImagePart, TextPart
from server.problem import Problem
from server.providers import BadParameters, Prompt
from server.workflows import tool
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.run_owner import fields, the_end

from .run_commands import ended, play
from .runtime_process import app, cancel, folded, key, of, process, refused, start
from .uploaded_files import PDF, PNG, TEXT, asking_about, attachment, digest_of, image, posting, upload

UNKNOWN = digest_of(b"never uploaded")


def data_in(prompt: Prompt) -> list[bytes | None]:
    """The bytes that a provider was given."""
    return [part.data for message in prompt.messages for part in message.files]


async def test_posted_file_has_its_type_and_size_in_the_log_and_in_the_state(autojump_clock: MockClock) -> None:
    log, files = MemoryBackend(), MemoryFileStore()
    async with process(log.process(), files=files) as here:
        png, pdf = await upload(files, PNG), await upload(files, PDF)
        conversation = await start(here)
        sent = (TextPart("see"), image(png), attachment(pdf, "a.pdf"), image(png))
        await here.commands.post_message(conversation, posting(sent), None)
        (message,) = (await here.states.latest(conversation)).messages
        shown = ImagePart(png, "image/png", 100)
        assert message.content == (
            TextPart("see"),
            shown,
            FilePart(pdf, "application/pdf", 100, "a.pdf"),
            shown,
        )
        assert folded(log, conversation).messages == (message,)


async def test_file_is_kept_by_the_conversation_that_names_it(autojump_clock: MockClock) -> None:
    log, files = MemoryBackend(), MemoryFileStore()
    async with process(log.process(), files=files) as here:
        posted, asked, unused = [await upload(files, data, seconds=10) for data in (PNG, PDF, TEXT)]
        conversation = await start(here)
        await here.commands.post_message(conversation, posting((image(posted),)), None)
        own = await here.commands.request_generation(None, asking_about((attachment(asked),)), None)
        await trio.sleep(100)
        await files.sweep(10)
        assert (await files.describe("default", [posted, asked, unused])).keys() == {posted, asked}
        assert await files.list_users("", 10) == sorted([conversation, own.stream])


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        ((TextPart("x"), image(UNKNOWN)), "file_unknown", "content.1.file"),
        ((attachment(UNKNOWN),), "file_unknown", "content.0.file"),
        ((image(digest_of(PDF)),), "invalid_request", "content.0.file"),
        ((image(digest_of(TEXT)),), "invalid_request", "content.0.file"),
    ],
)
async def test_refused_parts_append_nothing_and_keep_nothing(
    content: Any, code: str, field: str, autojump_clock: MockClock
) -> None:
    log, files = MemoryBackend(), MemoryFileStore()
    async with process(log.process(), files=files) as here:
        for data in (PDF, TEXT):
            await upload(files, data)
        conversation = await start(here)
        with pytest.raises(Problem) as posted:
            await here.commands.post_message(conversation, posting(content), None)
        with pytest.raises(Problem) as asked:
            await here.commands.request_generation(conversation, asking_about("hi", content), None)
        for caught, name in ((posted, field), (asked, f"input.1.{field}")):
            assert refused(caught) == (422, code)
            assert caught.value.extra["field"] == name
            assert caught.value.detail.startswith(f"{name}: ")
        assert content[-1].digest in posted.value.detail
        assert (await here.states.latest(conversation)).position == 1
        assert await files.list_users("", 10) == []


async def test_another_tenants_file_is_unknown(autojump_clock: MockClock) -> None:
    files = MemoryFileStore()
    async with process(MemoryBackend().process(), files=files) as here:
        theirs = await upload(files, PNG, "rival")
        opened = await here.commands.start_conversation(StartConversation(None, None, "acme"), None)
        with pytest.raises(Problem, match="there is no file"):
            await here.commands.post_message(opened.stream, posting((image(theirs),), "acme"), None)
        with pytest.raises(Problem, match="there is no file"):
            await here.commands.request_generation(None, asking_about((image(theirs),), tenant="acme"), None)


async def test_file_that_the_sweep_removes_in_between_is_unknown(autojump_clock: MockClock) -> None:
    """1. The message's file is looked up; 2. the sweep removes it; 3. the message would name nothing."""

    class SweptStore(MemoryFileStore):
        async def describe(self, *args: Any, **more: Any) -> Any:
            found = await super().describe(*args, **more)
            await trio.sleep(100)
            await self.sweep(10)
            assert not await super().describe(*args, **more)
            return found

    log, files = MemoryBackend(), SweptStore()
    async with process(log.process(), files=files) as here:
        conversation = await start(here)
        content = (image(digest_of(PNG)),)
        for send in (
            partial(here.commands.post_message, conversation, posting(content), None),
            partial(here.commands.request_generation, conversation, asking_about(content), None),
        ):
            await upload(files, PNG, seconds=10)
            with pytest.raises(Problem) as caught:
                await send()
            assert refused(caught) == (422, "file_unknown")
        assert (await here.states.latest(conversation)).position == 1
        assert not here.supervisor.runs


async def test_repeated_message_is_answered_as_before_when_its_file_is_gone(autojump_clock: MockClock) -> None:
    files = MemoryFileStore()
    async with process(MemoryBackend().process(), files=files) as here:
        png = await upload(files, PNG)
        conversation = await start(here)
        first = await here.commands.post_message(conversation, posting((image(png),)), key("one"))
        files._files.clear()
        again = await here.commands.post_message(conversation, posting((image(png),)), key("one"))
        assert (again.first, again.repeated) == (first.first, True)
        with pytest.raises(Problem, match="there is no file"):
            await here.commands.post_message(conversation, posting((image(png),)), key("two"))


async def test_model_is_given_the_bytes_of_all_files_of_the_conversation(autojump_clock: MockClock) -> None:
    upstream, files, log = FakeUpstream(("seen",)), MemoryFileStore(), MemoryBackend()
    async with process(log.process(), upstream, files=files) as here:
        png, pdf = await upload(files, PNG), await upload(files, PDF)
        conversation = await start(here)
        await here.commands.post_message(conversation, posting((image(png), TextPart("this"))), None)
        command = asking_about((attachment(pdf, "a.pdf"), image(png)), "and?")
        await here.commands.request_generation(conversation, command, None)
        found = await ended(here, (conversation, command.generation))
        assert (found.text, found.error) == ("seen", None)
    (prompt,) = upstream.asked
    assert data_in(prompt) == [PNG, PDF, PNG]
    assert [message.text for message in prompt.messages] == ["this", "", "and?"]
    assert prompt.messages[1].files[0].name == "a.pdf"


async def test_agent_loads_the_files_anew_for_each_round(autojump_clock: MockClock) -> None:
    """Between two rounds a run may wait for a person for hours, and holds no bytes meanwhile."""
    agent, log = FakeAgent(Say(calls=[("look", "{}")]), Say((("seen",),))), MemoryBackend()
    loads: list[int] = []
    reading: list[str] = []

    @tool(approval="never")
    async def look() -> str:
        """Looks."""
        loads.append(reading.count(png))
        return "yes"

    class Noting(MemoryFileStore):
        async def read(self, tenant: str, digest: str) -> bytes:
            reading.append(digest)
            return await super().read(tenant, digest)

    files = Noting()
    async with process(log.process(), agent, registry=app(look), files=files) as here:
        png = await upload(files, PNG)
        conversation = await start(here)
        await here.commands.post_message(conversation, posting((image(png), image(png))), None)
        run = await play(here, conversation, model="fake", tools=("look",))
        assert (await ended(here, run)).text == "okseen"
    assert [data_in(prompt) for prompt in agent.asked] == [[PNG, PNG]] * 2
    assert (loads, reading) == ([1], [png] * 2)


async def test_run_waits_for_a_file_store_that_is_away(autojump_clock: MockClock) -> None:
    upstream, files, log = FakeUpstream(("seen",)), MemoryFileStore(), MemoryBackend()
    async with process(log.process(), upstream, files=files) as here:
        png = await upload(files, PNG)
        conversation = await start(here)
        await here.commands.post_message(conversation, posting((image(png),)), None)
        files.available = False
        run = await play(here, conversation, model="fake")
        await trio.sleep(60)
        assert upstream.opened == 0
        files.available = True
        assert (await ended(here, run)).text == "seen"


async def test_run_whose_file_is_gone_fails_with_its_code(autojump_clock: MockClock) -> None:
    upstream, files, log = FakeUpstream(("seen",)), MemoryFileStore(), MemoryBackend()
    async with process(log.process(), upstream, files=files) as here:
        png = await upload(files, PNG)
        conversation = await start(here)
        await here.commands.post_message(conversation, posting((image(png),)), None)
        files._files.clear()
        run = await play(here, conversation, model="fake")
        await ended(here, run)
    end = fields(the_end(of(log, *run)))
    assert end["error"] == {
        "code": "file_unknown",
        "message": f"There is no file {png}, or it is not kept any more.",
    }
    assert (end["retryable"], upstream.opened) == (False, 0)


async def test_too_many_bytes_are_refused_before_the_202(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the conversation holds counts with what the request brings: all of it would be in the prompt."""
    monkeypatch.setattr("server.runtime.run_scheduling.MAX_PROMPT_FILES_BYTES", 250)
    log, files = MemoryBackend(), MemoryFileStore()
    async with process(log.process(), files=files) as here:
        png, pdf = await upload(files, PNG), await upload(files, PDF)
        conversation = await start(here)
        await here.commands.post_message(conversation, posting((image(png),)), None)
        await here.commands.request_generation(conversation, asking_about((attachment(pdf),)), None)
        with pytest.raises(Problem) as caught:
            await here.commands.request_generation(None, asking_about((image(png), image(png), image(png))), None)
        assert refused(caught) == (422, "files_too_large")
        assert caught.value.extra["limit"] == 250


async def test_too_many_bytes_that_came_meanwhile_fail_the_run(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message is posted between the request and the start of a run that waits in its queue."""
    monkeypatch.setattr(run_files, "MAX_PROMPT_FILES_BYTES", 250)
    upstream, files, log = FakeUpstream(("a",), 100.0), MemoryFileStore(), MemoryBackend()
    async with process(log.process(), upstream, files=files) as here:
        png = await upload(files, PNG)
        conversation = await start(here)
        await play(here, conversation, model="fake")
        queued = await play(here, conversation, model="fake", if_running="queue")
        await here.commands.post_message(conversation, posting((image(png),) * 3), None)
        await ended(here, queued)
    error = fields(the_end(of(log, *queued)))["error"]
    assert error["code"] == "files_too_large"
    assert "300 bytes" in error["message"]
    assert "250" in error["message"]


async def test_provider_that_refuses_a_part_is_told_by_the_requests_field(autojump_clock: MockClock) -> None:
    class PickyUpstream(FakeUpstream):
        def check(self, prompt: Prompt) -> None:
            for place, message in enumerate(prompt.messages):
                if message.files:
                    raise BadParameters(f"messages.{place}.content.0", "no files", (place, 0))

    log, files = MemoryBackend(), MemoryFileStore()
    async with process(log.process(), PickyUpstream(), files=files) as here:
        png = await upload(files, PNG)
        conversation = await start(here)
        with pytest.raises(Problem) as asked:
            await here.commands.request_generation(conversation, asking_about("hi", (image(png),)), None)
        assert asked.value.extra["field"] == "input.1.content.0"
        await here.commands.post_message(conversation, posting("hi"), None)
        await here.commands.post_message(conversation, posting((image(png),)), None)
        with pytest.raises(Problem) as stands:
            await here.commands.request_generation(conversation, asking_about("and?"), None)
        assert stands.value.extra["field"] == "messages.1.content.0"
        assert refused(stands) == (422, "invalid_parameters")


async def test_few_large_prompts_are_in_memory_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And small ones do not wait for them."""
    most = 6
    monkeypatch.setattr(run_files, "LARGE_PROMPT_BYTES", 150)
    monkeypatch.setattr(run_files, "MAX_LARGE_BYTES_OF_TENANT", most * 2 * len(PNG))
    upstream, files, log = FakeUpstream(("a",), 10.0), MemoryFileStore(), MemoryBackend()
    async with process(log.process(), upstream, files=files) as here:
        png = await upload(files, PNG)
        large = [asking_about((image(png), image(png))) for _ in range(most + 2)]
        runs = [(await here.commands.request_generation(None, one, None)).stream for one in large]
        await trio.sleep(1)
        assert upstream.open_now == most
        small = asking_about((image(png),))
        await here.commands.request_generation(None, small, None)
        await trio.sleep(1)
        assert upstream.open_now == most + 1
        for stream, one in zip(runs, large, strict=True):
            assert (await ended(here, (stream, one.generation))).error is None


async def test_small_prompts_are_bounded_together(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of them would take more than a few large ones. One that is cancelled as it waits takes no room."""
    monkeypatch.setattr(run_files, "MAX_SMALL_BYTES", 3 * len(PNG) + 50)
    upstream, files, log = FakeUpstream(("a",), 10.0), MemoryFileStore(), MemoryBackend()
    async with process(log.process(), upstream, files=files) as here:
        png = await upload(files, PNG)
        asked = [asking_about((image(png),)) for _ in range(8)]
        runs = [(await here.commands.request_generation(None, one, None)).stream for one in asked]
        await trio.sleep(1)
        assert upstream.open_now == 3
        await cancel(here, runs[4], asked[4].generation)
        await here.commands.request_generation(None, asking_about("no file"), None)
        await trio.sleep(1)
        assert upstream.open_now == 4
        for stream, one in zip(runs, asked, strict=True):
            assert (await ended(here, (stream, one.generation))).error is None
        assert upstream.opened == 8


async def test_file_that_a_running_answer_cannot_take_is_refused(autojump_clock: MockClock) -> None:
    """A message that is delivered now would otherwise end the answer that it is put into."""

    class PickyUpstream(FakeUpstream):
        def check(self, prompt: Prompt) -> None:
            for place, message in enumerate(prompt.messages):
                if any(part.media_type == "application/pdf" for part in message.files):
                    raise BadParameters(f"messages.{place}.content.1", "no PDFs", (place, 1))

    upstream, files, log = PickyUpstream(("a",), 50.0, ("b",)), MemoryFileStore(), MemoryBackend()
    async with process(log.process(), upstream, files=files) as here:
        png, pdf = await upload(files, PNG), await upload(files, PDF)
        conversation = await start(here)
        run = await play(here, conversation, model="fake", said="hi")
        await trio.sleep(10)
        now = replace(posting((TextPart("see"), attachment(pdf))), deliver="now")
        with pytest.raises(Problem) as caught:
            await here.commands.post_message(conversation, now, None)
        assert refused(caught) == (422, "invalid_parameters")
        assert caught.value.detail == "content.1: no PDFs"
        await here.commands.post_message(
            conversation, replace(posting((TextPart("see"), image(png))), deliver="now"), None
        )
        assert (await ended(here, run)).error is None
    assert data_in(upstream.asked[-1]) == [PNG]
    assert [message.text for message in upstream.asked[-1].messages][-1] == "see"
