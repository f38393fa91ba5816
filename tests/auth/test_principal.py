"""Scopes, tenants and subjects: what is taken, what is refused, and whom an idempotency key belongs to."""

import pytest

from server.auth.principal import (
    ALL_SCOPES,
    ANONYMOUS,
    MEANINGS,
    Principal,
    UnknownScope,
    in_order,
    is_subject,
    is_tenant,
    parse_scopes,
)


@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        ("read", {"read"}),
        ("read,write", {"read", "write"}),
        (" read , write,,decide ", {"read", "write", "decide"}),
        ("read write read", {"read", "write"}),
        (",".join(MEANINGS), ALL_SCOPES),
    ],
)
def test_scopes_that_are_taken(text: str, scopes: set[str]) -> None:
    assert parse_scopes(text) == scopes


@pytest.mark.parametrize("text", ["reed", "read,Write", "read;write", "*", "all", "read,\x00"])
def test_an_unknown_scope_is_answered_with_the_known_ones(text: str) -> None:
    with pytest.raises(UnknownScope) as caught:
        parse_scopes(text)
    for name in ALL_SCOPES:
        assert name in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_no_scope_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="at least one scope"):
        parse_scopes(text)


def test_scopes_are_shown_in_one_order() -> None:
    assert in_order({"roles", "write", "read", "unheard"}) == ["read", "write", "roles"]


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        *((name, True) for name in ("a", "0", "acme", "a-b_c", "9" * 63)),
        *((name, False) for name in ("", "A", "-a", "_a", "a/b", "a b", "a" * 64, "ä", "a\n", None, 1, ["a"])),
    ],
)
def test_tenants(name: object, valid: bool) -> None:
    assert is_tenant(name) is valid


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        *((name, True) for name in ("ada", "Ada Lovelace", "auth0|1", "a/b", "x" * 200, "é", "a key_")),
        *((name, False) for name in ("anonymous", "tokentape", "operator", "key_1", "key_")),
        *((name, False) for name in ("", " a", "a ", "a\nb", "a\x00", "\u202ea", "\ud800", "x" * 201, None, 7)),
    ],
)
def test_subjects(name: object, valid: bool) -> None:
    assert is_subject(name) is valid


def test_each_scope_stands_for_itself() -> None:
    for scope in ALL_SCOPES:
        only = Principal("acme", "ada", frozenset({scope}), "jwt")
        assert {name for name in ALL_SCOPES if only.may(name)} == {scope}


def test_whose_idempotency_keys() -> None:
    assert ANONYMOUS.caller == "anonymous"
    assert Principal("acme", "ada", ALL_SCOPES, "jwt").caller == "acme/ada"
    # A user who is called so is somebody else.
    assert Principal("default", "anonymous", ALL_SCOPES, "jwt").caller == "default/anonymous"


def test_what_the_authenticator_knows_is_neither_shown_nor_compared() -> None:
    one = Principal("acme", "ada", ALL_SCOPES, "jwt", live="secret")
    assert one == Principal("acme", "ada", ALL_SCOPES, "jwt")
    assert "secret" not in repr(one)
