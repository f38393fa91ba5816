"""The store of files in Postgres: one statement a call, in `files.sql`.

Owns two connections: one for what is read, one for what is written. So a download waits behind no upload. Bytes
are held one chunk at a time. Like the event store it repeats a call while the database is away, within a bound,
and then raises `StoreUnavailable`. It must not know HTTP, nor what a file is for.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from eventstore.db_retry import retry_within
from eventstore.postgres.asyncpg_trio import Driver, Row, open_driver
from eventstore.postgres.db_connection import (
    COMMAND_TIMEOUT,
    ReconnectingConnection,
    database_url,
    load_statements,
)
from server.files.file_store import (
    BEGIN_SECONDS,
    CHUNK_BYTES,
    UPLOAD_SECONDS,
    FileUnknown,
    FinishedUpload,
    StoredFile,
    UploadLost,
)

STATEMENTS: Final = load_statements(__package__, "files.sql")


class PostgresFileStore:
    """As `FileStore`. `url`: of the role that serves, or of the owner.

    `call_timeout`: in seconds, for each call with its repetitions. `program`: how the connections' name begins in
    pg_stat_activity.
    """

    def __init__(self, url: str, *, call_timeout: float = 30.0, program: str = "tokentape") -> None:
        self._url = url
        self._call_timeout = call_timeout
        self._program = program
        self._reads: ReconnectingConnection
        self._writes: ReconnectingConnection

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """As `FileStore.open`."""
        async with open_driver() as driver:
            self._reads, self._writes = self._connection(driver), self._connection(driver)
            try:
                # So that a wrong address, or a schema without these tables, is reported now.
                for connection in (self._reads, self._writes):
                    await self._fetch(connection, "describe", "", [], None)
                self._reads.established = self._writes.established = True
                yield
            finally:
                self._reads.disconnect()
                self._writes.disconnect()

    def _connection(self, driver: Driver) -> ReconnectingConnection:
        program = database_url(self._url).program or self._program
        return ReconnectingConnection(
            driver, self._url, f"{program} files", command_timeout=min(COMMAND_TIMEOUT, self._call_timeout)
        )

    async def _fetch(self, connection: ReconnectingConnection, name: str, *values: Any) -> Sequence[Row]:
        return await retry_within(lambda: connection.fetch(STATEMENTS[name], *values), self._call_timeout, name)

    # -- files

    async def describe(
        self, tenant: str, digests: Collection[str], conversations: Collection[str] | None = None
    ) -> dict[str, StoredFile]:
        """As `FileStore.describe`."""
        only = None if conversations is None else list(conversations)
        rows = await self._fetch(self._reads, "describe", tenant, list(digests), only)
        return {row["digest"]: StoredFile(*row) for row in rows}

    async def read(self, tenant: str, digest: str) -> bytes:
        """As `FileStore.read`."""
        return b"".join([part async for part in self.stream(tenant, digest)])

    async def stream(
        self, tenant: str, digest: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """As `FileStore.stream`."""
        while True:
            number, skipped = divmod(start, CHUNK_BYTES)
            rows = await self._fetch(self._reads, "read_chunk", tenant, digest, number)
            if not rows:
                raise FileUnknown(digest)
            ((size, data),) = rows
            end = size if stop is None else min(stop, size)
            if start >= end:
                return
            if data is None:
                raise FileUnknown(digest)  # removed between two versions of the row
            yield data[skipped : skipped + end - start]
            start = (number + 1) * CHUNK_BYTES
            if start >= end:
                return

    async def use(self, tenant: str, conversation: str, digests: Collection[str]) -> None:
        """As `FileStore.use`."""
        wanted = list(dict.fromkeys(digests))
        rows = await self._fetch(self._writes, "use", tenant, conversation, wanted)
        found = {row["digest"] for row in rows}
        for digest in wanted:
            if digest not in found:
                raise FileUnknown(digest)

    # -- uploads

    async def add_chunk(self, upload: str, number: int, data: bytes) -> None:
        """As `FileStore.add_chunk`."""
        await self._fetch(self._writes, "add_chunk", upload, number, data)

    async def finish_upload(
        self, upload: str, tenant: str, digest: str, media_type: str, size: int, unused_seconds: float
    ) -> FinishedUpload:
        """As `FileStore.finish_upload`."""
        values = (upload, tenant, digest, media_type, size, unused_seconds)
        rows = await self._fetch(self._writes, "finish_upload", *values)
        if not rows:
            raise UploadLost
        ((known_type, known_size, created_at, expires_at, created),) = rows
        return FinishedUpload(StoredFile(digest, known_type, known_size, created_at), created, expires_at)

    async def drop_upload(self, upload: str) -> None:
        """As `FileStore.drop_upload`."""
        await self._fetch(self._writes, "drop_upload", upload)

    # -- housekeeping

    async def list_users(self, after: str, limit: int) -> Sequence[str]:
        """As `FileStore.list_users`."""
        return [row["conversation"] for row in await self._fetch(self._reads, "list_users", after, limit)]

    async def release(self, conversations: Collection[str]) -> int:
        """As `FileStore.release`."""
        rows = await self._fetch(self._writes, "release", list(conversations), BEGIN_SECONDS)
        ended: int = rows[0]["ended"]
        return ended

    async def sweep(self, limit: int) -> int:
        """As `FileStore.sweep`."""
        removed: int = (await self._fetch(self._writes, "sweep", limit, UPLOAD_SECONDS))[0]["removed"]
        return removed
