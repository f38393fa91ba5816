"""The upstream `openai/<model>`: OpenAI, and every server that speaks its chat completions.

Owns the settings, the request, and one attempt's life: connect, refusal or stream, finish. What bytes mean is
`chat`'s, the socket is `http`'s, trying again is `retry`'s. Must not know the log or who reads. The key goes into
one header and nowhere else.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from .address import parse_base_url
from .chat import ChatDecoder, encode_body
from .errors import UpstreamError
from .exchange import encode_request
from .http import Limits, Post
from .model import Answer, Finish, Prompt
from .refusals import refusal
from .retry import RetriedAnswer, RetryPolicy
from .wording import Quoter

__all__ = ["OpenAI", "OpenAISettings"]

MAX_ERROR_BODY = 1 << 16  # bytes


class OpenAISettings(BaseModel):
    """Where the provider is and how to speak to it. Raises pydantic's ValidationError, which shows no input.

    `api_key` may be None (Ollama, llama.cpp). `base_url` is http or https, without user, query or fragment.
    """

    # Without hide_input a typing error would print the key, or a password in the URL, to the log.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    limits: Limits = Limits()
    retry: RetryPolicy = RetryPolicy()

    @field_validator("base_url")
    @classmethod
    def _can_be_reached(cls, url: str) -> str:
        parse_base_url(url)
        return url

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value().strip() if key else ""  # a key read from a file ends with a line end
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("must be printable ASCII without spaces")
        return SecretStr(text) if text else None


class OpenAI:
    """An `Upstream`. Makes the TLS context once; holds no connection between answers."""

    def __init__(
        self, settings: OpenAISettings, *, context: ssl.SSLContext | None = None, rng: random.Random | None = None
    ) -> None:
        """`context`: for TLS with something else than the system's authorities; `rng`: for the retries' jitter."""
        self._address = parse_base_url(settings.base_url)
        self._key = settings.api_key
        self._limits = settings.limits
        self._retry = settings.retry
        self._rng = rng or random.Random()
        self._context = (context or ssl.create_default_context()) if self._address.secure else None

    def check(self, prompt: Prompt) -> None:
        encode_body(prompt)

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        headers = {"Accept": "text/event-stream"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        request = encode_request(self._address, "/chat/completions", headers, encode_body(prompt))
        quote = Quoter(self._key.get_secret_value() if self._key else None)

        def dial() -> _Attempt:
            return _Attempt(Post(self._address, self._limits, self._context), request, self._limits, quote)

        answer = RetriedAnswer(dial, self._retry, self._rng)
        try:
            yield answer
        finally:
            await answer.aclose()


class _Attempt:
    """One POST's worth of an answer."""

    def __init__(self, post: Post, request: bytes, limits: Limits, quote: Quoter) -> None:
        self.finish: Finish | None = None
        self._post = post
        self._request = request
        self._limits = limits
        self._quote = quote
        self._decoder = ChatDecoder(quote)

    @property
    def repaired(self) -> int:
        return self._decoder.repaired

    async def receive(self) -> Sequence[str]:
        decoder = self._decoder
        if not self._post.status and not decoder.failure:
            await self._start()
        while decoder.finish is None:
            if decoder.failure:
                raise decoder.failure
            texts = await self._receive()
            if texts:
                return texts
        self.finish = decoder.finish
        await trio.lowlevel.checkpoint()
        return ()

    async def aclose(self) -> None:
        await self._post.aclose()

    async def _start(self) -> None:
        post = self._post
        try:
            await post.start(self._request)
            if post.status != 200:
                body = await post.read_up_to(MAX_ERROR_BODY)
                raise refusal(post.status, post.headers, body, self._quote, time.time())
            coding = post.headers.get("content-encoding", "identity")
            if coding != "identity":
                raise UpstreamError("upstream_malformed", f"the provider sent {self._quote(coding)}, unasked")
        except UpstreamError as error:
            self._decoder.close(error)  # so that every later receive raises it as well
            raise

    async def _receive(self) -> list[str]:
        decoder = self._decoder
        # After the finish reason there is nothing to wait for but usage and [DONE], which some never send.
        within = self._limits.tail if decoder.finishing else self._limits.idle
        try:
            data = await self._post.receive_some(within)
        except UpstreamError as error:
            ended = error
        else:
            if data:
                return decoder.feed(data)
            ended = UpstreamError("upstream_cut", "the answer ended before its finish")
        await trio.lowlevel.checkpoint()
        return decoder.close(self._explained(ended))

    def _explained(self, error: UpstreamError) -> UpstreamError:
        """A page or a JSON object in the stream's place is a wrong base URL, not a bad connection."""
        kind = self._post.headers.get("content-type", "")
        if error.code != "upstream_cut" or self._decoder.heard or kind.startswith("text/event-stream"):
            return error
        message = (
            f"the provider answered {self._quote(kind) or 'something'}, no event stream; is the base URL right?"
        )
        return UpstreamError("upstream_malformed", message)
