"""The upstream `anthropic/<model>`: Anthropic, and every server that speaks its messages.

Owns the settings' defaults, the path and the headers. What an event means is `messages`', an answer's life is
`provider`'s. Must not know sockets.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping

from pydantic import Field

from .fallback import Asking
from .messages import MESSAGES
from .messages_request import encode_body
from .model import Prompt
from .provider import Provider
from .settings import ProviderSettings

__all__ = ["Anthropic", "AnthropicSettings"]


class AnthropicSettings(ProviderSettings):
    """`base_url` is what ANTHROPIC_BASE_URL holds: without `/v1`.

    `version` is the wire format's; `max_tokens`, which the format demands, holds where the client gives none.
    """

    base_url: str = "https://api.anthropic.com"
    version: str = Field("2023-06-01", pattern=r"\A[\x21-\x7e]+\z")
    max_tokens: int = Field(4096, ge=1)


class Anthropic(Provider):
    """An `Upstream` that speaks Anthropic's messages."""

    path = "/v1/messages"
    wire = MESSAGES

    def __init__(
        self,
        settings: AnthropicSettings,
        *,
        context: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """As `Provider`."""
        super().__init__(settings, context=context, rng=rng)
        self._version = settings.version
        self._max_tokens = settings.max_tokens

    def _headers(self) -> Mapping[str, str]:
        key = self._settings.key
        return {"anthropic-version": self._version, **({"x-api-key": key} if key else {})}

    def _asking(self, prompt: Prompt) -> Asking:
        return Asking(encode_body(prompt, self._max_tokens))
