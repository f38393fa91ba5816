"""Text on its way to a terminal: harmless, whole, and in rows; and server-sent events, wherever they are cut."""

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from server.cli.clean import clean, clean_json, clean_line
from server.cli.rows import split_rows
from server.client.sse import Frame, Frames

PROSE = st.text(st.sampled_from("ab cdé“ \n日本wörd-longer"), max_size=200)


@given(st.text())
def test_nothing_that_controls_is_left(text: str) -> None:
    """C0 but newline and tab, DEL, C1; everything else is as it was."""
    found = clean(text)
    assert not any((ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in found)
    if all(c.isprintable() or c in "\n\t" for c in text):
        assert found == text
    assert "\n" not in clean_line(text)
    assert "\t" not in clean_line(text)


def test_pictures() -> None:
    """What was there can be seen."""
    assert clean("a\x1b[31mb\x00\x07\x08\x7f\x9b1m\r\n\tc") == "a␛[31mb␀␇␈␡\ufffd1m\n\tc"
    assert clean_line("a\nb\tc") == "a␊b c"
    assert clean_json('"\x9b\x7fé"') == '"\\u009b\\u007fé"'


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
    b"data: y\r\n\r\n:\n\ndata: [DONE]\n\nid: 7\ndata: cut"
)
FRAMES = [
    Frame(None, None, 1000),
    Frame(b"4", None, None),
    Frame(b"5", b'{"a":1}', None),
    Frame(b"6", b"x\ny", None),
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
