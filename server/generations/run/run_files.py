"""Files of runs: their bytes are loaded when a provider is about to be asked, and for workflows that read them.

Owns the bounds of what one prompt, and one process, holds in memory. A prompt keeps no bytes between two requests:
a run may wait for people for hours. Must not know a provider's format, nor how files are stored.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import trio

from eventstore.db_retry import retry_until_available
from server.files.file_store import FileStore, FileUnknown
from server.generations.run.run_errors import RunFailed
from server.message_parts import Content, FilePart
from server.providers import Answer, Message, Prompt, Provider

MAX_PROMPT_FILES_BYTES = 20 * 1_048_576
"""The most bytes of all images and files in one prompt. In base64 they are a third more, and the providers' own
bound of a request is 32 MB."""
LARGE_PROMPT_BYTES = 1_048_576
"""A prompt with more bytes of files than this is large."""
MAX_LARGE_BYTES = 8 * MAX_PROMPT_FILES_BYTES
"""Bytes of files in all large prompts of one process that are being sent or answered; the next one waits. Each
takes about five times its bytes."""
MAX_LARGE_BYTES_OF_TENANT = 6 * MAX_PROMPT_FILES_BYTES
"""Those of one tenant: an answer may take as long as it likes, and other tenants must not wait for that."""
MAX_SMALL_BYTES = 64 * 1_048_576
"""Bytes of files in all other prompts of one process. Hundreds of answers about one photograph each would
otherwise take gigabytes."""
MAX_SMALL_BYTES_OF_TENANT = 48 * 1_048_576
"""Those of one tenant."""


def size_of_files(messages: Iterable[Message]) -> int:
    """The bytes of all files in the messages. One that comes twice is sent twice, and counts twice."""
    return sum(part.size for message in messages for part in message.files)


def too_large(size: int) -> str:
    """The sentence that refuses a prompt with so many bytes of files."""
    return (
        f"The images and files of this prompt have {size:,} bytes together, and a prompt has "
        f"{MAX_PROMPT_FILES_BYTES:,} at most. Send fewer or smaller ones, or go on in a new conversation."
    )


class RunFiles:
    """What the runs of one process do with files."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._large = PromptBytes(MAX_LARGE_BYTES, MAX_LARGE_BYTES_OF_TENANT)
        self._small = PromptBytes(MAX_SMALL_BYTES, MAX_SMALL_BYTES_OF_TENANT)

    def provider(self, provider: Provider, tenant: str) -> Provider:
        """The provider for runs of this tenant: prompts get the bytes of their files when an answer is opened."""
        return _ProviderWithFiles(provider, self, tenant)

    async def read(self, tenant: str, digest: str) -> bytes:
        """The bytes of a file. Waits out an outage of the store. Raises `RunFailed` (`file_unknown`)."""
        try:
            return await retry_until_available(partial(self._store.read, tenant, digest))
        except FileUnknown:
            raise unknown_file(digest) from None

    async def look_up(self, tenant: str, content: Content) -> Content:
        """The content with the types and sizes of its files, where they are missing.

        Waits out an outage of the store. Raises `RunFailed` (`file_unknown`).
        """
        missing = {part.digest for part in content if isinstance(part, FilePart) and not part.media_type}
        if not missing or isinstance(content, str):
            return content
        found = await retry_until_available(partial(self._store.describe, tenant, missing))
        for digest in missing - found.keys():
            raise unknown_file(digest)
        return tuple(
            msgspec.structs.replace(part, media_type=found[part.digest].media_type, size=found[part.digest].size)
            if isinstance(part, FilePart) and part.digest in found
            else part
            for part in content
        )

    @asynccontextmanager
    async def loaded(self, prompt: Prompt, tenant: str) -> AsyncIterator[Prompt]:
        """The prompt with the bytes of its files. Raises `RunFailed` (`files_too_large`, `file_unknown`)."""
        size = size_of_files(prompt.messages)
        if size > MAX_PROMPT_FILES_BYTES:
            raise RunFailed("files_too_large", too_large(size))
        bound = self._large if size > LARGE_PROMPT_BYTES else self._small
        async with bound.hold(tenant, size):
            digests = dict.fromkeys(part.digest for message in prompt.messages for part in message.files)
            data = {digest: await self.read(tenant, digest) for digest in digests}
            yield replace(prompt, messages=tuple(_with_data(message, data) for message in prompt.messages))


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    tenant: str
    size: int
    admitted: trio.Event


class PromptBytes:
    """The bytes of files that prompts of one process hold: at most `most`, and `most_of_tenant` of each tenant.

    Prompts that wait are admitted in their order.
    """

    def __init__(self, most: int, most_of_tenant: int) -> None:
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._held: Counter[str] = Counter()  # by tenant
        self._waiting: list[_Waiting] = []

    @asynccontextmanager
    async def hold(self, tenant: str, size: int) -> AsyncIterator[None]:
        """Waits until there is room for a prompt with so many bytes, and holds it while the context is open."""
        one = _Waiting(tenant, size, trio.Event())
        self._waiting.append(one)
        self._admit()
        try:
            await one.admitted.wait()
            yield
        finally:
            if one.admitted.is_set():
                self._held -= Counter({tenant: size})  # forgets a tenant that holds nothing
            else:
                self._waiting.remove(one)
            self._admit()

    def _admit(self) -> None:
        full = set[str]()
        for one in [*self._waiting]:
            if one.tenant in full or self._held[one.tenant] + one.size > self._most_of_tenant:
                full.add(one.tenant)  # waits for its own; those of other tenants pass by
            elif self._held.total() + one.size > self._most:
                return  # small ones that came later do not pass by, or a large one might never come in
            else:
                self._waiting.remove(one)
                self._held[one.tenant] += one.size
                one.admitted.set()


def unknown_file(digest: str) -> RunFailed:
    """Why a run fails that needs a file which is not there."""
    return RunFailed("file_unknown", f"There is no file {digest}, or it is not kept any more.")


def _with_data(message: Message, data: dict[str, bytes]) -> Message:
    if isinstance(message.content, str):
        return message
    parts = (
        msgspec.structs.replace(part, data=data[part.digest]) if isinstance(part, FilePart) else part
        for part in message.content
    )
    return replace(message, content=tuple(parts))


class _ProviderWithFiles:
    """A `Provider` that asks another one."""

    def __init__(self, provider: Provider, files: RunFiles, tenant: str) -> None:
        self._provider = provider
        self._files = files
        self._tenant = tenant

    def check(self, prompt: Prompt) -> None:
        self._provider.check(prompt)

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Answer]:
        if any(message.files for message in prompt.messages):
            return self._open_loaded(prompt)
        return self._provider.open(prompt)

    @asynccontextmanager
    async def _open_loaded(self, prompt: Prompt) -> AsyncIterator[Answer]:
        async with self._files.loaded(prompt, self._tenant) as loaded, self._provider.open(loaded) as answer:
            yield answer
