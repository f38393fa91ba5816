"""Files for tests of the runtime: bytes that are uploaded to a store in memory, and messages that name them."""

import hashlib
import secrets

from server.conversations.command_types import NewMessage, PostMessage, RequestGeneration
from server.files.file_store import CHUNK_BYTES, FileStore
from server.files.file_types import TypeDetector
from server.ids import new_id
from server.message_parts import Content, FilePart, ImagePart

PNG = b"\x89PNG\r\n\x1a\n" + b"." * 92
PDF = b"%PDF-1.7" + b"." * 92
TEXT = "naïve".encode()


async def upload(store: FileStore, data: bytes, tenant: str = "default", *, seconds: float = 86_400.0) -> str:
    """Uploads a file, which is kept for so many seconds while nobody uses it. Returns its digest."""
    name, detector = secrets.token_hex(16), TypeDetector()
    detector.feed(data)
    for number, start in enumerate(range(0, len(data), CHUNK_BYTES)):
        await store.add_chunk(name, number, data[start : start + CHUNK_BYTES])
    digest = hashlib.sha256(data).hexdigest()
    made = await store.finish_upload(name, tenant, digest, detector.media_type(), len(data), seconds)
    return made.file.digest


def digest_of(data: bytes) -> str:
    """The name of a file with these bytes."""
    return hashlib.sha256(data).hexdigest()


def image(digest: str) -> ImagePart:
    """An image, as a request names it."""
    return ImagePart(digest)


def attachment(digest: str, name: str | None = None) -> FilePart:
    """A file, as a request names it."""
    return FilePart(digest, name=name)


def posting(content: Content, tenant: str = "default") -> PostMessage:
    """A user's message."""
    return PostMessage(new_id("msg"), "user", content, None, "anonymous", tenant)


def asking_about(*contents: Content, model: str = "fake", tenant: str = "default") -> RequestGeneration:
    """A request for an answer to users' messages."""
    messages = tuple(NewMessage("user", content) for content in contents)
    return RequestGeneration(new_id("gen"), {}, "anonymous", model=model, input=messages, tenant=tenant)
