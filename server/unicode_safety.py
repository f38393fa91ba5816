"""Text that is no danger: repaired before the log stores it, and its hidden characters named before people read
it.

`TextRepair` and `repair_text` repair text that the log could not store: U+0000 and unpaired UTF-16 surrogates
become U+FFFD. JSON may write a character above U+FFFF as two escapes (RFC 8259 section 7), and a provider may cut
its stream between the two. PostgreSQL stores neither half alone, nor U+0000. `TextRepair` joins halves across the
chunks of one answer, and never merges two chunks or drops one; `repair_text` repairs a whole text.

Hidden characters are drawn as nothing, or reorder or control what is drawn. Whoever approves a tool call must read
what will run. A terminal or a page may draw `rm /tmp/a` for a text that says something else. Hidden are control
characters (C0, DEL and C1 of ECMA-48), format characters (Unicode's category Cf: bidirectional controls,
zero-width joiners and spaces, tags), and letters and marks that are drawn as nothing (Unicode's
Default_Ignorable_Code_Point). Spaces, tabs and line ends are not: their effect is seen. `find_hidden_characters`
names them, for snapshots and events. The `escape_…` functions make text harmless for a terminal. This is the only
table of such characters.

Pure: this file knows no provider's wire format, no event and no terminal.
"""

import re
import unicodedata
from typing import Any

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


MAX_NAMED = 16
"""How many different hidden characters of one tool call are named."""

_DRAWN_AS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e0fff]"
)
"""Python's `str.isprintable` says yes to some of them."""
_VISIBLE_SPACE = re.compile("[\t\n\r\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
"""`str.isprintable` says no to these, though their effect is seen: line ends, tabs, spaces of all widths (Zs)."""


def is_hidden(character: str) -> bool:
    """Whether one character is hidden. Line ends and tabs count as hidden here: they are control characters."""
    if character.isprintable() and not _DRAWN_AS_NOTHING.match(character):
        return False
    # `str.isprintable` says no to spaces of other widths than U+0020, too.
    return unicodedata.category(character) != "Zs"


def find_hidden_characters(*values: Any) -> list[str]:
    """Names the hidden characters of texts and JSON values (field names included): `["U+202E", "U+200B"]`.

    Each is named once, in the order in which they come, and at most `MAX_NAMED` of them.
    """
    found: dict[str, None] = {}
    left = list(reversed(values))
    while left and len(found) < MAX_NAMED:
        value = left.pop()
        if isinstance(value, dict):
            for name, inner in reversed(value.items()):
                left += (inner, name)
        elif isinstance(value, list | tuple):
            left += reversed(value)
        elif isinstance(value, str) and not (value.isascii() and value.isprintable()):
            # Each poll of a snapshot asks about the same long texts: the usual text passes without a loop.
            rest = _VISIBLE_SPACE.sub("", value)
            if rest.isprintable() and not _DRAWN_AS_NOTHING.search(rest):
                continue
            hidden = (one for one in dict.fromkeys(rest) if is_hidden(one))
            found |= dict.fromkeys(f"U+{ord(one):04X}" for one in hidden)
    return list(found)[:MAX_NAMED]


_CONTROL_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    # Left out: it is half of a CR LF, or it moves to the line's beginning so that what follows is drawn over it.
    0x0D: None,
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}
"""For `str.translate`: Unicode's pictures of C0 and DEL (U+2400 to U+2421); C1 has none, so U+FFFD."""
_UNESCAPED_IN_JSON = re.compile("[\x7f-\x9f]")
_BIDIRECTIONAL = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Embeddings, overrides and isolates (Unicode Standard Annex 9 section 2): an open one reorders what follows."""


def escape_controls(text: str) -> str:
    """Running text, such as an answer, for a terminal.

    Every control character but newline and tab becomes a picture of it, and every bidirectional control an escape.
    Joiners and direction marks stay, for languages and emoji need them.
    """
    return _BIDIRECTIONAL.sub(_escape, text.translate(_CONTROL_PICTURES))


def escape_line(text: str) -> str:
    """A name or an argument, on one line: every hidden character becomes a picture or an escape."""
    one_line = text.translate(_CONTROL_PICTURES).replace("\n", "␊").replace("\t", " ")
    return one_line if one_line.isascii() else "".join(map(_visible, one_line))


def escape_json(encoded: str) -> str:
    """JSON text of the same meaning without hidden characters. JSON escapes C0 itself (RFC 8259 section 7)."""
    escaped = _UNESCAPED_IN_JSON.sub(_escape, encoded)
    return escaped if escaped.isascii() else "".join(map(_visible, escaped))


def has_hidden(text: str) -> bool:
    """Whether a text holds a hidden character above U+007E. Line ends and tabs do not count."""
    return not text.isascii() and any(
        _visible(character) != character for character in text if ord(character) > 0x7E
    )


def _visible(character: str) -> str:
    return _escape(character) if is_hidden(character) else character


def _escape(found: re.Match[str] | str) -> str:
    """`\\u202e`; above U+FFFF two of them, as JSON writes it."""
    character = found if isinstance(found, str) else found[0]
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place] << 8 | units[place + 1]:04x}" for place in range(0, len(units), 2))
