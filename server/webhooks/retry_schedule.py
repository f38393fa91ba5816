"""When a webhook is tried again, and the other options of webhooks. Pure.

The schedule is that of Standard Webhooks; the bounds protect receivers and this process.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import SecretStr

from server.config.web_addresses import PublicUrl

USUAL_PORTS = (range(80, 81), range(443, 444), range(8080, 8081), range(8443, 8444))
"""The ports of public receivers. On other ports (25, 6379 …) another protocol may take a POST for its commands."""
ANY_PORT = (range(1, 65_536),)
MINUTE, HOUR = 60.0, 3600.0
SCHEDULE = (0.0, 5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR)
"""Seconds before each try. Standard Webhooks 1.0, "Deliverability and reliability", as far as it fits in a day."""


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """The options of webhooks.

    `secret` (`whsec_…`) signs; without one no webhook is accepted. `allow_private`: receivers may be in private
    networks. `ports`: ports that receivers may listen on; by default `USUAL_PORTS`, or any port where private
    networks are allowed.

    `schedule`: seconds before each try; the first counts from the generation's end. Each pause is lengthened by a
    random part of itself, at most `jitter`, so that a receiver that comes back does not get all webhooks at once.
    `timeout`: seconds that one try may take. `most_at_once`: tries under way in this process. `pause`: seconds
    between two reads of a conversation that grows. `public`: the URL of this server, as receivers see it.
    """

    secret: SecretStr | None = None
    allow_private: bool = False
    ports: tuple[range, ...] = ()
    schedule: tuple[float, ...] = SCHEDULE
    jitter: float = 0.2
    timeout: float = 15.0
    most_at_once: int = 50
    pause: float = 0.2
    public: PublicUrl = field(default_factory=PublicUrl)

    @property
    def allowed_ports(self) -> tuple[range, ...]:
        """The ranges of ports that receivers may listen on."""
        return self.ports or (ANY_PORT if self.allow_private else USUAL_PORTS)


def parse_ports(texts: Iterable[str]) -> tuple[range, ...]:
    """Ranges of ports from texts such as `443` and `8000-8999`. The settings have checked their form."""
    bounds = (text.partition("-") for text in texts)
    return tuple(range(int(first), int(last or first) + 1) for first, _, last in bounds)
