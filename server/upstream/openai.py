"""The upstream `openai/<model>`: OpenAI, and every server that speaks its chat completions.

Owns the settings' defaults, the path, the key's header, and in which dialect a server is spoken to. What a chunk
means is `chat`'s, an answer's life is `provider`'s. Must not know sockets.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping

from pydantic import field_validator

from .address import parse_base_url
from .chat import CHAT
from .chat_request import encode_body
from .fallback import Asking, ChatAsking, Fallbacks
from .model import Prompt
from .provider import Provider
from .quirks import DIALECTS, dialect_of
from .settings import ProviderSettings

__all__ = ["OpenAI", "OpenAISettings"]


class OpenAISettings(ProviderSettings):
    """`base_url` is what OPENAI_BASE_URL holds: with `/v1`. `api_key` may be None (Ollama, llama.cpp).

    Azure's classic address is `https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT?api-version=2024-10-21`.
    `dialect`: a name of `quirks.DIALECTS`; empty: as the host's name tells.
    """

    base_url: str = "https://api.openai.com/v1"
    dialect: str = ""

    @field_validator("dialect")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name and name not in DIALECTS:
            raise ValueError(f"must be one of {', '.join(DIALECTS)}, or empty")
        return name


class OpenAI(Provider):
    """An `Upstream` that speaks OpenAI's chat completions."""

    path = "/chat/completions"
    wire = CHAT

    def __init__(
        self,
        settings: OpenAISettings,
        *,
        context: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """As `Provider`."""
        super().__init__(settings, context=context, rng=rng)
        dialect = settings.dialect or dialect_of(parse_base_url(settings.base_url).host)
        self._fallbacks = Fallbacks(DIALECTS[dialect])

    def _headers(self) -> Mapping[str, str]:
        key, header = self._settings.key, self._fallbacks.quirks.key_header
        if not key:
            return {}
        return {header: key} if header else {"Authorization": f"Bearer {key}"}

    def _asking(self, prompt: Prompt) -> Asking:
        return ChatAsking(self._fallbacks, prompt, encode_body)
