"""`tokentape tail`: follows a conversation over WebSocket, from any position, through any restart.

Its whole state is the last position it showed; after every cut it connects again behind that one. The log
is the truth, so nothing is lost and nothing comes twice.
"""

import click
import msgspec
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, ConnectionTimeout, HandshakeError

from server.cli.connection_options import connecting, read_id
from server.cli.event_format import ENDS
from server.cli.event_printer import JsonTeller, PeopleTeller, Teller
from server.cli.exit_codes import STATUSES
from server.cli.output import Paper, keep_fresh, open_paper, reconnecting, tell_absence
from server.client.address import Address
from server.client.api import check, explain, open_api
from server.client.errors import ClientError, Refused, Unreachable
from server.client.patience import Patience
from server.client.websocket import open_websocket

GIVE_UP = (4400, 4404, 4410)
CLOSE_BASE = 4000
FOR_EVER = 1e9


@click.command("tail", epilog=STATUSES, short_help="Follow a conversation through any restart.")
@click.argument("conversation")
@click.option("--after", default="0", show_default=True, help="begin behind this position; now: only what comes")
@click.option("--json", "as_json", is_flag=True, help="one event object a line, as on the wire")
@click.option("--until-end", is_flag=True, help="leave when the newest generation has ended")
@connecting
def command(conversation: str, address: Address, after: str, as_json: bool, until_end: bool) -> None:
    """Follow CONVERSATION: everything since --after, then what comes, until Ctrl-C.

    \b
      tokentape tail conv_…                    all of it, the text of answers as it streams
      tokentape tail conv_… --after now        only what comes
      tokentape tail conv_… --json | jq .type  every event, for programs

    What a model thinks, and a call's arguments while it writes them, are dimmed and marked "thinking:" and
    "arguments of …:".

    Restart the server, pull the plug: it comes back and goes on behind the last position it showed.
    """
    if not (after == "now" or (after.isascii() and after.isdigit())):
        raise click.BadParameter("a position is a whole number, or now", param_hint="--after")
    patience = Patience(FOR_EVER)
    paper = open_paper(lambda: reconnecting(patience), plain=as_json)
    tell_absence(paper, patience)
    teller = JsonTeller() if as_json else PeopleTeller(paper)
    follower = Follower(address, read_id(conversation, "conv"), after, patience, teller, paper, until_end)
    trio.run(follower.run)


class Follower:
    """One conversation being followed. `cursor` is where to go on after a cut."""

    def __init__(
        self,
        address: Address,
        conversation: str,
        cursor: str,
        patience: Patience,
        teller: Teller,
        paper: Paper,
        until_end: bool,
    ) -> None:
        self._address = address
        self._conversation = conversation
        self._url = f"{address.websocket_base}/v1/conversations/{conversation}/ws"
        self.cursor = cursor
        self._patience = patience
        self._teller = teller
        self._paper = paper
        self._until_end = until_end
        self._newest: object = None
        self._ended = False
        self._caught_up = False
        self._error: dict[str, object] = {}

    async def run(self) -> None:
        """Until told to stop, or, with `until_end`, until the newest generation has ended."""
        with self._paper as paper:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_fresh, paper)
                await self._look()
                await self._follow()
                nursery.cancel_scope.cancel()

    async def _look(self) -> None:
        """Whether there is such a conversation: HTTP says plainly what a failed handshake does not."""
        async with open_api(self._address, self._patience) as api:
            await api.get(f"/v1/conversations/{self._conversation}/events", after=self.cursor, limit=1)

    async def _follow(self) -> None:
        while True:
            try:
                if await self._follow_once():
                    return
            except ClientError as error:
                await self._patience.wait(error)

    async def _follow_once(self) -> bool:
        self._error = {}
        self._caught_up = False  # said once a connection, when it has brought all there was
        secure = self._address.trust is not None
        try:
            async with open_websocket(f"{self._url}?after={self.cursor}", trust=self._address.trust) as socket:
                while True:
                    self._take(msgspec.json.decode(await socket.get_message()))
                    if self._until_end and self._ended and self._caught_up:
                        return True
        except ConnectionClosed as closed:
            code = closed.reason.code if closed.reason is not None else None
            if code in GIVE_UP:
                raise Refused(code - CLOSE_BASE, self._error) from None
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
                self._teller.tell([event])
                self.cursor = str(event["position"])
                self._note_end(str(event["type"]), event.get("generation"))
            case {"kind": "hello", "after": int() as after}:
                self.cursor = str(after)  # what `now` meant, so that a cut before the first event loses nothing
                self._patience.well()
            case {"kind": "caught_up"}:
                self._caught_up = True
            case {"kind": "error"}:
                self._error = frame  # said when the connection ends, which is what comes next

    def _note_end(self, kind: str, generation: object) -> None:
        """Whether the newest has ended: the last that was asked for, of several that wait for their turn."""
        if kind == "generation.requested":
            self._newest, self._ended = generation, False
        elif kind in ENDS:
            self._ended = self._ended or self._newest in (None, generation)
        elif self._newest is None and generation is not None:
            self._ended = False  # begun in the middle of the log: whoever still acts is not over
