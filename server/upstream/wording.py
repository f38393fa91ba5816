"""What of a provider's words may stand in our error messages.

Owns their cleaning: the key struck out (some providers and proxies repeat it), control characters and broken text
made harmless, the length bounded; and finding the message in the usual shapes of an error body. Pure: must not
know HTTP or codes. Error messages reach the log and every reader of a run.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from .surrogates import clean

__all__ = ["Quoter", "error_text"]

MAX_QUOTE = 500  # characters
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class Quoter:
    """Quotes a provider without the key. It knows the key, and a proxy's password, and never shows them."""

    __slots__ = ("_secrets",)

    def __init__(self, *secrets: str | None) -> None:
        self._secrets = [secret for secret in secrets if secret]

    def __call__(self, words: str | bytes, limit: int = MAX_QUOTE) -> str:
        """One line of at most `limit` characters, fit for the log, without the key."""
        text = words.decode(errors="replace") if isinstance(words, bytes) else words
        for secret in self._secrets:
            text = text.replace(secret, "[key]")  # before it is cut, or a piece of the key would stay
        text = clean(_BLANK.sub(" ", text)).strip()
        return text if len(text) <= limit else text[: limit - 1] + "…"


def error_text(body: bytes) -> str:
    """The message in an error response's body, or all of the body if it has none of the usual shapes."""
    try:
        found = message_in(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        found = None  # a proxy's HTML, or JSON that was cut
    return found or body.decode(errors="replace")


def message_in(value: Any) -> str | None:
    """The message in `{"error": {"message": …}}`, `{"error": …}`, `{"message": …}`, `{"detail": …}`, a string."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for name in ("error", "message", "detail"):
            if (found := message_in(value.get(name))) is not None:
                return found
    return None
