"""What a program chooses for its store: how long to wait, how often to look, how much to hold. No behaviour."""

from dataclasses import dataclass

from eventstore.batcher import Limits
from eventstore.observing import Observer


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Bounds and paces, in seconds, bytes and events.

    `patience`: how long an append or a read waits for a database that is away. `safety_poll`: how often
    sleepers are compared with the primary's heads, should every notification be lost. `observer` is told of
    commits and outages.
    """

    patience: float = 30.0
    safety_poll: float = 1.0
    read_limit: int = 500
    tail_stream_bytes: int = 512 * 1024
    tail_total_bytes: int = 64 * 1024 * 1024
    append_limits: Limits = Limits(questions=256, weight=5_000, waiting=10_000)
    read_limits: Limits = Limits(questions=128, weight=20_000, waiting=20_000)
    observer: Observer = Observer()
