"""The store of files in memory: for tests, in virtual time too.

Owns the same rules as the SQL of `postgres_file_store`, as plain Python. It must not know PostgreSQL.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import trio

from eventstore import StoreUnavailable
from server.files.file_store import (
    BEGIN_SECONDS,
    CHUNK_BYTES,
    UPLOAD_SECONDS,
    FileUnknown,
    FinishedUpload,
    StoredFile,
    UploadLost,
)

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _File:
    shown: StoredFile
    upload: str
    data: bytes
    expires_at: datetime
    sweep_at: datetime | None
    """When the sweep looks at it; None while it is in use."""


@dataclass(slots=True)
class _Upload:
    touched_at: datetime
    chunks: dict[int, bytes] = field(default_factory=dict)


def _exists(conversation: str) -> bool | None:
    """As if no conversation was ever erased."""
    return True


@dataclass(slots=True)
class MemoryFileStore:
    """As `FileStore`. `clock`: seconds, as `trio.current_time`. `available`: False stands for a database that is
    away. `exists`: whether a conversation exists; False for an erased one, None for one that has not begun."""

    clock: Callable[[], float] = trio.current_time
    available: bool = True
    exists: Callable[[str], bool | None] = _exists
    _files: dict[tuple[str, str], _File] = field(default_factory=dict)
    _uploads: dict[str, _Upload] = field(default_factory=dict)
    _uses: dict[tuple[str, str, str], datetime] = field(default_factory=dict)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """As `FileStore.open`."""
        await self._answer()
        yield

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.available:
            raise StoreUnavailable("the database is away")

    @property
    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.clock())

    def _find(self, tenant: str, digest: str) -> _File:
        if (found := self._files.get((tenant, digest))) is None:
            raise FileUnknown(digest)
        return found

    # -- files

    async def describe(
        self, tenant: str, digests: Collection[str], conversations: Collection[str] | None = None
    ) -> dict[str, StoredFile]:
        """As `FileStore.describe`."""
        await self._answer()
        keys = [(tenant, digest) for digest in digests]
        found = {key[1]: self._files[key].shown for key in keys if key in self._files}
        if conversations is None:
            return found
        return {
            digest: file
            for digest, file in found.items()
            if any((tenant, digest, conversation) in self._uses for conversation in conversations)
        }

    async def read(self, tenant: str, digest: str) -> bytes:
        """As `FileStore.read`."""
        await self._answer()
        return self._find(tenant, digest).data

    async def stream(
        self, tenant: str, digest: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """As `FileStore.stream`."""
        await self._answer()
        size = self._find(tenant, digest).shown.size
        stop = size if stop is None else min(stop, size)
        while start < stop:
            await self._answer()
            part = self._find(tenant, digest).data[start : min(stop, start + CHUNK_BYTES)]
            start += len(part)
            yield part

    async def use(self, tenant: str, conversation: str, digests: Collection[str]) -> None:
        """As `FileStore.use`."""
        await self._answer()
        files = [self._find(tenant, digest) for digest in digests]
        for file in files:
            self._uses[tenant, file.shown.digest, conversation] = self._now
            file.sweep_at = None

    # -- uploads

    async def add_chunk(self, upload: str, number: int, data: bytes) -> None:
        """As `FileStore.add_chunk`."""
        await self._answer()
        row = self._uploads.setdefault(upload, _Upload(self._now))
        row.touched_at = self._now
        row.chunks.setdefault(number, data)

    async def finish_upload(
        self, upload: str, tenant: str, digest: str, media_type: str, size: int, unused_seconds: float
    ) -> FinishedUpload:
        """As `FileStore.finish_upload`."""
        await self._answer()
        row = self._uploads.pop(upload, None)
        data = b"" if row is None else b"".join(chunk for _, chunk in sorted(row.chunks.items()))
        file = self._files.get((tenant, digest))
        if row is not None and len(data) == size:
            expires_at = self._now + timedelta(seconds=unused_seconds)
            if file is None:
                shown = StoredFile(digest, media_type, size, self._now)
                file = self._files[tenant, digest] = _File(shown, upload, data, expires_at, expires_at)
            file.expires_at = file.sweep_at = expires_at
        if file is None:
            raise UploadLost
        return FinishedUpload(file.shown, file.upload == upload, file.expires_at)

    async def drop_upload(self, upload: str) -> None:
        """As `FileStore.drop_upload`."""
        await self._answer()
        self._uploads.pop(upload, None)

    # -- housekeeping

    async def list_users(self, after: str, limit: int) -> Sequence[str]:
        """As `FileStore.list_users`."""
        await self._answer()
        return sorted({conversation for _, _, conversation in self._uses if conversation > after})[:limit]

    async def release(self, conversations: Collection[str]) -> int:
        """As `FileStore.release`."""
        await self._answer()
        ended = 0
        for (tenant, digest, conversation), used_at in list(self._uses.items()):
            exists = self.exists(conversation)
            unbegun = exists is None and used_at < self._now - timedelta(seconds=BEGIN_SECONDS)
            if conversation not in conversations or not (exists is False or unbegun):
                continue
            del self._uses[tenant, digest, conversation]
            ended += 1
            file = self._files[tenant, digest]
            if file.sweep_at is None:
                file.sweep_at = file.expires_at if unbegun else self._now
        return ended

    async def sweep(self, limit: int) -> int:
        """As `FileStore.sweep`."""
        await self._answer()
        stale = self._now - timedelta(seconds=UPLOAD_SECONDS)
        given_up = [upload for upload, row in self._uploads.items() if row.touched_at < stale][:limit]
        for upload in given_up:
            del self._uploads[upload]
        used = {(tenant, digest) for tenant, digest, _ in self._uses}
        now = self._now
        due = [key for key, file in self._files.items() if file.sweep_at is not None and file.sweep_at <= now]
        removed = 0
        for key in due[:limit]:
            if key in used:
                self._files[key].sweep_at = None
            else:
                del self._files[key]
                removed += 1
        return removed + len(given_up)
