"""The repair of text: surrogate halves are joined, or replaced if alone, however the text was cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.unicode_safety import TextRepair, repair_text

FIT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
HALVES = st.text(st.sampled_from("ab\x00\ud83d\ude00\udbff\udc00\U0001f600é"))


def repair_all(chunks: list[str]) -> tuple[list[str], int]:
    repair = TextRepair()
    out = [repair.feed(chunk) for chunk in chunks]
    return [*out, repair.end()], repair.repaired


@pytest.mark.parametrize(
    ("chunks", "expected", "count"),
    [
        (["plain", "", "é😀"], ["plain", "", "é😀", ""], 0),
        (["a\ud83d", "\ude00b"], ["a", "😀b", ""], 0),
        (["\ud83d", "\ude00"], ["", "😀", ""], 0),
        (["\ud83d", "", "\ude00"], ["", "", "😀", ""], 0),
        (["\ud83d", "x"], ["", "\ufffdx", ""], 1),
        (["\ud83d", "\ud83d", "\ude00"], ["", "\ufffd", "😀", ""], 1),
        (["\ude00\ud83d"], ["\ufffd", "\ufffd"], 2),
        (["a\x00b", "\x00"], ["a\ufffdb", "\ufffd", ""], 2),
        (["é\ud83d\ude00"], ["é😀", ""], 0),
        (["\ud83d"], ["", "\ufffd"], 1),
    ],
)
def test_surrogate_halves_are_joined_or_replaced(chunks: list[str], expected: list[str], count: int) -> None:
    assert repair_all(chunks) == (expected, count)


@given(FIT)
def test_valid_text_is_unchanged(text: str) -> None:
    repair = TextRepair()
    assert repair.feed(text) is text
    assert repair.end() == ""
    assert repair.repaired == 0


@given(st.lists(HALVES))
def test_any_cut_gives_the_same_text_and_count(chunks: list[str]) -> None:
    out, count = repair_all(chunks)
    whole, whole_count = repair_all(["".join(chunks)])
    assert "".join(out) == "".join(whole)
    assert count == whole_count == "".join(out).count("\ufffd")
    "".join(out).encode()  # no surrogate is left
    assert "\x00" not in "".join(out)
    assert len(out) == len(chunks) + 1  # none merged, none dropped


@given(HALVES)
def test_repair_agrees_with_pythons_utf_16_decoder(text: str) -> None:
    """Python's own decoder as the judge of what is a pair."""
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\x00", "\ufffd")
    assert repair_text(text) == expected
