"""The digest of a call's arguments: the examples of RFC 8785, and equality exactly where JSON values are
equal.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.workflows import NotCanonical, digest

LIMIT = 2**53 - 1

# RFC 8785, appendix B: the bits of a double, and how it is written.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

# Small enough that two of them are often the same.
SCALARS = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, 0.0, -0.0, 1.0, 0.1, "", "1", "0", "true", "a", "é", "😀", "\ufb33"]
    ),
    st.integers(-LIMIT, LIMIT),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
NAMES = st.text(st.sampled_from("ab1\r\u0080ö€😀\ufb33"), max_size=2)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=3)


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def json_value(value: Any) -> Any:
    """A JSON value to compare by: 1 equals 1.0 as in JSON, and not true as in Python."""
    if isinstance(value, dict):
        return "object", frozenset((name, json_value(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return "array", tuple(json_value(inner) for inner in value)
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int | float):
        return "number", float(value)
    return "string", value


@pytest.mark.parametrize(("bits", "written"), NUMBERS.items())
def test_numbers_of_appendix_b(bits: str, written: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert digest({"n": number}) == hashed('{"n":' + written + "}")


def test_example_of_section_3_2_2() -> None:
    text = r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
                "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    canonical = (
        r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' + r"'" + r'B\"\\\\\"/"}'
    )
    assert digest(json.loads(text)) == hashed(canonical)


def test_order_of_section_3_2_3() -> None:
    names = ["€", "\r", "\ufb33", "1", "😀", "\u0080", "ö"]
    ordered = '{"\\r":1,"1":1,"\u0080":1,"ö":1,"€":1,"😀":1,"\ufb33":1}'
    assert digest(dict.fromkeys(names, 1)) == hashed(ordered)


def test_digest_is_lower_case_sha256() -> None:
    assert digest({}) == hashed("{}")
    assert re.fullmatch("[0-9a-f]{64}", digest({}))


@settings(deadline=None)
@given(ARGUMENTS, ARGUMENTS)
@example({"a": True}, {"a": 1})
@example({"a": 1}, {"a": 1.0})
@example({"a": 0.0}, {"a": -0.0})
@example({"a": "1"}, {"a": 1})
@example({"a": [], "b": {}}, {"a": {}, "b": []})
@example({"a": None}, {})
@example({"a": [1, 2]}, {"a": [2, 1]})
@example({"a": ["1,2"]}, {"a": ["1", "2"]})
def test_digests_are_equal_for_equal_values_only(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (digest(one) == digest(other)) == (json_value(one) == json_value(other))


@settings(deadline=None)
@given(ARGUMENTS, st.randoms(use_true_random=False))
def test_field_order_and_json_round_trip_keep_the_digest(arguments: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            random.shuffle(items)
            return {name: shuffled(inner) for name, inner in items}
        return [shuffled(inner) for inner in value] if isinstance(value, list) else value

    sent = json.loads(json.dumps(shuffled(arguments), indent=2, ensure_ascii=random.random() < 0.5))
    assert digest(sent) == digest(arguments)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_neighbouring_numbers_differ(number: float, other: float) -> None:
    assert (digest({"n": number}) == digest({"n": other})) == (number == other)
    beside = math.nextafter(number, math.inf)
    if math.isfinite(beside):
        assert digest({"n": number}) != digest({"n": beside})


@pytest.mark.parametrize("fits", [LIMIT, -LIMIT])
def test_largest_exact_integers(fits: int) -> None:
    assert digest({"id": fits}) == hashed(f'{{"id":{fits}}}')


@pytest.mark.parametrize("long", [LIMIT + 1, LIMIT + 2, -LIMIT - 2, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize(
    "text", ['{"id":%d}', '{"a":{"é":[0.5,{"id":%d}]},"b":"€"}', '{"\\r":1,"1":[%d],"€":1,"😀":1,"\ufb33":1}']
)
def test_longer_integers_keep_all_digits(long: int, text: str) -> None:
    """All other values are written as RFC 8785 says, and fields in its order."""
    value = json.loads(text % long)
    assert digest(dict(reversed(value.items()))) == hashed(text % long)
    assert digest(value) != digest(json.loads(text % (long + 1)))


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"id": 10**5000}, r"id: an integer of too many digits; write it as a string\."),
        ({"fits": 1, "id": [LIMIT + 1, 10**5000]}, "id: an integer of too many digits"),
        ({"id": LIMIT + 1, "n": math.nan}, "n: JSON has neither"),
        ({"of": {1: 2, "id": LIMIT + 1}}, "of: object keys must be strings"),
        ({"of": {"\ud83d": LIMIT + 1}}, "of: a name holds half a character"),
        ({"n": math.nan}, "n: JSON has neither infinite numbers nor NaN"),
        ({"n": -math.inf}, "n: JSON has neither"),
        ({"text": "\ud83d"}, "text: .*non-UTF-8"),
        ({"of": {"\ud83d": 1}}, "of: a name holds half a character"),
        ({"\ud83d": 1}, "\ufffd: a name holds half a character"),
        ({"of": {1: 2}}, "of: object keys must be strings"),
        ({"of": {1, 2}}, "of: unsupported type"),
        ({"deep": nested(5000)}, "deep: nested too deep"),
    ],
)
def test_value_without_a_canonical_form_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(NotCanonical, match=f"^{said}") as caught:
        digest(arguments)
    str(caught.value).encode()  # it may go into the log
