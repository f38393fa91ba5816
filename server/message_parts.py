"""The content of a message: a text, or a list of parts, which are texts, images and other files.

Owns the types of parts, the same in the log, in states and in prompts, their JSON, and what a content says as one
text. A part names a file by the SHA-256 of its bytes; the bytes are nowhere but in the file store, and in prompts
that are on their way to a provider. Pure: must not know where files are kept, nor any provider's format.
"""

from typing import Any, Final, TypeAlias

import msgspec

MAX_PARTS: Final = 100
"""The most parts of one message."""
BETWEEN_TEXTS: Final = "\n\n"
"""What stands between the texts of a content, where it is read as one text."""


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A text."""

    text: str


class FilePart(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="file"):
    """A file of any type. `digest` is the SHA-256 of its bytes in lower-case hexadecimal, `name` one to show.

    `media_type` and `size`, in bytes, are what the file store has found; empty and 0 until the part is looked up
    there. `data`: the bytes, only in a prompt that is about to be sent. They are in no JSON.
    """

    digest: str = msgspec.field(name="file")
    media_type: str = ""
    size: int = 0
    name: str | None = None
    data: bytes | None = None

    @property
    def title(self) -> str:
        """What to call the file in a sentence: its name, else the beginning of its digest."""
        return self.name if self.name is not None else f"{self.digest[:12]}…"

    def __repr__(self) -> str:
        # Without the bytes: a traceback that shows a prompt would fill the log with them.
        return f"{type(self).__name__}({self.digest!r}, {self.media_type!r}, {self.size}, {self.name!r})"


class ImagePart(FilePart, frozen=True, omit_defaults=True, tag_field="type", tag="image"):
    """An image: a file whose media type begins with `image/`."""


Part: TypeAlias = TextPart | ImagePart | FilePart
Content: TypeAlias = str | tuple[Part, ...]


def text_of(content: Content) -> str:
    """The texts of a content, joined. Of a text: itself."""
    if isinstance(content, str):
        return content
    return BETWEEN_TEXTS.join(part.text for part in content if isinstance(part, TextPart))


def files_of(content: Content) -> tuple[FilePart, ...]:
    """The images and files of a content."""
    return () if isinstance(content, str) else tuple(part for part in content if isinstance(part, FilePart))


def logged_content(value: Any) -> Content:
    """The content of a `message.posted` event.

    A part of a type that only a newer server knows becomes a text that says so: one message must not stop the
    reading of the log.
    """
    return value if isinstance(value, str) else tuple(map(_logged_part, value))


def _logged_part(value: Any) -> Part:
    try:
        return part_from_json(value)
    except ValueError:
        return TextPart("[a part that this version of the server cannot read]")


def part_from_json(value: Any) -> Part:
    """The part of which this is the JSON. Raises `ValueError` for anything else."""
    try:
        part: Part = msgspec.convert(value, Part)
    except msgspec.ValidationError as error:
        raise ValueError(f"this is no part of a message: {error}") from None
    return part


def size_in_words(size: int) -> str:
    """A number of bytes for people: `812 bytes`, `12 KB`, `3.4 MB`."""
    if size < 1_000:
        return f"{size} bytes" if size != 1 else "1 byte"
    if size < 999_500:
        return f"{size / 1_000:.0f} KB"
    return f"{size / 1_000_000:.1f} MB"
