"""Who may call this server, and how much: what the settings ask for, and the rule of the open port.

A server that nobody made a key for serves everybody who reaches it. That is right on a machine's own loopback, and
on no other address unless the operator says so. It must not know requests.
"""

from server.auth.auth_store import AuthStore
from server.auth.authenticator import Authenticator
from server.auth.jwt_verifier import JwtVerifier
from server.auth.key_set import BadKeySet, KeySet
from server.auth.limits.limit_list import parse_limits
from server.auth.limits.rate_limiter import RateLimiter
from server.config import BadSettings, Settings
from server.config.web_addresses import is_loopback
from server.observability import Metrics, logs

log = logs.get("auth")

CREATE_KEY = "tokentape keys create --tenant default --scopes read,write,decide"
"""The command that the messages tell. It uses the same settings for the database as the server."""


async def make_authenticator(settings: Settings, store: AuthStore) -> Authenticator:
    """The authenticator over an open or unopened store. Raises `BadSettings` for a key file that is no good.

    Keys at a URL are not waited for: the app that publishes them may start later than this server.
    """
    return Authenticator(
        store,
        jwt=await _make_jwt_verifier(settings),
        require_keys=settings.require_keys,
        session_seconds=settings.session_seconds,
    )


def make_rate_limiter(settings: Settings, store: AuthStore, metrics: Metrics) -> RateLimiter:
    """The limits of callers. Raises `BadSettings` for limits that are not well written."""
    try:
        limits = parse_limits(settings.limits or "")
    except ValueError as error:
        raise BadSettings(f"TOKENTAPE_LIMITS: {error}") from None
    metrics.rate_limited.expect((limit.name,) for limit in limits.limits)
    return RateLimiter(limits, store, metrics.rate_limited.add)


async def _make_jwt_verifier(settings: Settings) -> JwtVerifier | None:
    if settings.jwt_keys is None:
        return None
    key_set = KeySet(settings.jwt_keys)
    if "://" not in settings.jwt_keys:
        try:
            await key_set.load()
        except BadKeySet as error:
            raise BadSettings(f"TOKENTAPE_JWT_KEYS: {error}") from None
    return JwtVerifier(key_set, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


def check_open_port(settings: Settings, authenticator: Authenticator) -> None:
    """Says in one line that everybody may do everything, where that is so.

    Raises `BadSettings`, with the command that mends it, if other machines could reach such a server.
    """
    if authenticator.required:
        return
    if is_loopback(settings.bind):
        log.info("no key was made yet: whoever reaches this port may do everything", next_step=CREATE_KEY)
    elif settings.allow_anonymous:
        log.warning(
            "other machines reach this port, and everybody may do everything (TOKENTAPE_ALLOW_ANONYMOUS)",
            bind=settings.bind,
            next_step=CREATE_KEY,
        )
    else:
        raise BadSettings(
            f"TOKENTAPE_BIND = {settings.bind!r}: other machines can reach this address, and no key was made yet, "
            "so whoever comes could read and do everything. Make a key, with the same settings for the database, "
            f"then start again:\n  {CREATE_KEY}\n"
            "Or serve this machine alone (127.0.0.1:8000). On a private network behind something that signs "
            "people in, set TOKENTAPE_ALLOW_ANONYMOUS=true."
        )
