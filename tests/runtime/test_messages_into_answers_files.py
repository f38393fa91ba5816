"""Files in messages that are put into a running answer."""

import pytest
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.budget import Budget
from server.conversations.command_types import PostMessage
from server.files.memory_file_store import MemoryFileStore
from server.ids import new_id
from server.message_parts import Content, TextPart
from server.problem import Problem
from server.providers import BadParameters, Prompt
from tests.generations.fake_upstream import FOREVER

from .run_commands import ended, play, raise_budget, started
from .running_answers import Model, put, written
from .runtime_process import process, refused, start
from .uploaded_files import PDF, PNG, attachment, image, posting, upload


def put_files(content: Content) -> PostMessage:
    return PostMessage(new_id("msg"), "user", content, None, "Ada", deliver="now")


@pytest.mark.parametrize("crash", [False, True], ids=["as it runs", "after a crash"])
async def test_a_file_is_put_into_an_answer(crash: bool, autojump_clock: MockClock) -> None:
    """The provider gets its bytes; a later attempt loads them again."""
    log, files = MemoryBackend(), MemoryFileStore()
    model = Model([["one "], FOREVER], [["two "], FOREVER] if crash else [["two"]], [["three"]])
    sent = (TextPart("what is this?"), image(await upload(files, PNG)))
    async with process(log.process(), files=files) as other:
        async with process(log.process(), model, files=files) as here:
            run = await play(here, model="fake", said="hi", on_crash="restart")
            await started(here, run, text="one ")
            await other.commands.post_message(run[0], put_files(sent), None)
            if crash:
                await started(here, run, text="one two ")
            else:
                await ended(here, run)
        if crash:
            async with process(log.process(), model, files=files) as here:
                await ended(here, run)
    for prompt in model.asked[1:]:
        (part,) = prompt.messages[-1].files
        assert part.data == PNG
    assert len(model.asked) == 2 + crash
    assert model.asked[1:] == [model.asked[1]] * (1 + crash)


@pytest.mark.parametrize(
    ("data", "least"),
    [(PNG, 1_000), (PDF * 1_000, 1_000), (b"words and " * 1_000, 2_500)],
    ids=["image", "PDF", "text"],
)
async def test_the_files_of_a_request_that_is_cut_count(
    data: bytes, least: int, autojump_clock: MockClock
) -> None:
    """For the budget, too: it is reached with the cut, and the model not asked again before somebody raises it."""
    log, files = MemoryBackend(), MemoryFileStore()
    model = Model([["one "], FOREVER], [["two"]])
    async with process(log.process(), model, files=files) as here:
        conversation = await start(here)
        content = (TextPart("what is this?"), attachment(await upload(files, data)))
        await here.commands.post_message(conversation, posting(content), None)
        run = await play(here, conversation, model="fake", budget=Budget(tokens=least))
        await started(here, run, text="one ")
        await put(here, run, "in German")
        await written(log, run, "budget.reached")
        assert model.opened == 1
        await raise_budget(here, run, tokens=100_000)
        found = await ended(here, run)
    assert found.usage is not None
    assert found.usage["input_tokens"] >= least


async def test_a_file_that_the_model_cannot_take_is_refused(autojump_clock: MockClock) -> None:
    """At once, and the answer goes on: it would otherwise fail of somebody's message."""

    class TextOnly(Model):
        def check(self, prompt: Prompt) -> None:
            for number, message in enumerate(prompt.messages):
                if message.files:
                    raise BadParameters("messages", "takes no files", part=(number, 1))

    log, files, model = MemoryBackend(), MemoryFileStore(), TextOnly([["one "], 50.0, ["two"]])
    sent = (TextPart("what is this?"), image(await upload(files, PNG)))
    async with process(log.process(), model, files=files) as here:
        run = await play(here, model="fake", said="hi")
        await started(here, run, text="one ")
        with pytest.raises(Problem) as caught:
            await here.commands.post_message(run[0], put_files(sent), None)
        assert refused(caught) == (422, "invalid_parameters")
        assert caught.value.extra == {"field": "content.1"}
        found = await ended(here, run)
    assert (found.status, found.text, model.opened) == ("completed", "one two", 1)
