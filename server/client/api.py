"""The API as calls: requests that are sent again until they are answered, streams, and WebSocket connections.

`ReconnectPolicy` is how long and how often a server is tried that has gone away: the pauses between tries and the
bound of the whole wait; the status line of a command reads how long it lasts.

Every POST carries an idempotency key of its own, so a request whose answer was lost in a restart is sent again
without acting twice. Responses are JSON objects; a refusal is raised as an error. It must not know what a call is
for.
"""

import random
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from server.client.errors import ClientError, Refused, Unreachable, Untrusted
from server.client.server_url import Address

FIRST_PAUSE, MAX_PAUSE = 0.2, 3.0
"""Seconds between two tries. Each pause is twice the one before; then a random part of up to half is taken off."""


class ReconnectPolicy:
    """The reconnects of one session with a server.

    `seconds`: how long to wait for a server that is away. `away_since`: when it was first missed, on trio's clock;
    None while it answers. `on_change` is called with that first error, and with None when the server is back. A
    server that has never answered is not waited for: its address is wrong, or it has not been started.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.away_since: float | None = None
        self.on_change: Callable[[ClientError | None], None] = lambda _: None
        self._has_answered = False
        self._pause = FIRST_PAUSE

    def begin(self) -> None:
        """Starts again in a new `trio.run`, whose clock has another zero."""
        self.away_since = None
        self._pause = FIRST_PAUSE

    def succeeded(self) -> None:
        """The server has answered."""
        self._has_answered = True
        self._pause = FIRST_PAUSE
        if self.away_since is not None:
            self.away_since = None
            self.on_change(None)

    async def wait(self, error: ClientError) -> None:
        """Waits before the next try. Raises `error` if it is permanent, or the server is away for too long."""
        now = trio.current_time()
        if not error.is_temporary or (isinstance(error, Unreachable) and not self._has_answered):
            raise error
        if self.away_since is None:
            self.away_since = now
            self.on_change(error)
        left = self.away_since + self.seconds - now
        if left <= 0:
            raise error
        # A random pause, so that clients that were cut off together do not come back together.
        pause = max(self._pause * random.uniform(0.5, 1.0), error.retry_after or 0.0)
        self._pause = min(2 * self._pause, MAX_PAUSE)
        await trio.sleep(min(pause, left))


CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
"""How long closing a connection may take; then it is dropped."""
ANSWER_SECONDS = 60.0
SILENCE_SECONDS = 45.0
"""How long a stream may be silent: three heartbeats, which the server sends every 15 s, are missing then."""

CLOSE_CODE_BASE = 4000
REFUSED_CLOSE_CODES = (4400, 4401, 4403, 4404, 4410)
"""WebSocket close codes after which reconnecting is of no use: 4000 and the HTTP status."""

Body = dict[str, Any]


class Api:
    """The calls on one server. Every call raises `ClientError`."""

    def __init__(self, address: Address, http: httpx2.AsyncClient, reconnect_policy: ReconnectPolicy) -> None:
        self.address = address
        self.reconnect_policy = reconnect_policy
        self._http = http

    async def get(self, path: str, **params: str | int) -> Body:
        """Sends a GET for `path` until it is answered. Returns the body."""
        return await self._until_answered("GET", path, params=params)

    async def post(self, path: str, body: Body) -> Body:
        """Sends a POST until it is answered. The server carries it out once, however often it was sent."""
        key = {"Idempotency-Key": secrets.token_hex(16)}
        return await self._until_answered("POST", path, json=body, headers=key)

    async def upload(self, data: bytes) -> Body:
        """Uploads a file until it is answered. Returns its `digest`, `media_type` and `size`.

        The same bytes are the same file, however often they are sent. Messages name it by the digest.
        """
        kind = {"Content-Type": "application/octet-stream"}
        return await self._until_answered("POST", "/v1/files", content=data, headers=kind)

    async def _until_answered(self, method: str, path: str, **request: Any) -> Body:
        while True:
            try:
                with translated(self.address):
                    response = await self._http.request(method, path, **request)
                    check(response.status_code, response.headers, response.content)
                    decoded = decode_object(self.address, response.content)
            except ClientError as error:
                await self.reconnect_policy.wait(error)
            else:
                self.reconnect_policy.succeeded()
                return decoded

    @asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator["Stream"]:
        """Opens one streamed response. Tried once. Raises `ClientError`, also for a status of 400 or more."""
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS)
        request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
        with translated(self.address):
            response = await self._http.send(request, stream=True)
        try:
            if response.status_code >= 400:
                with translated(self.address):
                    check(response.status_code, response.headers, await response.aread())
            yield Stream(self.address, response)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
                await response.aclose()


class Stream:
    """A response that is still being received."""

    def __init__(self, address: Address, response: httpx2.Response) -> None:
        self.status = response.status_code
        self._address = address
        self._chunks = response.aiter_bytes()

    async def receive(self) -> bytes:
        """Returns the next bytes; empty at the end. Raises `ClientError` when the connection was cut."""
        # Only the read is translated: an error in what the caller does with the bytes must keep its own type.
        with translated(self._address):
            return await anext(self._chunks, b"")


@asynccontextmanager
async def open_api(address: Address, reconnect_policy: ReconnectPolicy) -> AsyncIterator[Api]:
    """Opens the HTTP client of one server. Yields the calls on it."""
    async with httpx2.AsyncClient(
        base_url=address.base,
        headers=address.headers,
        verify=address.trust if address.trust is not None else False,  # not used without https
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=ANSWER_SECONDS),
        trust_env=not address.is_loopback,
    ) as http:
        yield Api(address, http, reconnect_policy)


@asynccontextmanager
async def open_websocket(
    url: str,
    subprotocols: Sequence[str] = (),
    trust: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[WebSocketConnection]:
    """Opens a connection to a `ws://` or `wss://` URL. Raises what `trio_websocket.open_websocket_url` raises.

    It always closes the socket. trio-websocket (0.12) does not when the server ends the connection first, so a
    client that reconnects again and again would keep one more socket open each time. Nor does it notice a cut
    during the handshake: it waits for the answer as long as it may.
    """
    extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    async with open_websocket_url(
        url,
        ssl_context=trust,
        subprotocols=subprotocols or None,
        extra_headers=extra,
        connect_timeout=CONNECT_SECONDS,
    ) as socket:
        try:
            yield socket
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
                await socket.aclose()
            await trio.aclose_forcefully(socket._stream)


def raise_if_refused(closed: ConnectionClosed, error: Body) -> None:
    """Raises `Refused` if the server closed a WebSocket for good. `error`: the error frame before it, or empty."""
    code = closed.reason.code if closed.reason is not None else None
    if code in REFUSED_CLOSE_CODES:
        raise Refused(code - CLOSE_CODE_BASE, error) from None


class translated:  # noqa: N801  # named like contextlib's context managers
    """A context that turns errors of the HTTP library into `ClientError`."""

    def __init__(self, address: Address) -> None:
        self._url = address.base
        self._secure = address.trust is not None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, httpx2.TransportError | httpx2.StreamError):
            raise explain(self._url, self._secure, error) from None


def explain(url: str, secure: bool, error: BaseException) -> ClientError:
    """The `ClientError` for a failed connection. `secure`: whether the URL is https."""
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
    """Raises `Refused` for a status of 400 or more."""
    if status < 400:
        return
    try:
        problem = msgspec.json.decode(content, type=Body)
    except msgspec.DecodeError:
        problem = {}
    after = headers.get("retry-after", "")
    raise Refused(status, problem, float(after) if after.isascii() and after.isdigit() else None)


def decode_object(address: Address, content: bytes) -> Body:
    """Decodes a JSON object. Raises `ClientError` for anything else: the other side is not a Tokentape server."""
    try:
        return msgspec.json.decode(content, type=Body)
    except msgspec.DecodeError:
        raise ClientError(
            "not_tokentape",
            f"what answers at {address.base} is not a Tokentape server",
            "Name one with --url or TOKENTAPE_URL.",
        ) from None
