"""Files in workflows: named by the input, read by the run, given to models, and kept with the conversation."""

from dataclasses import dataclass
from typing import Any

import pytest
import trio
from pydantic import BaseModel, TypeAdapter, ValidationError
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.files.memory_file_store import MemoryFileStore
from server.generations.run_context import Run
from server.message_parts import FilePart, ImagePart, TextPart
from server.problem import Problem
from server.workflows import FileRef, Workflow, find_file_refs, to_jsonable
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.run_owner import fields, the_end

from .run_commands import ended, play
from .runtime_process import app, of, process, refused, start
from .uploaded_files import PDF, PNG, TEXT, attachment, digest_of, image, posting, upload


class Scan(BaseModel):
    pages: list[FileRef]
    cover: FileRef | None = None


async def _count_bytes(run: Run) -> int:
    return sum([len(await run.file(page)) for page in run.input.pages])


COUNTING = app(Workflow("w", _count_bytes, input=Scan, result=int))


async def test_workflow_reads_the_files_that_its_input_names(autojump_clock: MockClock) -> None:
    log, files = MemoryBackend(), MemoryFileStore()
    async with process(log.process(), registry=COUNTING, files=files) as here:
        png, pdf, cover = [await upload(files, data, seconds=10) for data in (PNG, PDF, TEXT)]
        run = await play(here, input={"pages": [png, pdf, png], "cover": cover})
        assert (await ended(here, run)).result == 300
        await trio.sleep(100)
        await files.sweep(10)
        assert (await files.describe("default", [png, pdf, cover])).keys() == {png, pdf, cover}


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ({"pages": [digest_of(b"never uploaded")]}, "file_unknown", digest_of(b"never uploaded")),
        ({"pages": [digest_of(PNG)], "cover": "0" * 64}, "file_unknown", "0" * 64),
        ({"pages": ["x"]}, "invalid_input", "input.pages.0"),
        ({"pages": [digest_of(PNG).upper()]}, "invalid_input", "input.pages.0"),
    ],
)
async def test_input_with_an_unknown_file_is_refused(
    given: dict[str, Any], code: str, said: str, autojump_clock: MockClock
) -> None:
    log, files = MemoryBackend(), MemoryFileStore()
    async with process(log.process(), registry=COUNTING, files=files) as here:
        await upload(files, PNG)
        conversation = await start(here)
        with pytest.raises(Problem) as caught:
            await play(here, conversation, input=given)
        assert refused(caught) == (422, code)
        assert said in caught.value.detail
        assert (await here.states.latest(conversation)).position == 1
        assert not here.supervisor.runs


async def test_request_with_an_unknown_file_interrupts_nothing(autojump_clock: MockClock) -> None:
    """It is refused before anything is cancelled for it."""
    log, files = MemoryBackend(), MemoryFileStore()
    upstream = FakeAgent(Say((("a",), 100.0, ("b",))))
    async with process(log.process(), upstream, registry=COUNTING, files=files) as here:
        conversation = await start(here)
        running = await play(here, conversation, model="fake", said="hi")
        await trio.sleep(1)
        with pytest.raises(Problem) as caught:
            await play(here, conversation, input={"pages": ["0" * 64]}, if_running="interrupt")
        assert refused(caught) == (422, "file_unknown")
        assert (await ended(here, running)).text == "ab"


async def test_run_that_needs_a_file_which_is_not_there_ends_with_its_code(autojump_clock: MockClock) -> None:
    async def read(run: Run) -> int:
        return len(await run.file("0" * 64))

    async def ask(run: Run) -> str:
        content = [{"type": "image", "file": "0" * 64}]
        return (await run.generate("fake", [{"role": "user", "content": content}])).text

    for function in (read, ask):
        log = MemoryBackend()
        async with process(log.process(), registry=app(Workflow("w", function))) as here:
            run = await play(here)
            await ended(here, run)
        error = fields(the_end(of(log, *run)))["error"]
        assert error["code"] == "file_unknown"
        assert "0" * 64 in error["message"]


async def test_context_has_the_parts_of_messages(autojump_clock: MockClock) -> None:
    """And a result may hold them: they are JSON, as in the log."""

    async def work(run: Run) -> Any:
        (said,) = await run.context()
        assert isinstance(said.content, tuple)
        assert said.text == "see\n\nthis"
        return {"parts": said.content, "said": said}

    log, files = MemoryBackend(), MemoryFileStore()
    async with process(log.process(), registry=app(Workflow("w", work)), files=files) as here:
        png = await upload(files, PNG)
        conversation = await start(here)
        sent = (TextPart("see"), image(png), TextPart("this"), attachment(png, "x.png"))
        await here.commands.post_message(conversation, posting(sent), None)
        result = (await ended(here, await play(here, conversation))).result
    known = {"file": png, "media_type": "image/png", "size": 100}
    assert result["parts"] == [
        {"type": "text", "text": "see"},
        {"type": "image", **known},
        {"type": "text", "text": "this"},
        {"type": "file", **known, "name": "x.png"},
    ]
    assert result["said"]["content"] == result["parts"]


async def test_generate_takes_parts_and_the_context(autojump_clock: MockClock) -> None:
    """As objects of the API, as what `tokentape` exports, or as they came."""
    agent = FakeAgent(Say((("seen",),)))

    async def work(run: Run) -> list[str]:
        asked: list[Any] = [
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "file": run.input}]}],
            [
                {
                    "role": "user",
                    "content": [TextPart("a"), ImagePart(run.input), {"type": "file", "file": run.input}],
                }
            ],
            [{"role": "user", "content": (FilePart(run.input, name="x"),)}],
            await run.context(),
            None,
        ]
        return [(await run.generate("fake", messages)).text for messages in asked]

    log, files = MemoryBackend(), MemoryFileStore()
    registry = app(Workflow("w", work, input=FileRef))
    async with process(log.process(), agent, registry=registry, files=files) as here:
        png = await upload(files, PNG)
        conversation = await start(here)
        await here.commands.post_message(conversation, posting((image(png),)), None)
        run = await play(here, conversation, input=png)
        assert (await ended(here, run)).result == ["seen"] * 5
    loaded = [[(part.digest, part.media_type, part.data) for part in one.messages[0].files] for one in agent.asked]
    one = (png, "image/png", PNG)
    assert loaded == [[one], [one, one], [one], [one], [one]]
    assert agent.asked[1].messages[0].text == "a"


@pytest.mark.parametrize("part", [{"type": "audio"}, {}, "x", {"type": "text"}, {"type": "image"}])
async def test_generate_refuses_what_is_no_part(part: Any, autojump_clock: MockClock) -> None:
    async def work(run: Run) -> str:
        with pytest.raises(ValueError, match="no part of a message"):
            await run.generate("fake", [{"role": "user", "content": [part]}])
        return "refused"

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        assert (await ended(here, await play(here))).result == "refused"


@dataclass
class Both:
    first: FileRef
    second: Scan


A, B = FileRef("a" * 64), FileRef("b" * 64)


@pytest.mark.parametrize(
    ("kind", "given", "found"),
    [
        (FileRef, A, [A]),
        (str, A, []),
        (Scan, {"pages": [A, B, A], "cover": B}, [A, B, A, B]),
        (Both, {"first": A, "second": {"pages": [B]}}, [A, B]),
        (dict[str, FileRef], {"x": A}, [A]),
        (dict[FileRef, int], {A: 1}, [A]),
        (tuple[int, FileRef | None], [1, A], [A]),
        (set[FileRef], [A], [A]),
        (FileRef | None, None, []),
    ],
)
def test_files_are_found_wherever_the_type_puts_them(kind: Any, given: Any, found: list[FileRef]) -> None:
    workflow = Workflow("w", _count_bytes, input=kind)
    assert list(find_file_refs(workflow.read_input(to_jsonable(given)))) == found


def test_file_ref_is_told_in_json_schema() -> None:
    """So that a form can offer an upload."""
    schema = TypeAdapter(FileRef).json_schema()
    assert schema == {"type": "string", "pattern": "^[0-9a-f]{64}$", "format": "tokentape-file"}
    with pytest.raises(ValidationError):
        TypeAdapter(FileRef).validate_python("x")
    assert to_jsonable({"ref": A}) == {"ref": "a" * 64}
