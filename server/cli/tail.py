"""`tokentape tail`: follows a conversation over WebSocket, from any position, through any restart.

Its whole state is the last position it printed; after every cut it connects again behind that one. The log
is the truth, so nothing is lost and nothing comes twice.
"""

import random
import sys
from urllib.parse import urlsplit

import click
import msgspec
import trio
from trio_websocket import ConnectionClosed, ConnectionTimeout, HandshakeError

from server.cli.websocket import open_websocket

PAUSE_FIRST, PAUSE_MOST = 0.2, 5.0
GIVE_UP = {4400, 4404, 4410}


@click.command("tail")
@click.argument("conversation")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="the server")
@click.option("--after", default="0", show_default=True, help="begin behind this position; now: only what comes")
@click.option("--json", "as_json", is_flag=True, help="one event object a line, as on the wire")
@click.option("--until-end", is_flag=True, help="leave when the newest generation has ended")
def command(conversation: str, url: str, after: str, as_json: bool, until_end: bool) -> None:
    """Follow CONVERSATION: everything since --after, then what comes, until Ctrl-C.

    \b
      tokentape tail conv_…                    all of it, the text of answers as it streams
      tokentape tail conv_… --after now        only what comes
      tokentape tail conv_… --json | jq .type  every event, for programs

    Restart the server, pull the plug: it comes back and goes on behind the last position it showed.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.BadParameter("it has to look like http://127.0.0.1:8000", param_hint="--url")
    base = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}{parts.path.rstrip('/')}"
    follower = Follower(f"{base}/v1/conversations/{conversation}/ws", after, as_json, until_end)
    try:
        trio.run(follower.follow)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)  # `tokentape tail … | head`: the reader has seen enough


class Follower:
    """One conversation being followed. `cursor` is where to go on after a cut."""

    def __init__(self, url: str, cursor: str, as_json: bool, until_end: bool) -> None:
        self._url = url
        self.cursor = cursor
        self._as_json = as_json
        self._until_end = until_end
        self._in_text = False
        self._ended = False
        self._caught_up = False

    async def follow(self) -> None:
        """Until told to stop, or, with `until_end`, until the newest generation has ended."""
        pause = PAUSE_FIRST
        while True:
            try:
                self._caught_up = False  # said once a connection, when it has brought all there was
                async with open_websocket(f"{self._url}?after={self.cursor}") as socket:
                    while True:
                        frame = msgspec.json.decode(await socket.get_message())
                        pause = PAUSE_FIRST
                        self._take(frame)
                        self._caught_up = self._caught_up or frame["kind"] == "caught_up"
                        if self._until_end and self._ended and self._caught_up:
                            return
            except ConnectionClosed as closed:
                reason = closed.reason
                if reason is not None and reason.code in GIVE_UP:
                    sys.exit(1)
            except (HandshakeError, ConnectionTimeout, OSError) as error:
                self._note(f"no connection ({error or type(error).__name__}); trying again")
            await trio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSE_MOST)

    def _take(self, frame: dict[str, object]) -> None:
        match frame:
            case {"kind": "event", "event": dict() as event}:
                self.cursor = str(event["position"])
                self._show(event)
            case {"kind": "hello", "after": int() as after}:
                self.cursor = str(after)  # what `now` meant, so that a cut before the first event loses nothing
            case {"kind": "error", "detail": detail}:
                self._note(str(detail))

    def _show(self, event: dict[str, object]) -> None:
        kind = str(event["type"])
        self._ended = kind in ("generation.completed", "generation.failed", "generation.cancelled") or (
            self._ended and not kind.startswith(("generation.", "token"))
        )
        if self._as_json:
            click.echo(msgspec.json.encode(event))
        elif kind == "token":
            click.echo(str(event["delta"]), nl=False)
            self._in_text = True
        else:
            self._line(event, kind)

    def _line(self, event: dict[str, object], kind: str) -> None:
        if self._in_text:
            click.echo()
            self._in_text = False
        known = {"position", "type", "at"}
        rest = {name: value for name, value in event.items() if name not in known}
        text = event["content"] if kind == "message.posted" else msgspec.json.encode(rest).decode()
        who = f"{event.get('author') or event.get('role')}: " if kind == "message.posted" else ""
        click.echo(click.style(f"{event['position']:>6}  {kind}  ", dim=True) + f"{who}{text}")

    def _note(self, text: str) -> None:
        click.echo(click.style(f"tokentape: {text}", fg="yellow"), err=True)
