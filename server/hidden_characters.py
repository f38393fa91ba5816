"""Characters that nobody sees, or that reorder what is seen: who decides on a text with them may read another one.

Control characters (C0, DEL and C1 of ECMA-48), format characters (Unicode Cf: bidirectional controls, zero-width
joiners and spaces, tags), and letters and marks that are drawn as nothing (Default_Ignorable_Code_Point). The one
table for whatever shows a call to a person. Pure; it knows neither events nor terminals.
"""

import re
import unicodedata
from typing import Any

MOST = 16
"""Different ones that are named of one call."""

_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e0fff]")
"""Drawn as nothing, though Python calls some of them printable."""
_SEEN = re.compile("[\t\n\r\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
"""Not printable, to Python, though their effect is seen: lines, tabs, and spaces of all widths (Zs)."""


def is_hidden(character: str) -> bool:
    """Whether one character has no look of its own."""
    if character.isprintable() and not _UNSEEN.match(character):
        return False
    # Not printable, to Python, are also the spaces of other widths, which are seen.
    return unicodedata.category(character) != "Zs"


def hidden_characters(*values: Any) -> list[str]:
    """Those in texts and in JSON values, names of fields included, each once: `["U+202E", "U+200B"]`."""
    found: dict[str, None] = {}
    left = list(reversed(values))
    while left and len(found) < MOST:
        value = left.pop()
        if isinstance(value, dict):
            for name, inner in reversed(value.items()):
                left += (inner, name)
        elif isinstance(value, list | tuple):
            left += reversed(value)
        elif isinstance(value, str) and not (value.isascii() and value.isprintable()):
            # A snapshot asks this of long texts, again with each poll: most are passed at one look.
            rest = _SEEN.sub("", value)
            if rest.isprintable() and not _UNSEEN.search(rest):
                continue
            hidden = (one for one in dict.fromkeys(rest) if is_hidden(one))
            found |= dict.fromkeys(f"U+{ord(one):04X}" for one in hidden)
    return list(found)[:MOST]
