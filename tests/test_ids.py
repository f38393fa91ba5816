"""Ids: their prefix, their order in time, and texts that are no ids."""

import pytest

from server import ids


def test_ids_have_a_prefix_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (0, 1, 31, 32, 1_800_000_000_000, 2**48 - 1):
        monkeypatch.setattr("server.ids.time.time_ns", lambda now=milliseconds: now * 1_000_000 + 999_999)
        made.append(ids.new_id("conv"))
    assert made == sorted(made)
    assert all(ids.is_valid_id(name, "conv") for name in made)
    assert made[0].startswith("conv_0000000000")
    assert made[-1].startswith("conv_7ZZZZZZZZZ")


def test_ids_are_unique() -> None:
    assert len({ids.new_id("gen") for _ in range(10_000)}) == 10_000


GOOD = "gen_01K9ZV3R8QJ4M5N6P7S8T9VWXY"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (GOOD, True),
        (GOOD.replace("gen", "conv"), False),
        (GOOD.replace("gen", "xyz"), False),
        (GOOD.lower(), False),
        (GOOD[:-1], False),
        (GOOD + "0", False),
        (GOOD + "\n", False),
        (GOOD[:-1] + "\0", False),
        (GOOD[:-1] + "U", False),
        (GOOD[:-1] + "٣", False),
        ("", False),
    ],
)
def test_valid_and_invalid_ids(text: str, right: bool) -> None:
    assert ids.is_valid_id(text, "gen") is right
