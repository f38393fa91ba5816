"""An `Upstream` over HTTP, but for what differs from provider to provider.

Owns the request's journey from prompt to answer: checked, encoded, sent, tried again, closed. A subclass has the
path, the headers, the body and the wire format. Must not know the log or who reads. The key goes into one header
and nowhere else.
"""

from __future__ import annotations

import random
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from .address import parse_base_url
from .attempt import HttpAttempt
from .decoder import Decoder, Wire
from .exchange import encode_request
from .fallback import Asking
from .http import Post
from .model import Answer, Prompt
from .pool import Pool
from .quirks import is_public
from .retry import RetriedAnswer
from .settings import ProviderSettings
from .wording import Quoter

__all__ = ["Provider"]


class Provider(ABC):
    """An `Upstream`. Makes the TLS context once; holds connections between answers only while its pool is run.

    `unknown`: how many messages of all answers so far nobody understood.
    """

    path: ClassVar[str]
    wire: ClassVar[Wire[Any]]

    def __init__(
        self,
        settings: ProviderSettings,
        *,
        context: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`context`: for TLS with something else than the system's authorities; `rng`: for the retries' jitter."""
        self._settings = settings
        self._address = parse_base_url(settings.base_url)
        self._rng = rng or random.Random()
        secure = (context or ssl.create_default_context()) if self._address.secure else None
        self._proxy = settings.route()
        self.pool = Pool(self._address, secure, proxy=self._proxy)
        self.unknown = 0
        secrets, hosts = [settings.key], []
        if self._proxy is not None:
            secrets += self._proxy.secrets
            hosts.append(self._proxy.address.host)
        if not is_public(self._address.host):
            hosts.append(self._address.host)
        self._quote = Quoter(*secrets, hosts=hosts)

    @abstractmethod
    def _headers(self) -> Mapping[str, str]:
        """The provider's own headers, the key's among them."""

    @abstractmethod
    def _asking(self, prompt: Prompt) -> Asking:
        """The request's body, and what follows if it is refused. Raises `BadParameters`."""

    def check(self, prompt: Prompt) -> None:
        self._asking(prompt)

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        limits = self._settings.limits
        headers = {"Accept": "text/event-stream", **self._headers()}
        proxied = self._proxy is not None and not self._address.secure  # else it sees the tunnel's request alone
        if self._proxy is not None and proxied:
            headers |= self._proxy.headers
        asking, keep = self._asking(prompt), self.pool.keeping
        made: list[HttpAttempt] = []

        def dial() -> HttpAttempt:
            request = encode_request(self._address, self.path, headers, asking.body, keep=keep, proxied=proxied)
            decoder = Decoder(self.wire, self._quote, carrying=bool(prompt.tools))
            made.append(HttpAttempt(Post(self.pool, limits), request, decoder, limits, self._quote, asking))
            return made[-1]

        answer = RetriedAnswer(dial, self._settings.retry, self._rng)
        try:
            yield answer
        finally:
            self.unknown += sum(attempt.unknown for attempt in made)
            await answer.aclose()
