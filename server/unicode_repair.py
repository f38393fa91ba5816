"""Repairs text that the event log could not store: U+0000 and unpaired UTF-16 surrogates become U+FFFD.

JSON may write a character above U+FFFF as two escapes (RFC 8259 section 7), and a provider may cut its stream
between the two. PostgreSQL stores neither half alone, nor U+0000. `TextRepair` joins halves across the chunks of
one answer; `repair_text` repairs a whole text. Pure: this file knows no provider's wire format, and it never
merges two chunks or drops one.
"""

import re

REPLACEMENT = "\ufffd"
"""U+FFFD, the replacement character of Unicode."""

_SURROGATE_PAIR = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
_UNSTORABLE = re.compile("[\ud800-\udfff\x00]")


class TextRepair:
    """The repair of one answer's text, chunk by chunk.

    `feed` gives one string for each chunk; `end` gives at most one more. A high surrogate at the end of a chunk is
    held back until the next chunk that has text. `repaired` counts the characters that became U+FFFD.
    """

    __slots__ = ("_held", "repaired")

    def __init__(self) -> None:
        self._held = ""
        self.repaired = 0

    def feed(self, text: str) -> str:
        """The chunk's text, repaired. It is empty where the only character of the chunk is held back."""
        if not self._held and _is_storable(text):
            return text
        text = self._held + text
        self._held = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        text, count = _UNSTORABLE.subn(REPLACEMENT, _SURROGATE_PAIR.sub(_join_pair, text))
        self.repaired += count
        return text

    def end(self) -> str:
        """U+FFFD if a high surrogate is still held back when the answer ends, else an empty string."""
        if not self._held:
            return ""
        self._held = ""
        self.repaired += 1
        return REPLACEMENT


def repair_text(text: str) -> str:
    """A whole text, repaired. For text that does not come in chunks, such as an error message."""
    repair = TextRepair()
    return repair.feed(text) + repair.end()


def _join_pair(pair: re.Match[str]) -> str:
    high, low = pair.groups()
    return chr(0x10000 + ((ord(high) - 0xD800) << 10) + (ord(low) - 0xDC00))


def _is_storable(text: str) -> bool:
    if "\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # UTF-8 encodes everything but surrogates
        return False
    return True
