"""What every provider over HTTP has in common: its settings, its requests and the life of one answer.

`ProviderSettings` checks the values when the settings are read; its errors never show a value, because people put
keys and passwords into the wrong field. `HttpAttempt` is one POST: connect, then a refusal or a stream, then the
end. `HttpProvider` takes a prompt to an answer: check, encode, send, retry, close. A subclass adds the path, the
headers, the request body and the stream format; `decoding` gives the bytes their meaning.
Must not know one provider's format or the log. The key goes into one header and nowhere else.
"""

from __future__ import annotations

import random
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import trio
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from server.http_client import errors as http
from server.http_client.base_url import parse_base_url
from server.http_client.connection_pool import ConnectionPool
from server.http_client.http1_codec import encode_request
from server.http_client.proxy import Proxy, is_excluded, parse_proxy_url
from server.http_client.streaming_request import StreamingRequest, Timeouts
from server.providers.decoding.answer_decoder import AnswerDecoder, StreamFormat
from server.providers.decoding.error_mapping import request_error, response_error
from server.providers.decoding.redaction import Redactor

from .interface import Answer, Chunk, Finish, Prompt, UpstreamError
from .openai_compatible_servers import is_public
from .request_encoding import ProviderRequest
from .retry_policy import RequestRevised, RetriedAnswer, RetryPolicy


class ProviderSettings(BaseModel):
    """Where the provider is and how to speak to it. Raises pydantic's ValidationError, which shows no value.

    `base_url` is http or https, without user, query or fragment; the provider's own class has the default.
    `api_key` may be None (a server on the operator's machine). `proxy`: `http://user:password@host:port`, or None;
    it is used unless `no_proxy`, a list as in NO_PROXY, names the address. (`choose_proxy` reads the environment.)
    """

    # Without hide_input_in_errors a misplaced value would print the key, or a password in a URL, to the log.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str
    api_key: SecretStr | None = None
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    proxy: SecretStr | None = None
    no_proxy: str = ""

    @property
    def key(self) -> str | None:
        """The key in clear text: for the one header, and for the redaction of messages."""
        return self.api_key.get_secret_value() if self.api_key else None

    def route(self) -> Proxy | None:
        """The proxy to use, None for a direct connection."""
        if self.proxy is None or is_excluded(parse_base_url(self.base_url), self.no_proxy):
            return None
        return parse_proxy_url(self.proxy.get_secret_value())

    @field_validator("base_url")
    @classmethod
    def _is_a_base_url(cls, url: str) -> str:
        parse_base_url(url)
        return url

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, url: SecretStr | None) -> SecretStr | None:
        if not url or not url.get_secret_value():
            return None
        parse_proxy_url(url.get_secret_value())
        return url

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value().strip() if key else ""  # a key read from a file ends with a line end
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("must be printable ASCII without spaces")
        return SecretStr(text) if text else None


MAX_ERROR_BODY = 1 << 16  # bytes
# Seconds of silence after which the provider may have worked on the request, whoever ended the connection. Hardly
# any gateway has a shorter limit.
LONG_SILENCE = 30.0


class HttpAttempt:
    """One POST and its response: an `Attempt`. Making it does no I/O."""

    def __init__(
        self,
        post: StreamingRequest,
        encoded_request: bytes,
        decoder: AnswerDecoder[Any],
        timeouts: Timeouts,
        redact: Redactor,
        request: ProviderRequest,
    ) -> None:
        """`encoded_request`: the HTTP message with the body of `request`, which learns whether it was accepted."""
        self.finish: Finish | None = None
        self._request = request
        self._post = post
        self._encoded_request = encoded_request
        self._decoder = decoder
        self._timeouts = timeouts
        self._redact = redact
        self._tail_left = timeouts.tail
        self._began = 0.0

    @property
    def repaired(self) -> int:
        return self._decoder.repaired

    @property
    def unknown(self) -> int:
        """How many messages of the stream were not understood."""
        return self._decoder.unknown

    @property
    def started(self) -> bool:
        return self._decoder.started

    async def receive(self) -> Sequence[Chunk]:
        decoder = self._decoder
        if not self._post.status and not decoder.failure:
            await self._start()
        while decoder.finish is None:
            if decoder.failure:
                raise self._marked_as_stall(decoder.failure)
            chunks = await self._receive()
            if chunks:
                return chunks
        await trio.lowlevel.checkpoint()
        if self.finish is None:
            await self._post.read_to_end()
        self.finish = decoder.finish
        return ()

    async def aclose(self) -> None:
        await self._post.aclose()

    def _marked_as_stall(self, error: UpstreamError) -> UpstreamError:
        """Sets `stall` on the error if a gateway ended a long silence before our own limit did."""
        cut_by_gateway = error.code in ("upstream_cut", "upstream_unavailable") and error.retry_after is None
        if cut_by_gateway and trio.current_time() - self._began >= LONG_SILENCE:
            error.stall = True
        return error

    async def _start(self) -> None:
        post = self._post
        self._began = trio.current_time()
        try:
            await post.start(self._encoded_request)
            if post.status != 200:
                body = await post.read_up_to(MAX_ERROR_BODY)
                if self._request.revise(post.status, body):
                    raise RequestRevised
                raise response_error(post.status, post.headers, body, self._redact, time.time())
            coding = post.headers.get("content-encoding", "identity")
            if coding != "identity":
                raise UpstreamError("upstream_malformed", f"the provider sent {self._redact(coding)}, unasked")
            self._request.accepted()
        except http.HttpClientError as error:
            raise self._failed(request_error(error)) from error
        except UpstreamError as error:
            self._failed(error)
            raise

    def _failed(self, error: UpstreamError) -> UpstreamError:
        self._decoder.close(self._marked_as_stall(error))  # every later receive raises the same error
        return error

    async def _receive(self) -> list[Chunk]:
        decoder = self._decoder
        # After the finish reason only the usage and the end of the stream can follow, and some servers never send
        # them. The limit is for all reads together, because keep-alive comments may come for ever.
        tail, began = decoder.has_reason, trio.current_time()
        try:
            data = await self._post.receive_some(self._tail_left if tail else self._timeouts.idle)
            if tail:
                self._tail_left = max(0.0, self._tail_left - (trio.current_time() - began))
        except http.HttpClientError as error:
            ended = request_error(error)
        else:
            if data:
                return decoder.feed(data)
            await trio.lowlevel.checkpoint()
            return decoder.complete(self._post.headers.get("content-type", ""))
        await trio.lowlevel.checkpoint()
        return decoder.close(ended)


class HttpProvider(ABC):
    """A `Provider` over HTTP. It makes the TLS context once, and keeps idle connections only while its pool runs.

    `unknown`: how many messages of all streams so far were not understood.
    """

    path: ClassVar[str]
    stream_format: ClassVar[StreamFormat[Any]]

    def __init__(
        self,
        settings: ProviderSettings,
        *,
        context: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`context`: TLS with other authorities than the system's; `rng`: the jitter of retries."""
        self._settings = settings
        self._address = parse_base_url(settings.base_url)
        self._rng = rng or random.Random()
        secure = (context or ssl.create_default_context()) if self._address.secure else None
        self._proxy = settings.route()
        self.pool = ConnectionPool(self._address, secure, proxy=self._proxy)
        self.unknown = 0
        secrets, hosts = [settings.key], []
        if self._proxy is not None:
            secrets += self._proxy.secrets
            hosts.append(self._proxy.url.host)
        if not is_public(self._address.host):
            hosts.append(self._address.host)
        self._redact = Redactor(*secrets, hosts=hosts)

    @abstractmethod
    def _headers(self) -> Mapping[str, str]:
        """The provider's own headers, the one with the key included."""

    @abstractmethod
    def _encode_request(self, prompt: Prompt) -> ProviderRequest:
        """The body of the request, which can revise itself after a refusal. Raises `BadParameters`."""

    def check(self, prompt: Prompt) -> None:
        self._encode_request(prompt)

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        timeouts = self._settings.timeouts
        headers = {"Accept": "text/event-stream", **self._headers()}
        proxied = self._proxy is not None and not self._address.secure  # a tunnel's proxy sees only the CONNECT
        if self._proxy is not None and proxied:
            headers |= self._proxy.headers
        request, keep_alive = self._encode_request(prompt), self.pool.running
        attempts: list[HttpAttempt] = []

        def new_attempt() -> HttpAttempt:
            encoded = encode_request(
                self._address, self.path, headers, request.body, keep_alive=keep_alive, proxied=proxied
            )
            decoder = AnswerDecoder(self.stream_format, self._redact, collect_carry=bool(prompt.tools))
            post = StreamingRequest(self.pool, timeouts)
            attempts.append(HttpAttempt(post, encoded, decoder, timeouts, self._redact, request))
            return attempts[-1]

        answer = RetriedAnswer(new_attempt, self._settings.retry, self._rng)
        try:
            yield answer
        finally:
            self.unknown += sum(attempt.unknown for attempt in attempts)
            await answer.aclose()
