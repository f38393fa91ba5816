"""The API as calls: requests that are sent again until they are answered, and act once.

Every POST carries a key of its own, so a request whose answer was lost in a restart is asked again without
harm. Responses are JSON objects; refusals are raised.
"""

import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec
import trio

from server.client.address import Address
from server.client.errors import ClientError, Refused, Unreachable, Untrusted
from server.client.patience import Patience

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
ANSWER_SECONDS = 60.0
SILENCE_SECONDS = 45.0
"""Of a stream that has a sign of life every 15 s: three are missing, the connection is dead."""

Body = dict[str, Any]


class Api:
    """One server. Every call raises `ClientError`."""

    def __init__(self, address: Address, http: httpx2.AsyncClient, patience: Patience) -> None:
        self.address = address
        self.patience = patience
        self._http = http

    async def get(self, path: str, **params: str | int) -> Body:
        """What stands at `path`, which begins with `/v1/`."""
        return await self._until_answered("GET", path, params, None, {})

    async def post(self, path: str, body: Body) -> Body:
        """Carried out once, however often it has to be sent."""
        return await self._until_answered("POST", path, {}, body, {"Idempotency-Key": secrets.token_hex(16)})

    async def _until_answered(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int],
        body: Body | None,
        headers: Mapping[str, str],
    ) -> Body:
        while True:
            try:
                with translated(self.address):
                    got = await self._http.request(method, path, params=params, json=body, headers=headers)
                    check(got.status_code, got.headers, got.content)
                    found = decode_object(self.address, got.content)
            except ClientError as error:
                await self.patience.wait(error)
            else:
                self.patience.well()
                return found

    @asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator["Stream"]:
        """One streamed response, whatever its status below 400. Tried once."""
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS)
        request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
        with translated(self.address):
            got = await self._http.send(request, stream=True)
        try:
            if got.status_code >= 400:
                with translated(self.address):
                    check(got.status_code, got.headers, await got.aread())
            yield Stream(self.address, got)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
                await got.aclose()


class Stream:
    """A response that goes on."""

    def __init__(self, address: Address, got: httpx2.Response) -> None:
        self.status = got.status_code
        self._address = address
        self._chunks = got.aiter_bytes()

    async def receive(self) -> bytes:
        """What has come, at least a byte; nothing at the end. Raises `ClientError` when it was cut."""
        # Only the reading: what the caller does with the bytes fails in its own name.
        with translated(self._address):
            return await anext(self._chunks, b"")


@asynccontextmanager
async def open_api(address: Address, patience: Patience) -> AsyncIterator[Api]:
    """The calls on one server, and the connections under them."""
    async with httpx2.AsyncClient(
        base_url=address.base,
        verify=address.trust if address.trust is not None else False,  # unused without https
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=ANSWER_SECONDS),
        trust_env=not address.is_loopback,
    ) as http:
        yield Api(address, http, patience)


class translated:  # noqa: N801  # reads as a word, like contextlib's
    """The HTTP library's errors as ours."""

    def __init__(self, address: Address) -> None:
        self._url = address.base
        self._secure = address.trust is not None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, httpx2.TransportError | httpx2.StreamError):
            raise explain(self._url, self._secure, error) from None


def explain(url: str, secure: bool, error: BaseException) -> ClientError:
    """A failed connection in words. `secure`: it was to be https."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(url, cause.verify_message or str(cause))
        if isinstance(cause, ssl.SSLError):
            return ClientError(
                "no_tls", f"{url} does not speak TLS as this client does ({cause.reason or cause})", "Try http://."
            )
        cause = cause.__cause__ or cause.__context__
    why = str(error) or type(error).__name__
    if not secure and isinstance(error, httpx2.RemoteProtocolError):
        why += "; is it https://?"
    return Unreachable(url, why)


def check(status: int, headers: Mapping[str, str], content: bytes) -> None:
    """Raises `Refused` for a status of 400 and more."""
    if status < 400:
        return
    try:
        problem = msgspec.json.decode(content, type=Body)
    except msgspec.DecodeError:
        problem = {}
    after = headers.get("retry-after", "")
    raise Refused(status, problem, float(after) if after.isascii() and after.isdigit() else None)


def decode_object(address: Address, content: bytes) -> Body:
    """A JSON object, or whoever answers is none of ours."""
    try:
        return msgspec.json.decode(content, type=Body)
    except msgspec.DecodeError:
        raise ClientError(
            "not_tokentape",
            f"what answers at {address.base} is not a Tokentape server",
            "Name one with --url or TOKENTAPE_URL.",
        ) from None
