"""When a webhook is tried again, the other options of webhooks, and the places for tries.

What protects receivers, other tenants and this process. It must not know what a message says.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import trio
from pydantic import SecretStr

from server.config.web_addresses import PublicUrl
from server.config.webhook_signing_keys import SigningKey
from server.webhooks.target_address import ANY_PORT, USUAL_PORTS

MINUTE, HOUR = 60.0, 3600.0
SCHEDULE = (0.0, 5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR)
"""Seconds before each try. Standard Webhooks 1.0, "Deliverability and reliability", as far as it fits in a day."""


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """The options of webhooks.

    `secret` (`whsec_…`) and `keys` sign, each for itself; without any of them no webhook is accepted.
    `allow_private`: receivers may be in private networks. `ports`: ports that receivers may listen on; by default
    `USUAL_PORTS`, or any port where private networks are allowed.

    `schedule`: seconds before each try; the first counts from what is told. Each pause is lengthened by a random
    part of itself, at most `jitter`, so that a receiver that comes back does not get all webhooks at once.
    `timeout`: seconds that one try may take. `most_at_once`: tries under way in this process, of which
    `most_of_tenant` may be of one tenant and `most_to_host` go to one host. `most_open`: webhooks of one tenant
    that this process has not done with. `pause`: seconds between two reads of a conversation that grows. `public`:
    the URL of this server, as receivers see it.
    """

    secret: SecretStr | None = None
    allow_private: bool = False
    ports: tuple[range, ...] = ()
    keys: tuple[SigningKey, ...] = ()
    schedule: tuple[float, ...] = SCHEDULE
    jitter: float = 0.2
    timeout: float = 15.0
    most_at_once: int = 50
    most_of_tenant: int = 25
    most_to_host: int = 10
    most_open: int = 10_000
    pause: float = 0.2
    public: PublicUrl = field(default_factory=PublicUrl)

    @property
    def can_sign(self) -> bool:
        """Whether there is anything to sign with. Nothing is sent unsigned."""
        return self.secret is not None or bool(self.keys)

    @property
    def allowed_ports(self) -> tuple[range, ...]:
        """The ranges of ports that receivers may listen on."""
        return self.ports or (ANY_PORT if self.allow_private else USUAL_PORTS)


class TryPlaces:
    """The places for tries of one process.

    One tenant, or one receiver that lets each try wait for its whole time, leaves places for all others.
    """

    def __init__(self, options: WebhookOptions) -> None:
        self._options = options
        self._all = trio.CapacityLimiter(options.most_at_once)
        # Weak: each lasts as long as a try waits for it or has a place.
        self._some: WeakValueDictionary[tuple[str, str], trio.CapacityLimiter] = WeakValueDictionary()

    @asynccontextmanager
    async def place(self, tenant: str, host: str) -> AsyncIterator[None]:
        """A place for one try, as soon as there is one. A place of all is taken last, so that none waits in it."""
        of_tenant = self._limiter("tenant", tenant, self._options.most_of_tenant)
        to_host = self._limiter("host", host, self._options.most_to_host)
        async with of_tenant, to_host, self._all:
            yield

    def _limiter(self, kind: str, name: str, most: int) -> trio.CapacityLimiter:
        limiter = self._some.get((kind, name))
        if limiter is None:
            limiter = self._some[kind, name] = trio.CapacityLimiter(most)
        return limiter
