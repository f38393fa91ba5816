"""Hidden characters: they are named, and made visible for a terminal."""

import json
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.unicode_safety import (
    MAX_NAMED,
    escape_controls,
    escape_json,
    escape_line,
    find_hidden_characters,
    has_hidden,
    is_hidden,
)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((), []),
        (("plain", {"a": [1, None, True, "é 日本 \u3000"]}), []),
        (("a\n\tb\r",), []),
        (("a\x00\x1b\x7f",), ["U+0000", "U+001B", "U+007F"]),
        (("\u202e", {"\u200b": "\ufe0f"}), ["U+202E", "U+200B", "U+FE0F"]),
        (([["\U000e0041"], ("\u115f",)],), ["U+E0041", "U+115F"]),
        (("\u200b\u202e\u200b", "\u202e"), ["U+200B", "U+202E"]),
        (("soft\u00adhyphen \u00a0",), ["U+00AD"]),
    ],
)
def test_hidden_characters_are_named_once_in_order(values: tuple[Any, ...], named: list[str]) -> None:
    assert find_hidden_characters(*values) == named


def test_number_of_named_characters_is_bounded() -> None:
    tags = [chr(0xE0020 + number) for number in range(40)]
    assert find_hidden_characters("".join(tags)) == [f"U+{ord(tag):04X}" for tag in tags[:MAX_NAMED]]
    assert find_hidden_characters(*tags) == find_hidden_characters("".join(tags))


@given(st.characters())
def test_is_hidden_agrees_with_find_hidden_characters(character: str) -> None:
    """Except line ends and tabs: alone they are hidden, in a text they are not."""
    assert bool(find_hidden_characters(character)) == (is_hidden(character) and character not in "\t\n\r")


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    """C0 but newline and tab, DEL, and C1 are replaced; everything else stays as it was."""
    found = escape_controls(text)
    assert not any((ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in found)
    if all(c.isprintable() or c in "\n\t" for c in text):
        assert found == text
    assert json.loads(escape_json(json.dumps(text, ensure_ascii=False))) == text
    assert "\n" not in escape_line(text)
    assert "\t" not in escape_line(text)


def test_control_characters_become_symbols() -> None:
    """A person can see which control character stood there."""
    assert escape_controls("a\x1b[31mb\x00\x07\x08\x7f\x9b1m\r\n\tc") == "a␛[31mb␀␇␈␡\ufffd1m\n\tc"
    assert escape_line("a\nb\tc") == "a␊b c"
    assert escape_json('"\x9b\x7fé"') == '"\\u009b\\u007fé"'


@cache
def all_hidden() -> list[int]:
    """Every hidden character. A function, because asking for each of a million characters takes seconds."""
    return [
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp")
        or unicodedata.bidirectional(chr(code))
        in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "BN")
        or 0xFE00 <= code <= 0xFE0F
        # Drawn as nothing; surrogates, private and unassigned ones: the first and the last.
        or code in (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0)
        or code in (0xD800, 0xDFFF, 0xE000, 0xF8FF, 0x0378, 0xE0FFF, 0xF0000, 0x10FFFF)
    ]


def test_escape_line_shows_every_hidden_character() -> None:
    """Every Unicode control, format, bidirectional, unassigned and private character is shown as an escape."""
    assert {0x00AD, 0x061C, 0x200B, 0x200F, 0x202E, 0x2066, 0x2069, 0xFEFF, 0xE0041, 0x10FFFF} <= set(all_hidden())
    for code in all_hidden():
        shown = escape_line(f"a{chr(code)}b")
        assert chr(code) not in shown
        if code > 0x9F:
            units = chr(code).encode("utf-16-be", "surrogatepass").hex()
            assert shown == "a" + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)) + "b"
            assert has_hidden(chr(code))
            if not 0xD800 <= code < 0xE000:
                encoded = escape_json(f'"{chr(code)}"')
                assert encoded.isascii()
                assert json.loads(encoded) == chr(code)


def test_escape_line_keeps_visible_characters() -> None:
    """Letters of all scripts, spaces of all widths, signs, emoji of one character."""
    text = "é ש ع हि 日本 \u00a0\u3000 “…” → ␊ 😀 ́"
    assert escape_line(text) == text
    assert not has_hidden(text)
    encoded = json.dumps(text, ensure_ascii=False)
    assert escape_json(encoded) == encoded


def test_escape_controls_keeps_joiners_and_direction_marks() -> None:
    """A bidirectional control would reorder the text after it: it is escaped."""
    needed = "می\u200cخواهم 👩\u200d💻 ❤\ufe0f \u200eA\u200f soft\u00adhyphen"
    assert escape_controls(needed) == needed
    assert escape_controls("pay \u202e001\u202c \u2066x\u2069") == "pay \\u202e001\\u202c \\u2066x\\u2069"
