"""Readers for a load test: one generation each, over one of three transports, cheap, and through any cut."""

from collections.abc import Callable
from time import perf_counter, time

from trio_websocket import ConnectionClosed, ConnectionRejected, ConnectionTimeout, HandshakeError

from server.client.address import Address
from server.client.api import check, explain
from server.client.errors import ClientError, Unreachable
from server.client.exchange import Answer, exchange
from server.client.ledger import Ledger
from server.client.patience import Patience
from server.client.sse import DONE, Frames
from server.client.websocket import open_websocket

PATIENCE_SECONDS = 30.0
_EVENT_FRAME = b'{"kind":"event","event":'

Note = Callable[[], None]


class Reader:
    """Reads a generation to its end into a ledger. `cut` is called whenever it has to come back."""

    def __init__(
        self, address: Address, transport: str, conversation: str, generation: str, ledger: Ledger, cut: Note
    ) -> None:
        self._address = address
        self._log = f"/v1/generations/{generation}/events"
        self._socket = f"{address.websocket_base}/v1/conversations/{conversation}/ws"
        self._once = {"sse": self._sse, "ndjson": self._ndjson, "ws": self._websocket}[transport]
        self._ledger = ledger
        self._cut = cut

    async def read(self) -> None:
        """Until the generation's last event. Raises `ClientError` when the server is away for too long."""
        patience = Patience(PATIENCE_SECONDS)
        while True:
            patience.well()
            before = self._ledger.position
            try:
                await self._once()
                if self._ledger.end is not None:
                    return
                raise Unreachable(self._address.base, "the stream was cut")
            except ClientError as error:
                self._cut()
                if self._ledger.position > before:
                    patience = Patience(PATIENCE_SECONDS)
                    patience.well()
                await patience.wait(error)

    def _take(self, events: list[bytes]) -> None:
        if events:
            self._ledger.take(events, perf_counter(), time())

    async def _sse(self) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self._ledger.position)}
        async with exchange(self._address, "GET", self._log, headers) as answer:
            await _refuse(answer)
            frames = Frames()
            while received := await answer.receive():
                datas = [frame.data for frame in frames.feed(received) if frame.data is not None]
                self._take([data for data in datas if data != DONE])
                if self._ledger.end is not None:
                    return

    async def _ndjson(self) -> None:
        path = f"{self._log}?after={self._ledger.position}"
        async with exchange(self._address, "GET", path, {"Accept": "application/x-ndjson"}) as answer:
            await _refuse(answer)
            rest = b""
            while received := await answer.receive():
                *lines, rest = (rest + received).split(b"\n")
                self._take([line for line in lines if line])
                if self._ledger.end is not None:
                    return

    async def _websocket(self) -> None:
        url = f"{self._socket}?after={self._ledger.position}"
        try:
            async with open_websocket(url, trust=self._address.trust) as socket:
                while self._ledger.end is None:
                    message = await socket.get_message()
                    text = message.encode() if isinstance(message, str) else message
                    if text.startswith(_EVENT_FRAME):
                        self._take([text[len(_EVENT_FRAME) : -1]])
        except ConnectionClosed:
            raise Unreachable(self._address.base, "the connection was cut") from None
        except ConnectionRejected as rejected:
            check(rejected.status_code, {}, rejected.body or b"")
            raise Unreachable(self._address.base, f"status {rejected.status_code}") from None
        except (HandshakeError, ConnectionTimeout) as error:
            raise explain(self._address.base, self._address.trust is not None, error) from None


async def _refuse(answer: Answer) -> None:
    if answer.status >= 400:
        check(answer.status, answer.headers, await answer.read())
