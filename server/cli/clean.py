"""Text from elsewhere, made harmless for a terminal.

A model's answer may hold escape sequences that rename a window, hide a line or type for the user (C0, DEL and
C1 of ECMA-48). They are shown as pictures, so that nothing is hidden either; newline and tab stay.
"""

import re

_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x0D: None,  # of CR LF, or a way to write over a line: left out
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}
_RAW_IN_JSON = re.compile("[\x7f-\x9f]")


def clean(text: str) -> str:
    """The text with every control character but newline and tab replaced by something that can be seen."""
    return text.translate(_PICTURES)


def clean_line(text: str) -> str:
    """The same on one line: for names, titles and the like."""
    return clean(text).replace("\n", "␊").replace("\t", " ")


def clean_json(encoded: str) -> str:
    """JSON text that means the same without raw control characters; C0 is escaped in it anyhow (RFC 8259)."""
    return _RAW_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)
