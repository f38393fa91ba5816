"""The messages that the server sends on a WebSocket: JSON texts, each with its `kind`. Subprotocol `tokentape.v1`.

Owns the bytes of each message. Pure: must not know sockets, nor when a message is sent.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from eventstore import Event
from server.wire.event_json import encode

SUBPROTOCOL = "tokentape.v1"


class Person(msgspec.Struct, frozen=True):
    """Somebody who is connected. `since` is UTC; `author` a name to show, which whoever connected chose."""

    connection: str
    author: str | None
    by: str
    since: str


def event(item: Event) -> str:
    """One event of the log."""
    return '{"kind":"event","event":' + encode(item).decode() + "}"


def hello(conversation: str, after: int, head: int) -> str:
    """The first message: the position after which reading starts, and the head of the log."""
    return _text({"kind": "hello", "conversation": conversation, "after": after, "head": head})


def caught_up(position: int) -> str:
    """All events up to the head have been sent."""
    return _text({"kind": "caught_up", "position": position})


def people(listed: Sequence[Person]) -> msgspec.Raw:
    """Those who are connected, encoded once for the messages to all of them."""
    return msgspec.Raw(msgspec.json.encode(listed))


def presence(you: str, listed: msgspec.Raw, count: int) -> str:
    """Who is connected now. `you` is the connection that gets this message; `listed` may be fewer than `count`."""
    return _text({"kind": "presence", "you": you, "count": count, "people": listed})


def reply(command: Any, fields: dict[str, Any]) -> str:
    """The reply to a command that was carried out. `command` is the id that the client gave it."""
    return _text({"kind": "reply", "id": command, **fields})


def error(command: Any, code: str, detail: str, extra: dict[str, Any]) -> str:
    """A command that was refused, or with `command` None the connection."""
    named = {} if command is None else {"id": command}
    return _text({"kind": "error", **named, "code": code, "detail": detail, **extra})


def _text(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
