"""What can go wrong between us and a provider: the codes that `generation.failed` carries.

Owns the one table of codes, what each means and whether asking again can help, and the exceptions that carry
them. Who is to blame: `BadParameters` and `UnknownModel` the client, `UpstreamError` the provider, the network
or this server's settings. Must not know any provider's wire format, HTTP or trio. No message may hold a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CODES", "BadParameters", "Code", "UnknownModel", "UpstreamError"]


@dataclass(frozen=True, slots=True)
class Code:
    """One code: whether the same request may succeed later, and what happened, for people."""

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
    """The provider, the way to it or its settings failed this run; `CODES` says who and what.

    `retryable`: asking again later may succeed. `retry_after`: seconds the provider asked to wait, else None.
    `stall`: it took the request, and then was silent for as long as it may be, or until something on the way to
    it gave up: it may have worked, for money.
    `message` is for every reader of the run: it may hold the provider's words, but no address, host or proxy of
    the operator's. `detail` is for the server's own log alone, and may name them; empty if nothing is left to say.
    Neither holds a key, U+0000 or an unpaired surrogate.
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
    """The client sent a parameter that this upstream refuses; `message` says what is wrong and the limit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class UnknownModel(ValueError):
    """The client named a model that no configured upstream serves; the text lists those that are."""
