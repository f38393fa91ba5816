"""Text on its way to a terminal: harmless, whole, and in rows; and server-sent events, wherever they are cut."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from server.cli.terminal_escape import clean, clean_json, clean_line, has_unseen
from server.cli.text_wrap import split_rows
from server.client.sse import Frame, Frames

PROSE = st.text(st.sampled_from("ab cdé“ \n日本wörd-longer"), max_size=200)


@given(st.text())
def test_nothing_that_controls_is_left(text: str) -> None:
    """C0 but newline and tab, DEL, C1; everything else is as it was."""
    found = clean(text)
    assert not any((ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in found)
    if all(c.isprintable() or c in "\n\t" for c in text):
        assert found == text
    assert json.loads(clean_json(json.dumps(text, ensure_ascii=False))) == text
    assert "\n" not in clean_line(text)
    assert "\t" not in clean_line(text)


def test_pictures() -> None:
    """What was there can be seen."""
    assert clean("a\x1b[31mb\x00\x07\x08\x7f\x9b1m\r\n\tc") == "a␛[31mb␀␇␈␡\ufffd1m\n\tc"
    assert clean_line("a\nb\tc") == "a␊b c"
    assert clean_json('"\x9b\x7fé"') == '"\\u009b\\u007fé"'


NEVER_SEEN = [
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


def test_no_character_without_a_look_of_its_own_gets_onto_a_line() -> None:
    """Every Unicode control, format, bidirectional, unassigned and private character is shown as an escape."""
    assert {0x00AD, 0x061C, 0x200B, 0x200F, 0x202E, 0x2066, 0x2069, 0xFEFF, 0xE0041, 0x10FFFF} <= set(NEVER_SEEN)
    for code in NEVER_SEEN:
        shown = clean_line(f"a{chr(code)}b")
        assert chr(code) not in shown
        if code > 0x9F:
            units = chr(code).encode("utf-16-be", "surrogatepass").hex()
            assert shown == "a" + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)) + "b"
            assert has_unseen(chr(code))
            if not 0xD800 <= code < 0xE000:
                encoded = clean_json(f'"{chr(code)}"')
                assert encoded.isascii()
                assert json.loads(encoded) == chr(code)


def test_what_has_a_look_stays() -> None:
    """Letters of all scripts, spaces of all widths, signs, emoji of one character."""
    text = "é ש ع हि 日本 \u00a0\u3000 “…” → ␊ 😀 ́"
    assert clean_line(text) == text
    assert not has_unseen(text)
    encoded = json.dumps(text, ensure_ascii=False)
    assert clean_json(encoded) == encoded


def test_running_text_keeps_what_languages_and_emoji_need() -> None:
    """Joiners and direction marks; but not what would reorder a line of ours behind it."""
    needed = "می\u200cخواهم 👩\u200d💻 ❤\ufe0f \u200eA\u200f soft\u00adhyphen"
    assert clean(needed) == needed
    assert clean("pay \u202e001\u202c \u2066x\u2069") == "pay \\u202e001\\u202c \\u2066x\\u2069"


@given(PROSE, st.integers(2, 30), st.lists(st.integers(1, 9), max_size=60))
def test_rows_hold_all_text_whatever_the_pieces(text: str, width: int, sizes: list[int]) -> None:
    """No letter is lost, doubled or moved; no row is wider than the terminal; pieces change nothing."""
    rows: list[str] = []
    rest = ""
    place = 0
    for size in [*sizes, len(text)]:
        settled, rest = split_rows(rest + text[place : place + size], width)
        rows += settled
        place += size
    assert "".join([*rows, rest]).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert all(cell_len(row) <= width for row in [*rows, rest])
    assert (rows, rest) == split_rows(text, width)


def test_rows_break_at_spaces() -> None:
    """Words stay whole where they can."""
    assert split_rows("one two three", 8) == (["one two"], "three")
    assert split_rows("abcdefghij", 4) == (["abcd", "efgh"], "ij")
    assert split_rows("a\n\nb", 4) == (["a", ""], "b")
    assert split_rows("日本語", 4) == (["日本"], "語")


STREAM = (
    b'retry: 1000\n\nid: 4\n\n: sign of life\n\nid: 5\ndata: {"a":1}\n\nevent: token\nid: 6\r\ndata:x\r\n'
    b'data: y\r\n\r\n:\n\n:\n: a line without an empty one behind it\ndata: {"b":2}\nid: 8\n\n:\nid: 9\nretry: 5\n'
    b": refused\n\ndata: [DONE]\n\ndata: cut\nid: 10\n"
)
FRAMES = [
    Frame(None, None, 1000),
    Frame(b"4", None, None),
    Frame(b"5", b'{"a":1}', None),
    Frame(b"6", b"x\ny", None),
    Frame(b"8", b'{"b":2}', None),
    Frame(b"9", None, 5),
    Frame(None, b"[DONE]", None),
]


@given(st.lists(st.integers(1, 20), max_size=120))
def test_frames_wherever_they_are_cut(sizes: list[int]) -> None:
    """The same frames of any pieces; what has no end is no frame."""
    frames = Frames()
    found: list[Frame] = []
    place = 0
    for size in [*sizes, len(STREAM)]:
        found += frames.feed(STREAM[place : place + size])
        place += size
    assert found == FRAMES
