"""The refusals of a credential, as clients are told: each with what was wrong and how to mend it.

Owns the codes and their words. A credential never stands in one. It must not know when each applies.
"""

from server.problem import Problem


def unauthenticated() -> Problem:
    """No credential was sent, and this server asks for one."""
    return Problem(
        401,
        "unauthenticated",
        "This server asks who calls: send `Authorization: Bearer` with an API key or a token. "
        "The operator makes a key with `tokentape keys create`.",
    )


def invalid(why: str) -> Problem:
    """The credential is unknown, malformed, or not for this. `why` is a sentence."""
    return Problem(401, "invalid_credential", why)


def unknown(what: str) -> Problem:
    """A credential of the right form that nobody was given."""
    return invalid(f"This server knows no such {what}.")


def expired(what: str) -> Problem:
    """The credential was good and its time is over."""
    return Problem(401, "expired_credential", f"This {what} has expired. Get a new one.")


def revoked(what: str) -> Problem:
    """Somebody has ended the credential, or what it was made from."""
    return Problem(401, "revoked_credential", f"This {what} was revoked or has ended. Get a new one.")


def ticket_used() -> Problem:
    """The ticket has another reader, or a newer connection of the same one."""
    return Problem(
        401,
        "ticket_used",
        "This ticket was used before. It is good for one stream of one reader, and for that reader's reconnects "
        "with the last event's id. Get a new ticket.",
    )


def scope_required(scope: str) -> Problem:
    """The credential is good and does not allow this."""
    return Problem(
        403,
        "scope_required",
        f"This needs the scope `{scope}`, which the credential does not have.",
        extra={"scope": scope},
    )


NAMES = {"key": "API key", "ses": "session", "tick": "ticket", "jwt": "token"}
"""How each kind of credential is called towards clients."""
