"""Slows down whoever tries credentials: ten wrong ones a minute from an address, then none are answered.

Owns the bounded table of addresses. Only failures come here, so a good credential passes whatever others behind
its address do. It must not know what a credential is.
"""

import ipaddress
import math
from collections import OrderedDict, deque
from typing import Final

import trio

from server.problem import Problem

MAX_FAILURES: Final = 10
WINDOW_SECONDS: Final = 60.0
MAX_ADDRESSES: Final = 10_000
"""Beyond that the address that failed longest ago is forgotten."""


class LoginThrottle:
    """The latest failures of each address."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._failures)

    def failed(self, address: str) -> None:
        """Counts a wrong credential from this address.

        Raises `Problem` 429 `too_many_attempts`, which the client is told instead of what was wrong, once
        `MAX_FAILURES` came within `WINDOW_SECONDS`. Those that are answered so are not counted.
        """
        now = trio.current_time()
        network = _network(address)
        times = self._failures.setdefault(network, deque(maxlen=MAX_FAILURES))
        self._failures.move_to_end(network)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        if len(times) == MAX_FAILURES and times[0] + WINDOW_SECONDS > now:
            wait = math.ceil(times[0] + WINDOW_SECONDS - now)
            raise Problem(
                429,
                "too_many_attempts",
                f"Too many wrong credentials came from this address: at most {MAX_FAILURES} in "
                f"{WINDOW_SECONDS:g} seconds. Try again in {wait} seconds; a good credential is taken at once.",
                retry_after=wait,
            )
        times.append(now)


def _network(address: str) -> str:
    """The address, or for IPv6 its /64: a single host has as many addresses as it likes there."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:100]
    if parsed.version == 6:
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return address
