"""A store's numbers at one moment, put together when somebody asks. Pure; counting is done where it happens."""

from collections.abc import Mapping
from dataclasses import dataclass

from eventstore.observing import Health
from eventstore.tail_cache import Tails


@dataclass(frozen=True, slots=True)
class Figures:
    """A store's numbers at one moment. Counts begin with the store's opening and never fall.

    `waiting` and `refused`, by queue (`appends`, `reads`, `heads`): questions that no batch has taken yet, and
    those that were turned away because too many waited. `readers`: subscriptions. `tail_hits` and `tail_misses`:
    looks of theirs answered from memory, and those that asked the database.

    `up`: nothing fails. `failures`, by kind: calls the database did not answer; `retries`, by call: those made
    again (an `append`: a batch sent once more, for its answer may be lost); `repeated`: appends that then, or by
    their key, stood in the log already. `away_seconds`: how long all `outages` took, with the one under way;
    `quiet_seconds`: since the last answer.
    """

    waiting: Mapping[str, int]
    refused: Mapping[str, int]
    readers: int
    tail_hits: int
    tail_misses: int
    tail_bytes: int
    up: bool
    outages: int
    away_seconds: float
    quiet_seconds: float
    failures: Mapping[str, int]
    retries: Mapping[str, int]
    repeated: int


def figures(queues: Mapping[str, tuple[int, int]], readers: int, tails: Tails, health: Health) -> Figures:
    """The numbers now. `queues`: by name, how many wait and how many were refused."""
    return Figures(
        waiting={name: waiting for name, (waiting, _) in queues.items()},
        refused={name: refused for name, (_, refused) in queues.items()},
        readers=readers,
        tail_hits=tails.hits,
        tail_misses=tails.misses,
        tail_bytes=tails.size,
        up=health.up,
        outages=health.outages,
        away_seconds=health.away_seconds,
        quiet_seconds=health.quiet_seconds,
        failures=dict(health.failures),
        retries=dict(health.retries),
        repeated=health.repeated,
    )
