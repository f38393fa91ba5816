"""The limits as an operator writes them: `TOKENTAPE_LIMITS`, and those that a key has of its own.

    key.requests=20/s, key.requests=600/minute, user.runs=3, tenant.tokens=1000000/day, tenant.cost=5/day,
    tenant.upload=1000000000/day

Owns the names, the form and its messages. `key` is each API key, with the sessions and tickets made from it;
`user` is each subject that signs in with a token of an embedding app, and whoever signs in with nothing; `tenant`
is all of a tenant together. Pure: it must not know what is counted, nor where.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

Level = Literal["key", "user", "tenant"]
Meter = Literal["requests", "readers", "runs", "tokens", "cost", "upload"]
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
METERS: Final[tuple[Meter, ...]] = get_args(Meter)
AT_ONCE: Final[frozenset[Meter]] = frozenset({"readers", "runs"})
"""Meters of what goes on at the same time: a limit of one names no time."""
DAILY: Final[frozenset[Meter]] = frozenset({"tokens", "cost", "upload"})
"""Meters whose sums are kept for a day, in UTC."""
OF_RUNS: Final[tuple[Meter, ...]] = ("tokens", "cost")
"""Those of them that a run adds to, so that no run is started when one has reached its limit."""
SECONDS: Final = {"s": 1, "second": 1, "min": 60, "minute": 60, "day": 86_400}
MAX_VALUE: Final = 10**15
NO_LIMIT: Final = "none"
"""As the value of a key's own limit: what holds for other keys does not hold for this one."""

_SHAPES: Final = {
    "requests": "a whole number and a time, such as 20/s or 600/minute",
    "readers": "a whole number, such as 50",
    "runs": "a whole number, such as 3",
    "tokens": "a whole number a day, such as 1000000/day",
    "cost": "a number a day, such as 5/day or 0.5/day",
    "upload": "a whole number of bytes a day, such as 1000000000/day",
}
_VALUE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)(?:\s*/\s*([a-z]+))?")


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. `seconds`: of the time that `value` is for; 0 where it is for one moment."""

    level: Level
    meter: Meter
    value: float
    seconds: int

    @property
    def name(self) -> str:
        """As in the setting: `key.requests`. One of eighteen, so it may be a label of the metrics."""
        return f"{self.level}.{self.meter}"

    @property
    def amount(self) -> str:
        """The value as in the setting: `20/s`."""
        unit = {0: "", 1: "/s", 60: "/minute", 86_400: "/day"}[self.seconds]
        return f"{self.value:.9f}".rstrip("0").rstrip(".") + unit

    def __str__(self) -> str:
        return f"{self.name}={self.amount}"


class UploadSum(Protocol):
    """Counts the bytes that this process was sent for one account since it knows the account."""

    uploaded: float


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of a limit of the day: `left`, not above 0 once it is reached. `seconds_left`: of the day.

    `account`: whose limit it is; `uploaded`: its count at that time.
    """

    limit: Limit
    left: float
    seconds_left: float
    account: UploadSum
    uploaded: float

    @property
    def left_for_uploads(self) -> float:
        """What is left now: `left`, less what all uploads to this process have brought since."""
        return self.left - (self.account.uploaded - self.uploaded)


@dataclass(frozen=True, slots=True)
class LimitList:
    """Limits in the order in which they were written. `lifted`: meters without any, in a key's own list."""

    limits: tuple[Limit, ...] = ()
    lifted: frozenset[Meter] = frozenset()

    def at(self, level: Level) -> tuple[Limit, ...]:
        """Those of one level."""
        return tuple(limit for limit in self.limits if limit.level == level)

    def for_key(self, own: "LimitList") -> tuple[Limit, ...]:
        """Those of a key that has limits of its own: each of these meters comes from them alone."""
        replaced = own.lifted | {limit.meter for limit in own.limits}
        return (*(limit for limit in self.at("key") if limit.meter not in replaced), *own.limits)

    def __str__(self) -> str:
        return ", ".join([*map(str, self.limits), *(f"key.{meter}={NO_LIMIT}" for meter in sorted(self.lifted))])


def parse_limits(text: str) -> LimitList:
    """The limits in the text of `TOKENTAPE_LIMITS`. Raises ValueError, which says what is right."""
    return LimitList(tuple(_checked([_parse(part) for part in _parts(text)])))


def parse_key_limits(text: str) -> LimitList:
    """The limits of a single key; the level may be left out: `requests=5/s, runs=1, cost=none`.

    Raises ValueError, which says what is right.
    """
    limits, lifted = list[Limit](), set[Meter]()
    for part in _parts(text):
        name, equals, value = (one.strip() for one in part.partition("="))
        name = name.removeprefix("key.")
        if "." in name:
            raise ValueError(f"{part}: a key has no limits but its own, such as requests, runs or tokens")
        if equals and value == NO_LIMIT:
            lifted.add(_parse(f"key.{name}={_any_value(name)}").meter)
        else:
            limits.append(_parse(f"key.{name}{equals}{value}"))
    for limit in _checked(limits):
        if limit.meter in lifted:
            raise ValueError(f"{limit.meter} has a limit here and is lifted too: leave one out")
    return LimitList(tuple(limits), frozenset(lifted))


def _parts(text: str) -> list[str]:
    return [part for one in text.split(",") if (part := one.strip())]


def _any_value(meter: str) -> str:
    return "1/s" if meter == "requests" else "1/day" if meter in DAILY else "1"


def _parse(part: str) -> Limit:
    name, equals, value = (one.strip() for one in part.partition("="))
    level, dot, meter = name.partition(".")
    if not (equals and dot):
        raise ValueError(f"{part}: a limit is written as key.requests=20/s, with commas between several")
    if level not in LEVELS or meter not in METERS:
        raise ValueError(
            f"{name} is no limit: it begins with one of {', '.join(LEVELS)} and ends with one of "
            f"{', '.join(METERS)}, such as user.runs"
        )
    return Limit(level, meter, *_parse_value(name, meter, value))


def _parse_value(name: str, meter: str, text: str) -> tuple[float, int]:
    """The number and its time in seconds."""
    found = _VALUE.fullmatch(text)
    unit = found[2] if found else None
    seconds = SECONDS.get(unit, -1) if unit else 0
    allowed = {0} if meter in AT_ONCE else {86_400} if meter in DAILY else {1, 60}
    value = float(found[1]) if found else math.nan
    if found is None or seconds not in allowed or (meter != "cost" and not value.is_integer()):
        raise ValueError(f"{name}={text}: it has to be {_SHAPES[meter]}")
    if not 0 < value <= MAX_VALUE:
        raise ValueError(
            f"{name}={text}: it has to be above 0 and at most {MAX_VALUE}; to allow nothing at all, leave out the "
            "scope of the key or the token"
        )
    return value, seconds


def _checked(limits: list[Limit]) -> list[Limit]:
    seen: dict[tuple[str, int], Limit] = {}
    for limit in limits:
        if (first := seen.setdefault((limit.name, limit.seconds), limit)) is not limit:
            raise ValueError(f"{first} and {limit}: only one of them can hold")
    return limits
