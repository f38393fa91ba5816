"""Hidden characters: those that are drawn as nothing, or that reorder or control what is drawn.

Whoever approves a tool call must read what will run. A terminal or a page may draw `rm /tmp/a` for a text that
says something else. Hidden are control characters (C0, DEL and C1 of ECMA-48), format characters (Unicode's
category Cf: bidirectional controls, zero-width joiners and spaces, tags), and letters and marks that are drawn as
nothing (Unicode's Default_Ignorable_Code_Point). Spaces, tabs and line ends are not: their effect is seen.

`find_hidden_characters` names them, for snapshots and events. The `escape_…` functions make text harmless for a
terminal. This is the only table of such characters. Pure: the file knows neither events nor terminals.
"""

import re
import unicodedata
from typing import Any

MOST_NAMED = 16
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

    Each is named once, in the order in which they come, and at most `MOST_NAMED` of them.
    """
    found: dict[str, None] = {}
    left = list(reversed(values))
    while left and len(found) < MOST_NAMED:
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
    return list(found)[:MOST_NAMED]


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
