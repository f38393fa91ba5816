"""Text that may enter the log: no U+0000, no unpaired surrogate, whatever the provider cut apart.

Owns the repair of one answer's text, chunk by chunk: JSON escapes may split an emoji's two UTF-16 halves over
two chunks (RFC 8259 section 8.2), and Postgres stores neither a lone half nor U+0000. Pure: must not know chunks'
wire format, and never merges or drops a chunk.
"""

from __future__ import annotations

import re

__all__ = ["Repair", "clean"]

REPLACEMENT = "\ufffd"
_PAIR = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
_UNFIT = re.compile("[\ud800-\udfff\x00]")


def _join(pair: re.Match[str]) -> str:
    high, low = pair.groups()
    return chr(0x10000 + ((ord(high) - 0xD800) << 10) + (ord(low) - 0xDC00))


def _fit(text: str) -> bool:
    if "\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # only surrogates cannot be encoded
        return False
    return True


class Repair:
    """The repair of one answer: as many strings out of `feed` as went in, plus at most one out of `end`.

    A high surrogate at a chunk's end is held back for the next chunk that has text; what finds no other half, and
    U+0000, becomes U+FFFD and is counted in `repaired`.
    """

    __slots__ = ("_held", "repaired")

    def __init__(self) -> None:
        self._held = ""
        self.repaired = 0

    def feed(self, text: str) -> str:
        """The chunk's text, fit for the log (maybe empty: its only character is held back)."""
        if not self._held and _fit(text):
            return text
        text = self._held + text
        self._held = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        text, count = _UNFIT.subn(REPLACEMENT, _PAIR.sub(_join, text))
        self.repaired += count
        return text

    def end(self) -> str:
        """U+FFFD for a half that is still held back when the answer ends, else an empty string."""
        if not self._held:
            return ""
        self._held = ""
        self.repaired += 1
        return REPLACEMENT


def clean(text: str) -> str:
    """A whole text in one go, for words of a provider that are no answer (messages, reasons)."""
    repair = Repair()
    return repair.feed(text) + repair.end()
