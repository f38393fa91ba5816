"""What can be chosen about webhooks, and the bounds that protect receivers and this process. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import SecretStr

from server.config.public_url import PublicUrl

USUAL_PORTS = (range(80, 81), range(443, 444), range(8080, 8081), range(8443, 8444))
"""Where receivers of the public network listen. On others (25, 6379 …) a POST could do what nobody there meant."""
ANY_PORT = (range(1, 65_536),)
MINUTE, HOUR = 60.0, 3600.0
SCHEDULE = (0.0, 5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR)
"""Standard Webhooks' proposal, "Deliverability and reliability", as far as it stays within a day."""


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """`secret` (`whsec_…`) signs; without one no webhook is taken. `allow_private`: receivers in private networks.
    `ports`: where receivers may listen; by default the usual ones, and any where private networks are allowed.

    `schedule`: seconds before each try, the first counted from the generation's end; each is up to `jitter` of
    itself longer, so that receivers that came back are not met by all at once. `timeout`: seconds that one try may
    take. `most_at_once`: tries under way in this process. `pause`: seconds between two looks at a log that grows.
    `public`: where a receiver finds this server.
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
        """The ranges of ports that a webhook may go to."""
        return self.ports or (ANY_PORT if self.allow_private else USUAL_PORTS)


def parse_ports(texts: Iterable[str]) -> tuple[range, ...]:
    """Ranges from `443` and `8000-8999`, as the setting has checked them."""
    bounds = (text.partition("-") for text in texts)
    return tuple(range(int(first), int(last or first) + 1) for first, _, last in bounds)
