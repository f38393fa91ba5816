"""The provider `openai/<model>`: OpenAI, and every server with OpenAI's chat completions API.

Owns the settings and their defaults, the path, the header with the key, and the choice of the server's dialect.
The request body and the stream are in `chat_completions`, the dialects in `openai_compatible_servers`. Must not
know sockets.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping

from pydantic import field_validator

from server.http_client.base_url import parse_base_url

from .chat_completions import CHAT_COMPLETIONS, encode_body
from .http_provider import HttpProvider, ProviderSettings
from .interface import Prompt
from .openai_compatible_servers import DIALECTS, ChatCompletionsRequest, LearnedQuirks, dialect_of
from .request_encoding import ProviderRequest

__all__ = ["OpenAI", "OpenAISettings"]


class OpenAISettings(ProviderSettings):
    """`base_url` has the form of OPENAI_BASE_URL: it ends with `/v1`. `api_key` may be None (Ollama, llama.cpp).

    Azure's classic address is
    `https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT?api-version=2024-10-21`. `dialect`: a name of
    `openai_compatible_servers.DIALECTS`; empty: chosen by the host name.
    """

    base_url: str = "https://api.openai.com/v1"
    dialect: str = ""

    @field_validator("dialect")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name and name not in DIALECTS:
            raise ValueError(f"must be one of {', '.join(DIALECTS)}, or empty")
        return name


class OpenAI(HttpProvider):
    """A `Provider` for OpenAI's chat completions API."""

    path = "/chat/completions"
    stream_format = CHAT_COMPLETIONS

    def __init__(
        self,
        settings: OpenAISettings,
        *,
        context: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """As `HttpProvider`."""
        super().__init__(settings, context=context, rng=rng)
        dialect = settings.dialect or dialect_of(parse_base_url(settings.base_url).host)
        self._learned = LearnedQuirks(DIALECTS[dialect])

    def _headers(self) -> Mapping[str, str]:
        key, header = self._settings.key, self._learned.quirks.key_header
        if not key:
            return {}
        return {header: key} if header else {"Authorization": f"Bearer {key}"}

    def _encode_request(self, prompt: Prompt) -> ProviderRequest:
        return ChatCompletionsRequest(self._learned, prompt, encode_body)
