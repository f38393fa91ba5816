"""The WebSocket's frames: JSON texts, each with its `kind`. Subprotocol `tokentape.v1`."""

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
    """The first frame: where reading starts and where the log is."""
    return _text({"kind": "hello", "conversation": conversation, "after": after, "head": head})


def caught_up(position: int) -> str:
    """The reader stands at the head."""
    return _text({"kind": "caught_up", "position": position})


def people(listed: Sequence[Person]) -> msgspec.Raw:
    """Those who are there, encoded once for the frames of all of them."""
    return msgspec.Raw(msgspec.json.encode(listed))


def presence(you: str, listed: msgspec.Raw, count: int) -> str:
    """Who is there now. `you` is the connection that this goes to; `listed` may be fewer than `count`."""
    return _text({"kind": "presence", "you": you, "count": count, "people": listed})


def reply(command: Any, fields: dict[str, Any]) -> str:
    """A command that was carried out. `command` is the id the client gave it."""
    return _text({"kind": "reply", "id": command, **fields})


def error(command: Any, code: str, detail: str, extra: dict[str, Any]) -> str:
    """A command, or a connection, that was refused."""
    named = {} if command is None else {"id": command}
    return _text({"kind": "error", **named, "code": code, "detail": detail, **extra})


def _text(frame: dict[str, Any]) -> str:
    return msgspec.json.encode(frame).decode()
