"""The bytes of files that all prompts of one process hold: bounded, in order, and with room for other tenants."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from server.files.memory_file_store import MemoryFileStore
from server.generations.run.run_files import (
    LARGE_PROMPT_BYTES,
    MAX_LARGE_BYTES,
    MAX_LARGE_BYTES_OF_TENANT,
    MAX_PROMPT_FILES_BYTES,
    PromptBytes,
    RunFiles,
)
from server.message_parts import FilePart
from server.providers import Message, Prompt
from tests.runtime.uploaded_files import upload

LARGEST = MAX_PROMPT_FILES_BYTES
OF_TENANT = MAX_LARGE_BYTES_OF_TENANT // LARGEST
OF_ALL = MAX_LARGE_BYTES // LARGEST


class Holders:
    """Tasks that hold a place until they are ended."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.prompts = PromptBytes(MAX_LARGE_BYTES, MAX_LARGE_BYTES_OF_TENANT)
        self.inside: list[str] = []
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}

    async def begin(self, name: str, tenant: str, size: int = LARGEST) -> bool:
        """Whether it gets its place at once."""
        self._scopes[name] = trio.CancelScope()
        self._nursery.start_soon(self._hold, name, tenant, size)
        await wait_all_tasks_blocked()
        return name in self.inside

    async def _hold(self, name: str, tenant: str, size: int) -> None:
        with self._scopes[name]:
            async with self.prompts.hold(tenant, size):
                self.inside.append(name)
                try:
                    await trio.sleep_forever()
                finally:
                    self.inside.remove(name)

    async def end(self, name: str) -> None:
        """It gives its place back, or waits no longer."""
        self._scopes[name].cancel()
        await wait_all_tasks_blocked()


async def test_answers_of_one_tenant_keep_nobody_else_waiting() -> None:
    async with trio.open_nursery() as nursery:
        held = Holders(nursery)
        assert [await held.begin(f"a{n}", "acme") for n in range(OF_TENANT)] == [True] * OF_TENANT
        assert not await held.begin("one more", "acme")
        assert not await held.begin("a small one behind it", "acme", LARGE_PROMPT_BYTES)
        assert [await held.begin(f"g{n}", "globex") for n in range(OF_ALL - OF_TENANT)] == [True] * 2
        assert not await held.begin("initech", "initech")
        await held.end("a0")
        assert held.inside[-1] == "one more"
        await held.end("g0")
        assert held.inside[-1] == "initech"
        nursery.cancel_scope.cancel()


async def test_small_prompts_pass_no_large_one_that_waits_for_room() -> None:
    async with trio.open_nursery() as nursery:
        held = Holders(nursery)
        half = LARGEST // 2
        for n in range(2 * OF_ALL - 1):
            assert await held.begin(f"{n}", f"tenant {n % 3}", half)
        assert not await held.begin("large", "initech")
        assert not await held.begin("small", "umbrella", LARGE_PROMPT_BYTES)
        await held.end("large")  # it waits no longer
        assert "small" in held.inside
        nursery.cancel_scope.cancel()
    assert not held.prompts._held
    assert not held.prompts._waiting


@pytest.mark.parametrize(("size", "waits"), [(LARGE_PROMPT_BYTES, False), (LARGE_PROMPT_BYTES + 1, True)])
async def test_a_prompt_waits_for_those_of_its_tenant(size: int, waits: bool) -> None:
    """A small one for nobody; and files that cannot be read leave the place to others."""
    store = MemoryFileStore()
    files = RunFiles(store)
    digest = await upload(store, b"x" * size)

    def prompt(name: str) -> Prompt:
        return Prompt("demo", (Message("user", (FilePart(name, "text/plain", size),)),), {})

    with pytest.raises(Exception, match="no file"):
        async with files.loaded(prompt("0" * 64), "default"):
            pass
    async with trio.open_nursery() as nursery:
        for _ in range(OF_TENANT):
            await nursery.start(_hold, files, LARGEST)
        with trio.move_on_after(0.05) as scope:
            async with files.loaded(prompt(digest), "default") as loaded:
                assert loaded.messages[0].files[0].data == b"x" * size
        assert scope.cancelled_caught is waits
        nursery.cancel_scope.cancel()


async def _hold(files: RunFiles, size: int, *, task_status: trio.TaskStatus[None]) -> None:
    async with files._large.hold("default", size):
        task_status.started()
        await trio.sleep_forever()
