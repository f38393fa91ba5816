"""What can go wrong between a client and a server, each with the next step for the person at the keyboard."""

from typing import Any


class ClientError(Exception):
    """Something did not work. `code` is for programs, `next_step` says what to do, where there is something.

    `passes` marks what may be well in a moment: the same request, with the same key, may be sent again.
    `retry_after`, in seconds, is the server's wish.
    """

    passes = False

    def __init__(self, code: str, message: str, next_step: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step
        self.retry_after = retry_after


class BadAddress(ClientError):
    """The address, or the file of certificates, cannot be meant. Whoever gave it is to blame."""


class Unreachable(ClientError):
    """No connection, or it was cut. Nobody has to be to blame."""

    passes = True

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            "unreachable",
            f"no server answers at {url} ({why})",
            "Start one with `tokentape serve`, or name it with --url or TOKENTAPE_URL.",
        )


class Untrusted(ClientError):
    """The server's certificate is not one that this machine trusts."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            "certificate_not_trusted",
            f"the certificate of {url} is not trusted ({why})",
            "Give the certificate of the authority that signed it with --cacert FILE or TOKENTAPE_CACERT.",
        )


class Refused(ClientError):
    """The server says no, in the shape of RFC 9457. Who is to blame stands in `status`: 4xx is the caller."""

    def __init__(self, status: int, problem: dict[str, Any], retry_after: float | None = None) -> None:
        code = str(problem.get("code", f"http_{status}"))
        detail = str(problem.get("detail", f"The server answered with status {status}."))
        super().__init__(code, detail, _NEXT.get(code, ""), retry_after=retry_after)
        self.status = status
        self.problem = problem
        self.passes = status in (429, 502, 503, 504)


_NEXT = {
    "not_found": "Ids are listed by GET /v1/conversations; --url names the server they belong to.",
    "host_not_allowed": "Or call the server by a name it knows, such as the one it was bound to.",
    "cursor_ahead": "Begin at that position or before it, or at the start.",
    "generation_running": "`tokentape tail` shows it; POST /v1/generations/ID/cancel ends it.",
}
