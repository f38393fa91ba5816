"""What of a provider's words may stand in our error messages.

Owns their cleaning: the key struck out (some providers and proxies repeat it), names and addresses of the
operator's own network too, control characters and broken text made harmless, the length bounded; and finding the
message in the usual shapes of an error body. Pure: must not know HTTP or codes. Messages reach the log and every
reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from .surrogates import clean

__all__ = ["Quoter", "error_text", "message_in"]

MAX_QUOTE = 500  # characters
MAX_PROBLEMS = 3  # of a list of them
MOST_DEPTH = 8
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_UNSEEN = re.compile(
    r"<!--.*?(-->|\Z)|<(script|style|head)\b.*?(</\2\s*>|\Z)|<[^>]*(>|\Z)", re.DOTALL | re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.DOTALL | re.IGNORECASE)
_MESSAGE = ("error", "message", "detail", "msg", "error_message", "error_msg", "status_msg", "errors")
# RFC 1918, RFC 6598, loopback and link-local, with a port; others' addresses are nobody's secret.
_PRIVATE = re.compile(
    r"(?<![\d.])(?:10\.\d{1,3}|127\.\d{1,3}|169\.254|192\.168|172\.(?:1[6-9]|2\d|3[01])"
    r"|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\.\d{1,3}\.\d{1,3}(?::\d{1,5})?(?![\d.])"
    r"|\[?(?<![0-9a-f:])(?:::1|fe80:[0-9a-f:]+|f[cd][0-9a-f]{2}:[0-9a-f:]+)(?![0-9a-f:])(?:\]:\d{1,5})?",
    re.IGNORECASE,
)
# Names that no public server has: ICANN's .internal, RFC 6762, RFC 8375, and what clusters and offices use.
_INSIDE = re.compile(
    r"(?<![\w.-])(?:[\w-]{1,63}\.)+(?:internal|local|home\.arpa|lan|corp|intranet|svc)(?![\w-]|\.\w)(?::\d{1,5})?",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(://)[^\s/]{1,200}@")  # of a URL: a gateway tells its own database's, too


class Quoter:
    """Quotes a provider without the key. It knows the key, and a proxy's password, and never shows them.

    `hosts`: names of the operator's own (a proxy, a server inside), which only the server's own log may show.
    """

    __slots__ = ("_hosts", "_secrets")

    def __init__(self, *secrets: str | None, hosts: Iterable[str] = ()) -> None:
        self._secrets = [secret for secret in secrets if secret]
        names = sorted({host for host in hosts if host}, key=len, reverse=True)
        pattern = "|".join(rf"(?<![\w.-]){re.escape(name)}(?::\d{{1,5}})?(?![\w-])" for name in names)
        self._hosts = re.compile(pattern, re.IGNORECASE) if names else None

    def __call__(self, words: str | bytes, limit: int = MAX_QUOTE) -> str:
        """One line of at most `limit` characters, fit for the log and for every reader."""
        text = self._struck(words)
        if self._hosts is not None:
            text = self._hosts.sub("[host]", text)
        return _line(_PRIVATE.sub("[address]", _INSIDE.sub("[host]", text)), limit)

    def private(self, words: str | bytes, limit: int = MAX_QUOTE) -> str:
        """The same for the server's own log, which may name hosts."""
        return _line(self._struck(words), limit)

    def withheld(self, words: str | bytes, limit: int = MAX_QUOTE) -> str:
        """The words for the server's own log if readers see less of them, else nothing."""
        private = self.private(words, limit)
        return "" if private == self(words, limit) else private

    def _struck(self, words: str | bytes) -> str:
        text = words.decode(errors="replace") if isinstance(words, bytes) else words
        for secret in self._secrets:
            text = text.replace(secret, "[key]")  # before it is cut, or a piece of the key would stay
        return _LOGIN.sub(r"\1[login]@", text)


def _line(text: str, limit: int) -> str:
    text = clean(_BLANK.sub(" ", text)).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def error_text(body: bytes) -> str:
    """The message in an error response's body, or all of the body if it has none of the usual shapes.

    Of a web page what one would see, its title first.
    """
    try:
        found = message_in(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        found = None  # a proxy's page, or JSON that was cut
    text = body.decode(errors="replace")
    if found is None and text.lstrip().startswith("<"):
        title = _TITLE.search(text)
        found = f"{title[1].strip() if title else ''} {_UNSEEN.sub(' ', text)}".strip()
    return found or text


def message_in(value: Any, depth: int = MOST_DEPTH) -> str | None:
    """The message in `{"error": {"message": …}}`, `{"error": …}`, `{"message": …}`, `{"detail": …}`, a string.

    Of a list (Gemini's errors, pydantic's problems) the first few, each with the place that it names.
    """
    if isinstance(value, str):
        return value or None
    if not depth:
        return None
    if isinstance(value, list):
        told = (message_in(each, depth - 1) for each in value[:MAX_PROBLEMS] if isinstance(each, dict))
        return "; ".join(text for text in told if text) or None
    if isinstance(value, dict):
        for name in _MESSAGE:
            if (text := message_in(value.get(name), depth - 1)) is not None:
                return f"{_place(value)}{text}"
        for name, words in value.items():  # Ollama has `{"error parsing tool call": "…"}`
            if isinstance(name, str) and name.lower().startswith("error") and isinstance(words, str):
                return f"{name}: {words}"
    return None


def _place(problem: dict[str, Any]) -> str:
    place = problem.get("loc")
    if not isinstance(place, list) or not place:
        return ""
    return ".".join(str(step) for step in place[:8]) + ": "
