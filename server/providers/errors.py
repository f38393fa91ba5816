"""The errors of a request to a provider, and who is to blame for each.

`BadParameters` and `UnknownModel`: the client. `UpstreamError`: the provider, the network or this server's
settings. Owns the one table of error codes that `generation.failed` carries for them. Must not know any provider's
format. No message may contain a key.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CODES", "BadParameters", "Code", "UnknownModel", "UpstreamError"]


@dataclass(frozen=True, slots=True)
class Code:
    """One error code: whether the same request may succeed later, and what it means, for people."""

    retryable: bool
    meaning: str


CODES: Mapping[str, Code] = {
    "upstream_unauthorized": Code(False, "the provider refused the key (401, 403)"),
    "upstream_rate_limited": Code(True, "too many requests (429); not retryable when the quota is used up"),
    "upstream_bad_request": Code(False, "the provider refuses this request (other 4xx, a redirect)"),
    "upstream_unavailable": Code(True, "no connection, or the provider fails (DNS, refused, TLS, 409, 5xx)"),
    "upstream_cut": Code(True, "the connection ended before the answer did"),
    "upstream_malformed": Code(False, "what came is not the protocol"),
    "upstream_stalled": Code(True, "the answer began, then no byte came for longer than the limit"),
    "upstream_timeout": Code(True, "connecting, sending or the wait for the first byte took too long (408 too)"),
    "upstream_error": Code(True, "the provider reported an error inside the stream; not retryable if it says so"),
}


class UpstreamError(Exception):
    """The provider, the connection to it or its settings failed the run; `code` is a key of `CODES`.

    `retryable`: the same request may succeed later. `retry_after`: seconds that the provider asked to wait, or
    None. `stall`: the provider accepted the request and was then silent until a time limit (ours or a gateway's)
    passed. It may have worked on the request, and may charge for it. `message` is for every reader of the run: it
    may quote the provider, but names no address, host or proxy of the operator. `detail` is for the server's own
    log and may name them; it is empty if it would add nothing. Neither contains a key, U+0000 or an unpaired
    surrogate.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        detail: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        stall: bool = False,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        self.retryable = CODES[code].retryable if retryable is None else retryable
        self.retry_after = retry_after
        self.stall = stall


class BadParameters(ValueError):
    """The client sent a parameter that the provider would refuse; `message` says what is wrong, and the limit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class UnknownModel(ValueError):
    """The client named a model that no configured provider serves; the text lists the available ones."""
