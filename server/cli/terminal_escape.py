"""Text from elsewhere, made harmless for a terminal.

A model's answer may hold escape sequences that rename a window, hide a line or type for the user (C0, DEL and C1
of ECMA-48), and names and arguments may hold characters that nobody sees or that reorder what is seen
(bidirectional controls, zero-width characters, tags): an operator would approve what he did not read. Whatever
is on a line of ours shows all of them as escapes. Running text of answers keeps what languages and emoji need
(joiners, direction marks), but nothing that reaches beyond it. Pure: it must not know events.
"""

import re

from server.hidden_characters import is_hidden

_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x0D: None,  # of CR LF, or a way to write over a line: left out
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}
_RAW_IN_JSON = re.compile("[\x7f-\x9f]")
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Embeddings, overrides and isolates (Unicode Standard Annex 9, section 2): open, they reorder what follows."""


def clean(text: str) -> str:
    """Running text: every control character but newline and tab replaced by something that can be seen."""
    return _REORDERING.sub(_escape, text.translate(_PICTURES))


def clean_line(text: str) -> str:
    """Names, arguments and the like, on one line: every character that has no look of its own as an escape."""
    one_line = text.translate(_PICTURES).replace("\n", "␊").replace("\t", " ")
    return one_line if one_line.isascii() else "".join(map(_shown, one_line))


def clean_json(encoded: str) -> str:
    """JSON text that means the same, of characters that can be seen; C0 is escaped in it anyhow (RFC 8259)."""
    escaped = _RAW_IN_JSON.sub(_escape, encoded)
    return escaped if escaped.isascii() else "".join(map(_shown, escaped))


def has_unseen(text: str) -> bool:
    """Whether the text holds characters that are not seen, or that reorder what is seen; a line break is seen."""
    return not text.isascii() and any(
        _shown(character) != character for character in text if ord(character) > 0x7E
    )


def _shown(character: str) -> str:
    return _escape(character) if is_hidden(character) else character


def _escape(found: "re.Match[str] | str") -> str:
    """`\\u202e`; above U+FFFF a pair, as JSON writes it."""
    character = found if isinstance(found, str) else found[0]
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place] << 8 | units[place + 1]:04x}" for place in range(0, len(units), 2))
