"""Receives a file: hashes its bytes, tells its type, and stores them chunk by chunk while they come.

Owns the bounds of a file. At most one chunk of it is in memory. An upload that is cut off is removed at once, or
by the sweep where that is not possible. It must not know HTTP, nor who uploads.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator

import trio

from eventstore import StoreError
from server.files.file_store import CHUNK_BYTES, FileStore, FinishedUpload, UploadLost
from server.files.file_types import TypeDetector
from server.observability import logs
from server.problem import Problem, unavailable

log = logs.get("files")

DROP_SECONDS = 3.0
"""How long it may take to remove what has come of an upload that was cut off."""


async def receive_file(
    store: FileStore, parts: AsyncIterator[bytes], tenant: str, *, max_bytes: int, unused_seconds: float
) -> FinishedUpload:
    """Stores the bytes of `parts` as a file of the tenant.

    `unused_seconds`: how long it is kept while no conversation uses it. Raises `Problem` 413 `file_too_large`, 422
    `empty_file`, 503; `StoreUnavailable`; and what `parts` raises.
    """
    upload = _Upload(store)
    try:
        async for part in parts:
            if upload.size + len(part) > max_bytes:
                raise too_large(max_bytes)
            await upload.add(part)
        if not upload.size:
            raise Problem(422, "empty_file", "The file has no bytes. Send at least one.")
        return await upload.finish(tenant, unused_seconds)
    except UploadLost:
        raise unavailable("The upload stood still for too long and was removed. Send the file again.") from None
    except BaseException:  # also where this task is cancelled because its client has gone
        with trio.CancelScope(shield=True, deadline=trio.current_time() + DROP_SECONDS):
            await upload.drop()
        raise


def too_large(max_bytes: int) -> Problem:
    """The problem of a file with more bytes than are taken."""
    return Problem(
        413,
        "file_too_large",
        f"The file is larger than {max_bytes} bytes. Send less, or raise TOKENTAPE_MAX_FILE.",
        extra={"limit": max_bytes},
    )


class _Upload:
    def __init__(self, store: FileStore) -> None:
        self.size = 0
        self._store = store
        self._name = secrets.token_hex(16)
        self._hash = hashlib.sha256()
        self._type = TypeDetector()
        self._pending = bytearray()
        self._chunks = 0

    async def add(self, part: bytes) -> None:
        self.size += len(part)
        for start in range(0, len(part), CHUNK_BYTES):  # a part of any size costs no more memory than itself
            self._pending += part[start : start + CHUNK_BYTES]
            if len(self._pending) >= CHUNK_BYTES:
                await self._store_chunk()

    async def finish(self, tenant: str, unused_seconds: float) -> FinishedUpload:
        if self._pending:
            await self._store_chunk()
        return await self._store.finish_upload(
            self._name, tenant, self._hash.hexdigest(), self._type.media_type(), self.size, unused_seconds
        )

    async def drop(self) -> None:
        """Removes what is stored; what cannot be removed now is swept."""
        if self._chunks:
            try:
                await self._store.drop_upload(self._name)
            except StoreError as error:
                log.info("an upload that was cut off stays until the sweep", why=str(error))

    async def _store_chunk(self) -> None:
        data = bytes(self._pending[:CHUNK_BYTES])
        del self._pending[:CHUNK_BYTES]
        self._hash.update(data)
        self._type.feed(data)
        self._chunks += 1  # before the call: a chunk whose answer is lost may be stored
        await self._store.add_chunk(self._name, self._chunks - 1, data)
