"""How limits are written: every meter at every level, and what is said of a bad one."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth.limits.limit_list import AT_ONCE, DAILY, LEVELS, METERS, Limit, parse_key_limits, parse_limits

GOOD = {
    "requests": "20/s",
    "readers": "50",
    "runs": "3",
    "tokens": "1000000/day",
    "cost": "0.5/day",
    "upload": "1000000000/day",
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("meter", METERS)
def test_every_meter_at_every_level(level: str, meter: str) -> None:
    text = f"{level}.{meter}={GOOD[meter]}"
    (limit,) = parse_limits(text).limits
    assert (limit.level, limit.meter, str(limit)) == (level, meter, text)
    assert limit.seconds == (0 if meter in AT_ONCE else 86_400 if meter in DAILY else 1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5/s", 1), ("5/second", 1), ("5/min", 60), ("5/minute", 60), (" 5 / minute ", 60)]
)
def test_times_of_requests(text: str, seconds: int) -> None:
    assert parse_limits(f"key.requests={text}").limits == (Limit("key", "requests", 5.0, seconds),)


def test_several_with_commas_and_spaces() -> None:
    limits = parse_limits(" key.requests=20/s,key.requests=600/minute , user.runs = 3, tenant.cost=5/day,")
    assert str(limits) == "key.requests=20/s, key.requests=600/minute, user.runs=3, tenant.cost=5/day"
    assert [str(limit) for limit in limits.at("user")] == ["user.runs=3"]
    assert parse_limits("").limits == parse_limits(" , ").limits == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("requests=20/s", "written as key.requests=20/s"),
        ("key.requests", "written as key.requests=20/s"),
        ("key.requests=20", "such as 20/s or 600/minute"),
        ("key.requests=20/day", "such as 20/s or 600/minute"),
        ("key.requests=20/fortnight", "such as 20/s or 600/minute"),
        ("key.requests=1.5/s", "a whole number and a time"),
        ("key.requests=-1/s", "a whole number and a time"),
        ("key.requests=0/s", "above 0"),
        ("key.requests=٣/s", "a whole number and a time"),
        ("user.runs=3/s", "a whole number, such as 3"),
        ("user.runs=nan", "a whole number, such as 3"),
        ("tenant.tokens=100", "such as 1000000/day"),
        ("tenant.tokens=9999999999999999/day", "at most"),
        ("tenant.cost=5/minute", "such as 5/day"),
        ("tenant.upload=5/s", "such as 1000000000/day"),
        ("tenant.upload=0.5/day", "a whole number of bytes a day"),
        ("server.runs=5", "begins with one of key, user, tenant"),
        ("key.run=5", "ends with one of requests, readers, runs, tokens, cost, upload"),
        ("key.runs=5, key.runs=6", "key.runs=5 and key.runs=6: only one"),
        ("key.requests=5/s, key.requests=6/second", "only one of them"),
        ("key.runs=none", "a whole number, such as 3"),
    ],
)
def test_a_bad_one_is_told_what_is_right(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        parse_limits(text)
    assert says in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_limits_or_a_sentence(text: str) -> None:
    for parse in (parse_limits, parse_key_limits):
        with suppress(ValueError):
            limits = parse(text)
            assert parse(str(limits)) == limits


# -- of a single key


def test_a_keys_own_limits_replace_those_of_the_same_meter() -> None:
    everybodys = parse_limits("key.requests=20/s, key.requests=9/minute, key.runs=3, key.cost=1/day, user.runs=1")
    own = parse_key_limits("requests=5/s, key.readers=2, cost=none, upload=none")
    assert str(own) == "key.requests=5/s, key.readers=2, key.cost=none, key.upload=none"
    assert parse_key_limits(str(own)) == own
    assert [str(limit) for limit in everybodys.for_key(own)] == ["key.runs=3", "key.requests=5/s", "key.readers=2"]
    assert everybodys.for_key(parse_key_limits("")) == everybodys.at("key")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("user.runs=3", "no limits but its own"),
        ("runs", "written as"),
        ("runs=3, runs=none", "leave one out"),
        ("requests=none, requests=1/s", "leave one out"),
        ("upload=5", "such as 1000000000/day"),
        ("nothing=none", "is no limit"),
    ],
)
def test_a_bad_one_of_a_key(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_key_limits(text)
