"""The text of credentials: its form, its hash, and that no text of any kind makes the parser fail."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.auth.credentials import KINDS, MAX_LENGTH, Kind, generate, hash_of, parse, redact, same


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_is_recognised(kind: Kind) -> None:
    made = generate(kind)
    found = parse(made.text)
    assert found is not None
    assert (found.kind, found.id, found.hash) == (kind, made.id, made.hash)
    assert made.text.startswith(f"tt_{made.id}_")
    assert made.id.startswith(f"{kind}_")
    assert made.hash == hashlib.sha256(made.text.encode()).digest()
    assert len(made.text) <= MAX_LENGTH
    assert made.text not in repr(made)
    assert same(made.hash, hash_of(made.text))
    assert not same(made.hash, generate(kind).hash)


def test_no_two_are_the_same() -> None:
    assert len({generate("key").text for _ in range(1000)}) == 1000


GOOD = "tt_key_01M8D7Q9WWE57ZD7BX6D2SHB40_" + "Ab1-_" * 8 + "xyz"
"""Made up: names of tests have to be the same in every process that collects them."""


@pytest.mark.parametrize(
    "text",
    [
        *("", "tt_", "tt_key_", GOOD[:-1], GOOD + "a", GOOD + "\n", " " + GOOD, GOOD.upper(), GOOD.lower()),
        *(GOOD.replace("tt_key", "tt_kex"), GOOD.replace("tt_", "tx_"), GOOD[:-1] + "=", GOOD[:-1] + "é"),
        *(GOOD.replace("_key_", "_ses_tick_"), "x" * 10_000_000, GOOD * 2, "tt_key_" + "I" * 26 + "_" + "a" * 43),
    ],
)
def test_what_is_none(text: str) -> None:
    assert parse(text) is None


@given(st.text(max_size=200) | st.from_regex(r"tt_(key|ses|tick)_[0-9A-Z]{20,30}_[A-Za-z0-9_-]{40,46}"))
@example("\ud800")
@example(GOOD)
def test_no_text_makes_it_fail(text: str) -> None:
    found = parse(text)
    if found is not None:
        assert found.hash == hash_of(text)
        assert text.startswith(f"tt_{found.id}_")
    hash_of(text)
    redact(text)


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize("around", ["{}", "a={};b", "Bearer {}", '"{}"', "?ticket={}&x=1", "[{}]", "a\n{}\nb"])
@pytest.mark.parametrize("secret", [*(GOOD.replace("key", kind) for kind in KINDS), JWT])
def test_redacted(around: str, secret: str) -> None:
    shown = redact(around.format(secret))
    assert secret not in shown
    assert secret[-20:] not in shown
    assert shown == around.format(secret[: secret.index("_", 3) + 1] + "…" if secret != JWT else "eyJ…")


def test_a_cut_one_is_redacted_too() -> None:
    assert redact(GOOD[:40]) == "tt_key_…"
    assert redact("nothing here") == "nothing here"
