"""What can be chosen about webhooks, and the bounds that protect receivers and this process. Pure."""

from dataclasses import dataclass

from pydantic import SecretStr

MINUTE, HOUR = 60.0, 3600.0
SCHEDULE = (0.0, 5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR)
"""Standard Webhooks' proposal, "Deliverability and reliability", as far as it stays within a day."""


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """`secret` (`whsec_…`) signs; without one no webhook is taken. `allow_private`: receivers in private networks.

    `schedule`: seconds before each try, the first counted from the generation's end; each is up to `jitter` of
    itself longer, so that receivers that came back are not met by all at once. `timeout`: seconds that one try may
    take. `most_at_once`: tries under way in this process. `pause`: seconds between two looks at a log that grows.
    """

    secret: SecretStr | None = None
    allow_private: bool = False
    schedule: tuple[float, ...] = SCHEDULE
    jitter: float = 0.2
    timeout: float = 15.0
    most_at_once: int = 50
    pause: float = 0.2
