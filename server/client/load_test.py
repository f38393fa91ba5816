"""A load test: generations of the `demo` model on a running server, each read by several readers, all checked.

Owns the start of the generations, the readers (one generation each, over one of three transports, through any
cut), and the comparison of what they received with the log's snapshot. A token counts as delivered when a reader
has it. It must not know how results are shown.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time, time
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, ConnectionTimeout, HandshakeError

from server.client.api import ReconnectPolicy, check, decode_object, explain, open_websocket, raise_if_refused
from server.client.errors import ClientError, Unreachable
from server.client.load_test_results import DeliveryCheck, ReadTimes
from server.client.log_follower import DONE, MAX_EVENT_BYTES, parse_sse
from server.client.server_url import Address
from server.http_client.base_url import BaseUrl
from server.http_client.connection_pool import ConnectionPool
from server.http_client.errors import ConnectionCut, HttpClientError, MalformedResponse
from server.http_client.http1_codec import encode_request
from server.http_client.sse_parser import SseParser
from server.http_client.streaming_request import StreamingRequest, Timeouts

TRANSPORTS = ("sse", "ndjson", "ws")
RECONNECT_SECONDS = 30.0
"""How long a server may be away before the load test fails."""
SILENCE_SECONDS = 45.0
"""How long a stream may be silent: three heartbeats, which the server sends every 15 s, are missing then."""
TIMEOUTS = Timeouts(first_byte=SILENCE_SECONDS, idle=SILENCE_SECONDS)
_EVENT_FRAME = b'{"kind":"event","event":'


@dataclass(frozen=True, slots=True)
class Plan:
    """The load.

    `rate`: tokens a second of each generation, 0 as fast as possible; `readers`: of each generation; `ramp`:
    seconds over which the generations are started.
    """

    generations: int
    tokens: int
    rate: float
    readers: int
    transport: str
    ramp: float


@dataclass(slots=True)
class Outcome:
    """The outcome, also while the test runs. A token counts once for each reader that received it."""

    times: ReadTimes = field(default_factory=ReadTimes)
    started: int = 0
    ended: int = 0
    not_completed: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    repeated: int = 0
    changed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether every reader received every event of the log once, in order, and every answer was completed."""
        return not (self.lost or self.repeated or self.changed or self.not_completed)


async def run_load(address: Address, plan: Plan, outcome: Outcome) -> None:
    """Runs the load test and fills `outcome`, which may be read meanwhile.

    Raises `ClientError` when the server refuses a request or cannot be reached.
    """
    start, cpu = perf_counter(), process_time()
    await _request_json(address, "GET", "/readyz", None, is_known=False)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(plan.generations):
                nursery.start_soon(_run_generation, address, plan, outcome, number)
    finally:
        outcome.seconds, outcome.cpu_seconds = perf_counter() - start, process_time() - cpu


async def _run_generation(address: Address, plan: Plan, outcome: Outcome, number: int) -> None:
    # Spread over the ramp: tokens that are all due at the same instant would measure only their own queue.
    await trio.sleep(plan.ramp * number / plan.generations)
    parameters = {"tokens": plan.tokens, "rate": plan.rate, "seed": number}
    requested_at = perf_counter()
    found = await _request_json(address, "POST", "/v1/generations", {"model": "demo", "parameters": parameters})
    outcome.started += 1
    deliveries = [DeliveryCheck(outcome.times, found["position"], requested_at) for _ in range(plan.readers)]

    def cut() -> None:
        outcome.times.reconnects += 1

    async with trio.open_nursery() as nursery:
        for delivery in deliveries:
            reader = Reader(address, plan.transport, found["conversation"], found["id"], delivery, cut)
            nursery.start_soon(reader.read)
    outcome.ended += 1
    snapshot = await _request_json(address, "GET", f"/v1/generations/{found['id']}", None)
    compare_with_snapshot(outcome, snapshot, deliveries)


def compare_with_snapshot(outcome: Outcome, snapshot: Mapping[str, Any], deliveries: list[DeliveryCheck]) -> None:
    """Compares what the readers received with the snapshot, and adds the differences to `outcome`."""
    if snapshot["status"] != "completed":
        why = str((snapshot["error"] or {}).get("code", snapshot["status"]))
        outcome.not_completed[why] = outcome.not_completed.get(why, 0) + 1
    for delivery in deliveries:
        outcome.lost += max(delivery.missing, snapshot["tokens"] - delivery.tokens, 0)
        outcome.repeated += delivery.repeated
        outcome.changed += not delivery.same_text(snapshot["text"])


async def _request_json(
    address: Address, method: str, path: str, body: Any, *, is_known: bool = True
) -> dict[str, Any]:
    """Sends a request, again and again with the same idempotency key, until it is answered. Returns the body.

    `is_known`: the server has answered before, so a failed connection is tried again.
    """
    reconnect_policy = ReconnectPolicy(RECONNECT_SECONDS)
    if is_known:
        reconnect_policy.succeeded()
    encoded = msgspec.json.encode(body) if body is not None else b""
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    if encoded:
        headers["Content-Type"] = "application/json"
    while True:
        try:
            async with open_response(address, method, path, headers, encoded) as response:
                content = await response.read()
                check(response.status, response.headers, content)
                return decode_object(address, content)
        except ClientError as error:
            await reconnect_policy.wait(error)


class Reader:
    """Reads one generation to its end into a `DeliveryCheck`. `on_cut` is called whenever it has to reconnect."""

    def __init__(
        self,
        address: Address,
        transport: str,
        conversation: str,
        generation: str,
        delivery: DeliveryCheck,
        on_cut: Callable[[], None],
    ) -> None:
        self._address = address
        self._log = f"/v1/generations/{generation}/events"
        self._socket = f"{address.websocket_base}/v1/conversations/{conversation}/ws"
        self._read_once = {"sse": self._read_sse, "ndjson": self._read_ndjson, "ws": self._read_websocket}[
            transport
        ]
        self._delivery = delivery
        self._on_cut = on_cut

    async def read(self) -> None:
        """Reads until the generation's last event. Raises `ClientError` when the server is away for too long."""
        reconnect_policy = ReconnectPolicy(RECONNECT_SECONDS)
        while True:
            reconnect_policy.succeeded()
            before = self._delivery.position
            try:
                await self._read_once()
                if self._delivery.end is not None:
                    return
                raise Unreachable(self._address.base, "the stream was cut")
            except ClientError as error:
                self._on_cut()
                if self._delivery.position > before:
                    reconnect_policy = ReconnectPolicy(RECONNECT_SECONDS)
                    reconnect_policy.succeeded()
                await reconnect_policy.wait(error)

    def _check(self, events: list[bytes]) -> None:
        if events:
            self._delivery.take(events, perf_counter(), time())

    async def _read_sse(self) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self._delivery.position)}
        async with open_response(self._address, "GET", self._log, headers) as response:
            await _raise_for_status(response)
            parser = SseParser(MAX_EVENT_BYTES)
            while received := await response.receive():
                datas = [message.data for message in parse_sse(parser, received) if message.data]
                self._check([data for data in datas if data != DONE])
                if self._delivery.end is not None:
                    return

    async def _read_ndjson(self) -> None:
        path = f"{self._log}?after={self._delivery.position}"
        async with open_response(self._address, "GET", path, {"Accept": "application/x-ndjson"}) as response:
            await _raise_for_status(response)
            rest = b""
            while received := await response.receive():
                *lines, rest = (rest + received).split(b"\n")
                self._check([line for line in lines if line])
                if self._delivery.end is not None:
                    return

    async def _read_websocket(self) -> None:
        url = f"{self._socket}?after={self._delivery.position}"
        try:
            async with open_websocket(url, trust=self._address.trust, headers=self._address.headers) as socket:
                while self._delivery.end is None:
                    message = await socket.get_message()
                    text = message.encode() if isinstance(message, str) else message
                    if text.startswith(_EVENT_FRAME):
                        self._check([text[len(_EVENT_FRAME) : -1]])
        except ConnectionClosed as closed:
            raise_if_refused(closed, {})
            raise Unreachable(self._address.base, "the connection was cut") from None
        except ConnectionRejected as rejected:
            check(rejected.status_code, {}, rejected.body or b"")
            raise Unreachable(self._address.base, f"status {rejected.status_code}") from None
        except (HandshakeError, ConnectionTimeout) as error:
            raise explain(self._address.base, self._address.trust is not None, error) from None


class Response:
    """A response of the server under test. Its head has been received."""

    def __init__(self, address: Address, request: StreamingRequest) -> None:
        self._address = address
        self._request = request
        self.status = request.status
        self.headers = request.headers

    async def receive(self) -> bytes:
        """Returns the next bytes of the body; empty at its end. Raises `ClientError`."""
        try:
            return await self._request.receive_some(SILENCE_SECONDS)
        except HttpClientError as error:
            raise _as_client_error(self._address, error) from None

    async def read(self) -> bytes:
        """Returns the whole body. Raises `ClientError`."""
        parts = []
        while part := await self.receive():
            parts.append(part)
        return b"".join(parts)


@asynccontextmanager
async def open_response(
    address: Address, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> AsyncIterator[Response]:
    """Sends a request on a connection of its own and waits for the response's head. Raises `ClientError`.

    It does not use the HTTP client of `Api`, which costs several times as much for each chunk: the load test
    shares the machine with the server that it measures.
    """
    url = BaseUrl(address.trust is not None, address.host, address.port, address.path)
    request = StreamingRequest(ConnectionPool(url, address.trust), TIMEOUTS)
    try:
        try:
            all_headers = {**address.headers, **headers}
            await request.start(encode_request(url, path, all_headers, body, method=method))
        except HttpClientError as error:
            raise _as_client_error(address, error) from None
        yield Response(address, request)
    finally:
        await request.aclose()


def _as_client_error(address: Address, error: HttpClientError) -> ClientError:
    if isinstance(error, MalformedResponse):
        return ClientError("not_http", f"what answers at {address.base} is not HTTP: {error}")
    if isinstance(error, ConnectionCut):
        return Unreachable(address.base, "the connection was cut")
    return explain(address.base, address.trust is not None, error.__cause__ or error)


async def _raise_for_status(response: Response) -> None:
    if response.status >= 400:
        check(response.status, response.headers, await response.read())
