"""The upstream `openai/<model>`: OpenAI, and every server that speaks its chat completions.

Owns the settings' defaults, the path and the key's header. What a chunk means is `chat`'s, an answer's life is
`provider`'s. Must not know sockets.
"""

from __future__ import annotations

from collections.abc import Mapping

from .chat import CHAT, encode_body
from .model import Prompt
from .provider import Provider
from .settings import ProviderSettings

__all__ = ["OpenAI", "OpenAISettings"]


class OpenAISettings(ProviderSettings):
    """`base_url` is what OPENAI_BASE_URL holds: with `/v1`. `api_key` may be None (Ollama, llama.cpp)."""

    base_url: str = "https://api.openai.com/v1"


class OpenAI(Provider):
    """An `Upstream` that speaks OpenAI's chat completions."""

    path = "/chat/completions"
    wire = CHAT

    def _headers(self) -> Mapping[str, str]:
        key = self._settings.key
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _body(self, prompt: Prompt) -> bytes:
        return encode_body(prompt)
