"""What can go wrong between a client and a server. Each error says the next step for the person at the keyboard.

Owns these messages; it must not know which command or transport raises them.
"""

from typing import Any


class ClientError(Exception):
    """A call on a server failed.

    `code` is for programs. `next_step` says what the person can do; it may be empty. `is_temporary`: the same
    request, with the same idempotency key, may succeed when it is sent again. `retry_after`: after how many
    seconds, if the server said so.
    """

    is_temporary = False

    def __init__(self, code: str, message: str, next_step: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step
        self.retry_after = retry_after


class BadAddress(ClientError):
    """The URL, or the file of certificates, is not valid. Whoever gave it is to blame."""


class BadKey(BadAddress):
    """The key for the server cannot be one, or its file cannot be read. Whoever gave it is to blame."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__("bad_key", message, next_step)


class Unreachable(ClientError):
    """There is no connection to the server, or it was cut. It may come back."""

    is_temporary = True

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            "unreachable",
            f"no server answers at {url} ({why})",
            "Start one with `tokentape serve`, or name it with --url or TOKENTAPE_URL.",
        )


class Untrusted(ClientError):
    """This machine does not trust the server's certificate."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            "certificate_not_trusted",
            f"the certificate of {url} is not trusted ({why})",
            "Give the certificate of the authority that signed it with --cacert FILE or TOKENTAPE_CACERT.",
        )


class Refused(ClientError):
    """The server refused the request, with a problem document (RFC 9457).

    `status` says who is to blame: 4xx the caller, 5xx the server.
    """

    def __init__(self, status: int, problem: dict[str, Any], retry_after: float | None = None) -> None:
        code = str(problem.get("code", f"http_{status}"))
        detail = str(problem.get("detail", f"The server answered with status {status}."))
        next_step = _NEXT_STEPS.get(code) or _NEXT_STEPS_BY_STATUS.get(status, "")
        super().__init__(code, detail, next_step, retry_after=retry_after)
        self.status = status
        self.problem = problem
        # A key that is refused stays refused: sent again and again, it would only be counted as an attack.
        self.is_temporary = status in (429, 502, 503, 504) and code != "too_many_attempts"


_SET_KEY = (
    "Set TOKENTAPE_KEY to a key of the server, or name a file that holds it with --key-file FILE; "
    "`tokentape keys create` on the server makes one."
)
_NEW_KEY = (
    "`tokentape keys create` on the server makes a new one; set it as TOKENTAPE_KEY or with --key-file FILE."
)
_NEXT_STEPS = {
    "not_found": "Ids are listed by GET /v1/conversations; --url names the server they belong to.",
    "host_not_allowed": "Or call the server by a name it knows, such as the one it was bound to.",
    "cursor_ahead": "Start at that position or before it.",
    "generation_running": "`tokentape tail` shows it; POST /v1/generations/ID/cancel ends it.",
    "unauthenticated": _SET_KEY,
    "invalid_credential": f"Is it this server's key, and whole? {_NEW_KEY}",
    "expired_credential": _NEW_KEY,
    "revoked_credential": _NEW_KEY,
    "too_many_attempts": "The key that was sent is not one of this server's. Set another one, then wait a minute.",
    "scope_required": "Use a key that has this scope: `tokentape keys list` shows what each key may do.",
}
_NEXT_STEPS_BY_STATUS = {401: _SET_KEY}
"""For codes that this version does not know, and for a proxy that asks for a key."""
