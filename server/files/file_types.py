"""What type a file is, told by its bytes and never by what a client claims.

A claimed type could make a browser run a text as a page, or a provider refuse a prompt. The signatures and the
rule for text are those of the WHATWG MIME Sniffing Standard (https://mimesniff.spec.whatwg.org, sections 6.1 and
7.2). Pure: bytes go in piece by piece, so no file is ever held whole.
"""

import codecs
from typing import Final

PNG, JPEG, GIF, WEBP = "image/png", "image/jpeg", "image/gif", "image/webp"
PDF, TEXT, UNKNOWN = "application/pdf", "text/plain", "application/octet-stream"
IMAGES: Final = frozenset({PNG, JPEG, GIF, WEBP})

SIGNATURE_BYTES: Final = 14
_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"%PDF-", PDF),
)
_BINARY: Final = bytes(set(range(0x20)) - set(b"\t\n\f\r\x1b")) + b"\x7f"
"""Control characters that no text has ("binary data bytes", and DEL)."""


class TypeDetector:
    """Detects the type of one file. `feed` it all bytes in order, then read `media_type`."""

    def __init__(self) -> None:
        self._head = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_text = True

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        if len(self._head) < SIGNATURE_BYTES:
            self._head += data[: SIGNATURE_BYTES - len(self._head)]
        if self._is_text:
            self._is_text = data.translate(None, _BINARY) == data and self._decodes(data)

    def _decodes(self, data: bytes, *, final: bool = False) -> bool:
        try:
            self._decoder.decode(data, final)
        except UnicodeDecodeError:
            return False
        return True

    def media_type(self) -> str:
        """The type of what was fed. Text is UTF-8 from the first byte to the last."""
        for signature, media_type in _SIGNATURES:
            if self._head.startswith(signature):
                return media_type
        if self._head.startswith(b"RIFF") and self._head[8:14] == b"WEBPVP":
            return WEBP
        return TEXT if self._is_text and self._decodes(b"", final=True) else UNKNOWN
