"""The operator's terminal: the calls that wait for a person, in all conversations, decided on over WebSocket.

    python -m service_bot.operator_terminal              TOKENTAPE_URL and TOKENTAPE_KEY say where, and who

    a 1                    approves call 1
    m 1 {"cents": 2500}    runs it with these arguments, and the others as they stand
    r 1 Ask her first      rejects it, with a reason for the agent
    n 1 She is a regular   a note for the agent, in the conversation of call 1
    l                      lists what waits
    q                      leaves

Owns the numbers of the calls, and the connection to each conversation in which the agent works. A connection
begins with the conversation's snapshot, and goes on behind its position, through any cut; a command that was not
answered is sent again with its key, and acts once. A decision names the digest of the arguments that this program
showed. It must not know the agent's tools.
"""

import argparse
import json
import os
import random
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx2
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)

LOOK_SECONDS = 2.0
"""Between two looks at which conversations have moved."""
NEWEST = 50
"""Conversations that are looked at."""
CONNECT_SECONDS = 3.0
SILENCE_SECONDS = 20.0
"""After so long without a word the connection is tried, and given up after as long again."""
WORKS = ("queued", "running", "waiting")
ENDS = ("generation.completed", "generation.failed", "generation.cancelled")
TYPES = ",".join(("tool.proposed", "tool.approval", "tool.decided", *ENDS))
FINAL = (4400, 4401, 4403, 4404, 4410)
"""Close codes after which coming back does not help."""


@dataclass
class Waiting:
    """A call that waits, as it was shown. `digest` is that of `arguments`."""

    number: int
    follower: "Follower"
    generation: str
    call: str
    name: str
    arguments: dict[str, Any]
    digest: str
    hidden: Sequence[str]
    expires_at: str | None
    approvers: int
    approvals: list[str]

    def __str__(self) -> str:
        hidden = {chr(int(name.removeprefix("U+"), 16)) for name in self.hidden}
        arguments = escape(json.dumps(self.arguments, ensure_ascii=False), hidden)
        until = f", until {self.expires_at[11:16]} UTC" if self.expires_at else ""
        lines = [f"[{self.number}] {escape(self.name, hidden)} {arguments}"]
        if self.hidden:
            lines.append(f"    has hidden characters, shown as \\u…: {', '.join(self.hidden)}")
        if self.approvers > 1:
            lines.append(f"    {len(self.approvals)} of {self.approvers} have approved it {self.approvals}")
        lines.append(f"    SHA-256 {self.digest}")
        lines.append(f"    in {self.follower.conversation}{until}")
        return "\n".join(lines)


def escape(text: str, hidden: set[str]) -> str:
    """The text with what is not seen, or reorders what is seen, as escapes."""
    return "".join(c if c.isprintable() and c not in hidden else json.dumps(c)[1:-1] for c in text)


@dataclass
class Desk:
    """What waits, by number. Numbers are not given twice."""

    waiting: dict[int, Waiting] = field(default_factory=dict)
    given: int = 0

    def propose(self, follower: "Follower", generation: str, fields: dict[str, Any], digest: str) -> None:
        """Shows a call that waits."""
        self.given += 1
        call = Waiting(
            number=self.given,
            follower=follower,
            generation=generation,
            call=fields["call"],
            name=fields["name"],
            arguments=fields["arguments"],
            digest=digest,
            hidden=fields.get("hidden_characters") or (),
            expires_at=fields.get("expires_at"),
            approvers=fields.get("approvers", 1),
            approvals=list(fields.get("approvals", ())),
        )
        self.waiting[call.number] = call
        say(str(call))

    def find(self, call: str) -> Waiting | None:
        """The waiting call of this id."""
        return next((one for one in self.waiting.values() if one.call == call), None)

    def take(self, event: dict[str, Any]) -> None:
        """One event of a call or of its generation."""
        kind = event["type"]
        if kind in ENDS:
            for call in [one for one in self.waiting.values() if one.generation == event["generation"]]:
                say(f"[{call.number}] {call.name}: left undecided, the agent has ended")
                del self.waiting[call.number]
        elif (found := self.find(event["call"])) is None:
            return
        elif kind == "tool.approval":
            if (
                event["arguments_digest"] != found.digest
            ):  # who modifies it approves the new arguments, as the first
                found.arguments, found.digest, found.approvals = event["arguments"], event["arguments_digest"], []
                found.hidden = event.get("hidden_characters", ())
            found.approvals.append(event["by"])
            say(str(found))
        elif kind == "tool.decided":
            people = ", ".join(event.get("approvals") or [event["by"]])
            reason = f": {event['reason']}" if event.get("reason") else ""
            say(escape(f"[{found.number}] {found.name}: {event['decision']} by {people}{reason}", set()))
            del self.waiting[found.number]


class Refused(Exception):
    """The server refuses for good; the text says why."""


@dataclass
class Server:
    """Where, and who asks."""

    url: str
    http: httpx2.AsyncClient
    headers: dict[str, str]
    author: str

    async def get(self, path: str, **query: Any) -> Any:
        """JSON, asked for until it comes. Raises `Refused`."""
        for failures in range(1_000_000):
            try:
                answer = await self.http.get(self.url + path, params=query)
                if answer.status_code == 200:
                    return answer.json()
                if answer.status_code < 500 and answer.status_code != 429:
                    raise Refused(f"{path}: {answer.json()['detail']}")
            except (httpx2.TransportError, ValueError):
                if failures == 0:
                    say(f"No answer from {self.url}; trying again.")
            await pause(failures)
        raise AssertionError


class Follower:
    """One conversation in which the agent works. `position`: that of the last event that was taken."""

    def __init__(self, server: Server, desk: Desk, conversation: str) -> None:
        self._server = server
        self._desk = desk
        self.conversation = conversation
        self.position = 0
        self._socket: WebSocketConnection | None = None
        self._unanswered: dict[str, dict[str, Any]] = {}

    async def run(self, snapshot: dict[str, Any]) -> None:
        """Until no generation of the conversation works any more."""
        self.position = snapshot["position"]
        works = {one["id"] for one in snapshot["generations"] if one["status"] in WORKS}
        for generation in snapshot["generations"]:
            for call in generation["tool_calls"] if generation["id"] in works else ():
                if call["status"] == "proposed" and call["needs_approval"]:
                    self._desk.propose(self, generation["id"], call, call["proposed_digest"])
        failures = 0
        while works:
            try:
                # trio-websocket (0.12) does not notice a cut during the handshake: it waits for as long as it may.
                opening = open_websocket_url(
                    self._address(),
                    extra_headers=self._header_list(),
                    connect_timeout=CONNECT_SECONDS,
                    disconnect_timeout=CONNECT_SECONDS,
                )
                async with opening as socket:
                    failures = 0
                    await self._read(socket, works)
            except ConnectionClosed as closed:
                if closed.reason is not None and closed.reason.code in FINAL:
                    raise Refused(f"{self.conversation}: {closed.reason.reason}") from None
            except ConnectionRejected as rejected:
                if rejected.status_code < 500 and rejected.status_code != 429:
                    raise Refused(f"{self.conversation}: status {rejected.status_code}") from None
            except (HandshakeError, OSError, trio.BrokenResourceError, trio.TooSlowError):
                pass
            finally:
                self._socket = None
            if works:
                await pause(failures)
                failures += 1

    async def send(self, verb: str, fields: dict[str, Any]) -> None:
        """A command. Unless it is answered, it is sent again on the next connection, and acts once."""
        command = {"id": secrets.token_hex(4), "key": secrets.token_hex(16), "do": verb, **fields}
        self._unanswered[command["id"]] = command
        if self._socket is not None:
            await self._transmit(self._socket, command)

    def _address(self) -> str:
        query = {
            "after": self.position,
            "types": TYPES,
            **({"author": self._server.author} if self._server.author else {}),
        }
        url = self._server.url.replace("http", "ws", 1)
        return f"{url}/v1/conversations/{self.conversation}/ws?{urlencode(query)}"

    def _header_list(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self._server.headers.items()]

    async def _transmit(self, socket: WebSocketConnection, command: dict[str, Any]) -> None:
        with suppress(ConnectionClosed):  # it is sent again
            await socket.send_message(json.dumps(command))

    async def _read(self, socket: WebSocketConnection, works: set[str]) -> None:
        while works:
            with trio.move_on_after(SILENCE_SECONDS) as silence:
                frame = json.loads(await socket.get_message())
            if silence.cancelled_caught:
                with trio.fail_after(SILENCE_SECONDS):
                    await socket.ping()
            elif frame["kind"] == "hello":
                self._socket = socket
                for command in list(self._unanswered.values()):
                    await self._transmit(socket, command)
            elif frame["kind"] == "event":
                event = frame["event"]
                self.position = event["position"]
                if event["type"] == "tool.proposed" and event["needs_approval"]:
                    works.add(event["generation"])
                    self._desk.propose(self, event["generation"], event, event["arguments_digest"])
                self._desk.take(event)
                if event["type"] in ENDS:
                    works.discard(event["generation"])
            elif frame["kind"] in ("reply", "error"):
                self._unanswered.pop(frame.get("id", ""), None)
                if frame["kind"] == "error":
                    say(f"refused: {frame['detail']}")


async def watch(server: Server, desk: Desk) -> None:
    """Follows each conversation in which the agent works, for as long as it does."""
    seen: dict[str, int] = {}
    followed: set[str] = set()

    async def follow(snapshot: dict[str, Any]) -> None:
        name = snapshot["id"]
        await Follower(server, desk, name).run(snapshot)
        followed.discard(name)

    async with trio.open_nursery() as nursery:
        while True:
            lines = (await server.get("/v1/conversations", limit=NEWEST))["conversations"]
            for line in reversed(lines):
                name, position = line["id"], line["position"]
                if name in followed or seen.get(name) == position:
                    continue
                snapshot = await server.get(f"/v1/conversations/{name}")
                seen[name] = snapshot["position"]
                if any(
                    one["workflow"] == "service_bot" and one["status"] in WORKS for one in snapshot["generations"]
                ):
                    followed.add(name)
                    nursery.start_soon(follow, snapshot)
            await trio.sleep(LOOK_SECONDS)


async def obey(desk: Desk) -> None:
    """Reads what the operator types, until `q` or the end of the input."""
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        verb, _, rest = line.strip().partition(" ")
        number, _, words = rest.strip().partition(" ")
        if verb == "q":
            return
        if verb in ("", "l"):
            say("\n".join(map(str, desk.waiting.values())) or "Nothing waits.")
        elif verb not in ("a", "m", "r", "n"):
            say('a 1, m 1 {"…": …}, r 1 why, n 1 note, l, q')
        elif not number.isdecimal() or (call := desk.waiting.get(int(number))) is None:
            say(f"No call of the number {number[:20]!r} waits.")
        elif verb == "n":
            await call.follower.send("post", {"role": "user", "content": words})
        else:
            await decide(call, verb, words.strip())


async def decide(call: Waiting, verb: str, words: str) -> None:
    """Sends a decision on what was shown."""
    fields: dict[str, Any] = {"generation": call.generation, "call": call.call, "proposed_digest": call.digest}
    fields["decision"] = {"a": "approved", "m": "modified", "r": "rejected"}[verb]
    if verb == "m":
        try:
            fields["arguments"] = call.arguments | json.loads(words)
        except (ValueError, TypeError):
            say('After the number stand the arguments that change, as JSON: {"cents": 2500}')
            return
        say(f"[{call.number}] sent: {json.dumps(fields['arguments'])}")
    elif words:
        fields["reason"] = words
    await call.follower.send("decide", fields)


def say(text: str) -> None:
    """On the terminal at once."""
    print(text, flush=True)


async def pause(failures: int) -> None:
    """Longer after each failure, and not the same for all."""
    await trio.sleep(min(4.0, 0.25 * 2**failures) * random.uniform(0.5, 1))


async def run(url: str, author: str) -> None:
    """The program. Raises `Refused`."""
    key = os.environ.get("TOKENTAPE_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    desk = Desk()
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        server = Server(url.rstrip("/"), http, headers, author)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, server, desk)
            await obey(desk)
            nursery.cancel_scope.cancel()


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m service_bot.operator_terminal", description="Decide on calls."
    )
    parser.add_argument("--url", default=os.environ.get("TOKENTAPE_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--author", default="", help="the name by which the other operators see you")
    asked = parser.parse_args()
    status = 0
    try:
        trio.run(run, asked.url, asked.author)
    except* Refused as refused:
        print(refused.exceptions[0], file=sys.stderr)
        status = 1
    except* KeyboardInterrupt:
        status = 130
    return status


if __name__ == "__main__":
    sys.exit(main())
