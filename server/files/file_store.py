"""What a store of files does: the protocol, and the values that go in and come out.

Owns the contract that `memory_file_store` and `postgres_file_store` both keep; the same tests run on both. A file
is named by its tenant and by the SHA-256 of its bytes. An upload comes in chunks before its digest is known, and
is no file until it is finished. It must not know HTTP, nor how bytes are looked at for their type.

How long a file is kept: an upload for as long as `finish_upload` was told. Once a conversation uses the file, as
long as one that uses it is not erased; with the last of them the file is erased too, unless it was uploaded again
since. What is due is removed by `sweep`.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

DIGEST_PATTERN: Final = "^[0-9a-f]{64}$"
"""A digest as a regular expression, in the syntax that JSON Schema recommends (ECMA-262)."""
MAX_FILE_BYTES: Final = 32 * 1_048_576
"""The default of the setting `TOKENTAPE_MAX_FILE`."""
CHUNK_BYTES: Final = 262_144
"""Bytes of each chunk but the last one of a file, which may be shorter."""
UPLOAD_SECONDS: Final = 3600.0
"""An upload that got no chunk for so long was given up by its client or its server."""
BEGIN_SECONDS: Final = 3600.0
"""A conversation that did not begin within this time after a use was named for it never will: the message that
named the file was refused."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file. `digest`: the SHA-256 of its bytes, 64 lower hex digits. `media_type`: by its content."""

    digest: str
    media_type: str
    size: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FinishedUpload:
    """An upload that is a file now.

    `created`: False where the tenant has had the file before. `expires_at`: when it is removed if no conversation
    uses it.
    """

    file: StoredFile
    created: bool
    expires_at: datetime


class FileUnknown(LookupError):
    """The tenant has no such file, or no more: it expired, or was erased. Whoever named it is to blame."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"there is no file {digest}")
        self.digest = digest


class UploadLost(Exception):
    """Chunks of an upload are gone, because it stood still for `UPLOAD_SECONDS`. Its client may send it again."""


class FileStore(Protocol):
    """Files, uploads that are under way, and which conversations use which file.

    Every method raises `StoreUnavailable` if the database does not answer within the store's patience. Each may be
    called again after that: a chunk is added once, an upload finished once.
    """

    def open(self) -> AbstractAsyncContextManager[None]:
        """Opens the store for as long as the context lasts. Raises `StoreUnavailable` or `DatabaseRefused`."""
        ...

    # -- files

    async def describe(
        self, tenant: str, digests: Collection[str], conversations: Collection[str] | None = None
    ) -> dict[str, StoredFile]:
        """Those of the files that the tenant has, by digest.

        `conversations`: only files that one of these uses; None for all of the tenant.
        """
        ...

    async def read(self, tenant: str, digest: str) -> bytes:
        """All bytes of a file. Raises `FileUnknown`."""
        ...

    def stream(self, tenant: str, digest: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `stop`, None for the end, about `CHUNK_BYTES` at a time.

        Raises `FileUnknown`, also in the middle where the file is removed meanwhile.
        """
        ...

    async def use(self, tenant: str, conversation: str, digests: Collection[str]) -> None:
        """Keeps the files for as long as the conversation is not erased; it may be one that begins just now.

        Call it before the event that names the files is appended. Raises `FileUnknown` for the first one that the
        tenant does not have, and then keeps none for this conversation.
        """
        ...

    # -- uploads

    async def add_chunk(self, upload: str, number: int, data: bytes) -> None:
        """Adds a chunk (0, 1, 2 …) of `CHUNK_BYTES`; the last one may be shorter. `upload`: a random name."""
        ...

    async def finish_upload(
        self, upload: str, tenant: str, digest: str, media_type: str, size: int, unused_seconds: float
    ) -> FinishedUpload:
        """Makes the upload a file, or drops it where the tenant has the file already.

        `unused_seconds`: how long the file is kept while no conversation uses it, counted from now. Raises
        `UploadLost`.
        """
        ...

    async def drop_upload(self, upload: str) -> None:
        """Removes the chunks of an upload that is not finished; nothing where there is none."""
        ...

    # -- housekeeping

    async def list_users(self, after: str, limit: int) -> Sequence[str]:
        """Up to `limit` conversations that use files, by name, behind the name `after`."""
        ...

    async def release(self, conversations: Collection[str]) -> int:
        """Ends the uses of those of the conversations that are erased, or did not begin within `BEGIN_SECONDS`.

        Returns how many uses ended.
        """
        ...

    async def sweep(self, limit: int) -> int:
        """Removes up to `limit` files that are due, and as many uploads that stand still; returns how many.

        A file that a conversation begins to use at the same time is either kept, or `use` raises `FileUnknown`.
        """
        ...
