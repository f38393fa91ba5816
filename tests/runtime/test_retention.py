"""Ephemeral results are erased some time after their end, remain known as erased, and nothing else is touched."""

import pytest
import trio
from trio.testing import MockClock

from eventstore import Erased
from eventstore.memory_backend import MemoryBackend
from server.event_types import EPHEMERAL
from server.files.memory_file_store import MemoryFileStore
from server.generations.run_context import Run
from server.runtime.retention import ERASE_SECONDS, EXPIRY_SECONDS
from server.workflows import Workflow
from tests.files.conftest import digest_of
from tests.generations.unreliable_logs import events_of

from .run_commands import ended, play, snapshot
from .runtime_process import app, ask, folded, key, process, say


async def test_ephemeral_result_is_erased(autojump_clock: MockClock) -> None:
    """By any process, for all processes; other generations stay, and so does one that still runs."""

    async def work(run: Run) -> str:
        await trio.sleep(200 if run.input else 1)
        return "x"

    log, registry = MemoryBackend(), app(Workflow("w", work))
    async with (
        process(log.process(), registry=registry, ephemeral_seconds=60.0) as here,
        process(log.process(), registry=registry, ephemeral_seconds=60.0) as there,
    ):
        short = await play(here, ephemeral=True)
        long = await play(here, ephemeral=True, input="long")
        lasting = await play(here)
        assert log.streams[short[0]].category == EPHEMERAL
        await ended(here, short)
        assert (await snapshot(there, short)).ephemeral
        await trio.sleep(60 - 2 * ERASE_SECONDS)
        assert (await snapshot(there, short)).result == "x"
        await trio.sleep(4 * ERASE_SECONDS)
        for runtime in (here, there):
            with pytest.raises(Erased):
                await snapshot(runtime, short)
            with pytest.raises(Erased):
                await runtime.conversation(short[0])
            with pytest.raises(Erased):
                await say(runtime, short[0], "still there?")
            assert (await runtime.place(short[1])).stream == short[0], "it is known to have been there"
        assert (await snapshot(here, lasting)).result == "x"
        assert events_of(log, short[0]) == []
        assert (await ended(here, long)).result == "x"
        await trio.sleep(60 + 4 * ERASE_SECONDS)
        with pytest.raises(Erased):
            await snapshot(here, long)
        assert (await snapshot(there, lasting)).result == "x"


async def test_repeated_request_names_the_erased_generation(autojump_clock: MockClock) -> None:
    """Its key is kept, so it is not generated a second time."""

    async def work(run: Run) -> str:
        return "x"

    log, registry = MemoryBackend(), app(Workflow("w", work))
    async with process(log.process(), registry=registry, ephemeral_seconds=10.0) as here:
        first = await play(here, ephemeral=True, key=key("k"))
        await trio.sleep(30)
        assert (await play(here, ephemeral=True, key=key("k")))[0] == first[0]
        assert len(log.streams) == 1


async def test_files_go_with_the_conversations_that_use_them(autojump_clock: MockClock) -> None:
    """Also where the process is lost, or the database of files away, right after a conversation was erased."""

    async def work(run: Run) -> str:
        return "x"

    log, registry = MemoryBackend(), app(Workflow("w", work))
    files = MemoryFileStore(exists=lambda name: not log.streams[name].erased if name in log.streams else None)

    async def has(data: bytes) -> bool:
        return digest_of(data) in await files.describe("default", [digest_of(data)])

    async with process(log.process(), registry=registry, ephemeral_seconds=10.0, files=files) as here:
        short, lasting = await play(here, ephemeral=True), await play(here)
        # Seconds that an upload is kept unused: the one goes long before them, the other stays long after.
        for run, data, kept in ((short, b"short", 3_600.0), (lasting, b"lasting", 60.0)):
            name = data.decode()
            await files.add_chunk(name, 0, data)
            await files.finish_upload(name, "default", digest_of(data), "text/plain", len(data), kept)
            await files.use("default", run[0], [digest_of(data)])
        await ended(here, short)
        await trio.sleep(5)
        assert await has(b"short")
        files.available = False
        await trio.sleep(20)
        with pytest.raises(Erased):
            await snapshot(here, short)
        files.available = True
        await trio.sleep(EXPIRY_SECONDS + 2 * ERASE_SECONDS)
        assert [await has(data) for data in (b"short", b"lasting")] == [False, True]
        assert here.metrics.removed_files == 1


async def test_erasing_resumes_after_an_outage(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> str:
        return "x"

    log, registry = MemoryBackend(), app(Workflow("w", work))
    async with process(log.process(), registry=registry, ephemeral_seconds=10.0, patience=2.0) as here:
        run = await play(here, ephemeral=True)
        await ask(here)
        await trio.sleep(1)
        log.available = False
        await trio.sleep(60)
        log.available = True
        await trio.sleep(2 * ERASE_SECONDS)
        with pytest.raises(Erased):
            await snapshot(here, run)
    assert folded(log, run[0]).position == 0
