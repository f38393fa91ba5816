"""What a response other than 200, or an error inside the stream, means in the words of `errors.CODES`.

Owns the translation of HTTP status and headers (RFC 9110 sections 10.2.3 and 15) and of error objects into an
`UpstreamError`, the same for every provider. Pure: must not know sockets; the wall clock is an argument.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from .errors import UpstreamError
from .wording import Quoter, error_text, message_in

__all__ = ["refusal", "retry_after", "stream_error"]

_CODES = {
    401: "upstream_unauthorized",
    403: "upstream_unauthorized",
    407: "upstream_unavailable",  # a proxy's; it wants another user or password
    408: "upstream_timeout",
    409: "upstream_unavailable",  # a lock at the provider; its own SDK asks again
    429: "upstream_rate_limited",
}
# Both answer 429 for an empty account or a month's limit, too; waiting does not fill it.
_SPENT = (b"insufficient_quota", b"enforced_spend_limit_reached")
# Codes and types of error objects that say the same to the same request, OpenAI's and Anthropic's.
_FINAL = frozenset(
    {
        "invalid_request_error",
        "insufficient_quota",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
    }
)


def refusal(status: int, headers: Mapping[str, str], body: bytes, quote: Quoter, now: float) -> UpstreamError:
    """The error for a response whose `status` is not 200. `body`: its first bytes; `now`: Unix time in seconds."""
    said = quote(error_text(body)) or "no explanation"
    if 300 <= status < 400:
        where = quote(headers.get("location", "nowhere"))
        # Not followed: it would carry the key to wherever the answer says.
        message = f"the provider answered {status}, a redirect to {where}; set the base URL to where it really is"
        return UpstreamError("upstream_bad_request", message)
    if status < 300:
        return UpstreamError("upstream_malformed", f"the provider answered {status} instead of a stream: {said}")
    code = _CODES.get(status, "upstream_unavailable" if status >= 500 else "upstream_bad_request")
    final = status == 407 or (status == 429 and any(word in body for word in _SPENT))
    retryable = False if final else None
    wait = retry_after(headers, now)
    return UpstreamError(code, f"the provider answered {status}: {said}", retryable=retryable, retry_after=wait)


def stream_error(error: Any, quote: Quoter) -> UpstreamError:
    """The error for an `error` object inside the stream; it says by code or type whether it may pass."""
    said = quote(message_in(error) or json.dumps(error))
    code, kind = (error.get("code"), error.get("type")) if isinstance(error, dict) else (None, None)
    refused = isinstance(code, int) and 400 <= code < 500 and code not in (408, 409, 429)
    refused = refused or any(isinstance(word, str) and word in _FINAL for word in (code, kind))
    return UpstreamError("upstream_error", f"the provider stopped the answer: {said}", retryable=not refused)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait: `retry-after-ms` (OpenAI), else `Retry-After` in seconds or as an HTTP-date, else None."""
    exact = _number(headers.get("retry-after-ms"))
    if exact is not None:
        return exact / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, at - now)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
