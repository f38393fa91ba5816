"""What is so at the moment of a scrape: the values that others hold, handed in by whoever can see them all."""

from collections.abc import Mapping
from dataclasses import dataclass

from eventstore import Figures


@dataclass(frozen=True, slots=True)
class Present:
    """`readers`: open streams and held requests, by transport. `most_…`: beyond that, requests are refused.

    `busy`: the share of a core this process used lately; `pause`: seconds between two looks of a run upstream.

    `refused`: what was turned away to pass, by the code of its problem. `unknown`: messages of upstreams that
    nobody understood, by provider.
    """

    store: Figures
    runs: int
    most_runs: int
    readers: Mapping[str, int]
    most_streams: int
    draining: bool
    refused: Mapping[str, int]
    busy: float
    pause: float
    unknown: Mapping[str, int]
