"""Files that commands name: looked up before a message is decided on, and kept before it is appended.

Owns the refusals. Must not know how files are stored, nor what a provider takes.
"""

from collections.abc import Collection, Mapping

import msgspec

from server.files.file_store import FileStore, FileUnknown, StoredFile
from server.message_parts import Content, FilePart, ImagePart, Part, files_of
from server.problem import Problem


class MessageFiles:
    """The files of one process's commands."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def look_up(self, tenant: str, contents: Mapping[str, Content]) -> list[Content]:
        """The contents, in order, with the types and sizes of their files; each by the name of its field.

        Raises `Problem` 422 `file_unknown`, `invalid_request` (an image that is none); `StoreUnavailable`.
        """
        digests = {part.digest for content in contents.values() for part in files_of(content)}
        found = await self._store.describe(tenant, digests) if digests else {}
        return [_with_files(field, content, found) for field, content in contents.items()]

    async def must_exist(self, tenant: str, digests: Collection[str], field: str) -> None:
        """Raises `Problem` 422 `file_unknown` where one of the files is not there; `StoreUnavailable`."""
        found = await self._store.describe(tenant, digests) if digests else {}
        for digest in digests:
            if digest not in found:
                raise _unknown(field, digest)

    async def keep(self, tenant: str, conversation: str, digests: Collection[str], field: str) -> None:
        """Keeps the files as long as the conversation. Call it before the event that names them is appended.

        `field`: where the request names them. The sweep may have removed a file since it was looked up: then this
        raises `Problem` 422 `file_unknown`. Raises `StoreUnavailable`.
        """
        if not digests:
            return
        try:
            await self._store.use(tenant, conversation, digests)
        except FileUnknown as error:
            raise _unknown(field, error.digest) from None


def _with_files(field: str, content: Content, found: Mapping[str, StoredFile]) -> Content:
    if isinstance(content, str):
        return content
    return tuple(_with_file(f"{field}.{number}.file", part, found) for number, part in enumerate(content))


def _with_file(field: str, part: Part, found: Mapping[str, StoredFile]) -> Part:
    if not isinstance(part, FilePart):
        return part
    file = found.get(part.digest)
    if file is None:
        raise _unknown(field, part.digest)
    if isinstance(part, ImagePart) and not file.media_type.startswith("image/"):
        detail = f"{field}: the file {part.digest} is {file.media_type} and no image. Send it as type: file."
        raise Problem(422, "invalid_request", detail, extra={"field": field})
    return msgspec.structs.replace(part, media_type=file.media_type, size=file.size)


def _unknown(field: str, digest: str) -> Problem:
    detail = (
        f"{field}: there is no file {digest}. Upload it first (POST /v1/files); a file that no message uses is "
        "removed after a while."
    )
    return Problem(422, "file_unknown", detail, extra={"field": field, "digest": digest})
