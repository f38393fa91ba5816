"""`tokentape tail`: follows a conversation over WebSocket, from any position, through any restart.

Its whole state is the last position that it printed. After every cut it connects again with that position as its
cursor, so nothing is missing and nothing is printed twice. How an event looks is `EventPrinter`'s.
"""

import click
import msgspec
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, ConnectionTimeout, HandshakeError

from server.cli.exit_codes import STATUSES
from server.cli.main import connection_options, read_id
from server.cli.terminal.event_format import ENDS, EventPrinter, JsonEventPrinter, TextEventPrinter
from server.cli.terminal.live_output import open_output
from server.cli.terminal.output import Output, keep_refreshing, note_absence, reconnecting_text
from server.client.api import ReconnectPolicy, check, explain, open_api, open_websocket, raise_if_refused
from server.client.errors import ClientError, Unreachable
from server.client.server_url import Address

FOREVER = 1e9


@click.command("tail", epilog=STATUSES, short_help="Follow a conversation through any restart.")
@click.argument("conversation")
@click.option("--after", default="0", show_default=True, help="start after this position; now: only new events")
@click.option("--json", "as_json", is_flag=True, help="one event object a line, as on the wire")
@click.option("--until-end", is_flag=True, help="exit when the newest generation has ended")
@connection_options
def command(conversation: str, address: Address, after: str, as_json: bool, until_end: bool) -> None:
    """Follow CONVERSATION: everything after --after, then new events, until Ctrl-C.

    \b
      tokentape tail conv_…                    all of it, the text of answers as it streams
      tokentape tail conv_… --after now        only new events
      tokentape tail conv_… --json | jq .type  every event, for programs

    The model's reasoning, and the arguments of a tool call while the model writes them, are dimmed and marked
    "thinking:" and "arguments of …:".

    If the server restarts or the network fails, it reconnects and continues where it stopped.
    """
    if not (after == "now" or (after.isascii() and after.isdigit())):
        raise click.BadParameter("a position is a whole number, or now", param_hint="--after")
    reconnect_policy = ReconnectPolicy(FOREVER)
    output = open_output(lambda: reconnecting_text(reconnect_policy), plain=as_json)
    note_absence(output, reconnect_policy)
    printer = JsonEventPrinter() if as_json else TextEventPrinter(output)
    follower = ConversationFollower(
        address, read_id(conversation, "conv"), after, reconnect_policy, printer, output, until_end
    )
    trio.run(follower.run)


class ConversationFollower:
    """Follows one conversation. `cursor`: the position after which it goes on when the connection was cut."""

    def __init__(
        self,
        address: Address,
        conversation: str,
        cursor: str,
        reconnect_policy: ReconnectPolicy,
        printer: EventPrinter,
        output: Output,
        until_end: bool,
    ) -> None:
        self._address = address
        self._conversation = conversation
        self._url = f"{address.websocket_base}/v1/conversations/{conversation}/ws"
        self.cursor = cursor
        self._reconnect_policy = reconnect_policy
        self._printer = printer
        self._output = output
        self._until_end = until_end
        self._newest: object = None
        self._newest_ended = False
        self._caught_up = False
        self._error: dict[str, object] = {}

    async def run(self) -> None:
        """Follows until it is cancelled, or, with `until_end`, until the newest generation has ended."""
        with self._output as output:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_refreshing, output)
                await self._check_conversation()
                await self._follow()
                nursery.cancel_scope.cancel()

    async def _check_conversation(self) -> None:
        """Raises `ClientError` if there is no such conversation: HTTP says why, a failed handshake does not."""
        async with open_api(self._address, self._reconnect_policy) as api:
            await api.get(f"/v1/conversations/{self._conversation}/events", after=self.cursor, limit=1)

    async def _follow(self) -> None:
        while True:
            try:
                if await self._follow_once():
                    return
            except ClientError as error:
                await self._reconnect_policy.wait(error)

    async def _follow_once(self) -> bool:
        self._error = {}
        self._caught_up = False  # the server sends `caught_up` once in each connection
        secure = self._address.trust is not None
        try:
            async with open_websocket(
                f"{self._url}?after={self.cursor}", trust=self._address.trust, headers=self._address.headers
            ) as socket:
                while True:
                    self._take(msgspec.json.decode(await socket.get_message()))
                    if self._until_end and self._newest_ended and self._caught_up:
                        return True
        except ConnectionClosed as closed:
            raise_if_refused(closed, self._error)
            why = str(self._error.get("detail", "the connection was cut"))
            raise Unreachable(self._address.base, why) from None
        except ConnectionRejected as rejected:
            check(rejected.status_code, {}, rejected.body or b"")
            raise Unreachable(self._address.base, f"status {rejected.status_code}") from None
        except (HandshakeError, ConnectionTimeout, trio.BrokenResourceError) as error:
            raise explain(self._address.base, secure, error) from None

    def _take(self, frame: dict[str, object]) -> None:
        match frame:
            case {"kind": "event", "event": dict() as event}:
                self._printer.print_events([event])
                self.cursor = str(event["position"])
                self._note_end(str(event["type"]), event.get("generation"))
            case {"kind": "hello", "after": int() as after}:
                self.cursor = str(
                    after
                )  # the position that `now` meant: a cut before the first event must lose nothing
                self._reconnect_policy.succeeded()
            case {"kind": "caught_up"}:
                self._caught_up = True
            case {"kind": "error"}:
                self._error = frame  # reported when the server closes the connection, which it does next

    def _note_end(self, kind: str, generation: object) -> None:
        """Records whether the newest generation has ended. The newest is the one that was requested last."""
        if kind == "generation.requested":
            self._newest, self._newest_ended = generation, False
        elif kind in ENDS:
            self._newest_ended = self._newest_ended or self._newest in (None, generation)
        elif self._newest is None and generation is not None:
            self._newest_ended = (
                False  # `tail` began in the middle of the log: a generation that still writes has not ended
            )
