"""Conversations and generations of the demo, made over the API: a former revision's server can make them too.

Owns how they are asked for and waited for; must not know what is measured on them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.stand.http import ask
from bench.stand.polling import Asking, poll
from bench.stand.server import Server

WAIT_SECONDS, LOOK_SECONDS = 60.0, 0.02
QUEUED_AT_ONCE = 8
ENDED = ("completed", "failed", "cancelled")
STORY = "Tell me about tapes."


@dataclass(frozen=True, slots=True)
class Conversation:
    """One that is at rest, and the position of its last event."""

    id: str
    position: int


def start(server: Server, parameters: Mapping[str, float], conversation: Conversation | None = None) -> str:
    """A generation of the demo, in a conversation of its own if none is named; its snapshot's path."""
    path = f"/v1/conversations/{conversation.id}/generations" if conversation else "/v1/generations"
    asked = ask(server, "POST", path, body={"model": "demo", "input": STORY, "parameters": dict(parameters)})
    return f"/v1/generations/{msgspec.json.decode(asked.body)['id']}"


def snapshot(server: Server, path: str) -> dict[str, Any]:
    """What a GET tells."""
    return msgspec.json.decode(ask(server, "GET", path).body, type=dict[str, Any])


def wait_for(
    server: Server, path: str, true: Callable[[dict[str, Any]], bool], seconds: float = WAIT_SECONDS
) -> dict[str, Any]:
    """The first snapshot of which something is true. Raises `RuntimeError` when there is none in that time."""
    until = time.monotonic() + seconds
    while not true(seen := snapshot(server, path)):
        if time.monotonic() > until:
            raise RuntimeError(f"{path} is {seen.get('status')} after {seconds:.0f} s: not what was waited for")
        time.sleep(LOOK_SECONDS)
    return seen


def wait_for_end(server: Server, path: str, seconds: float = WAIT_SECONDS) -> Conversation:
    """When a generation is completed: its conversation, whose last event is the end."""
    seen = wait_for(server, path, lambda now: now["status"] in ENDED, seconds)
    if seen["status"] != "completed":
        raise RuntimeError(f"{path} is {seen['status']}: {seen['error']}")
    return Conversation(seen["conversation"], seen["position"])


def finished(server: Server, tokens: int) -> Conversation:
    """One answer of so many tokens, complete."""
    return wait_for_end(server, start(server, {"tokens": tokens, "rate": 0}))


def several_finished(server: Server, count: int, tokens: int) -> list[Conversation]:
    """So many conversations with an answer each, complete."""
    body = {"model": "demo", "input": STORY, "parameters": {"tokens": tokens, "rate": 0}}
    text = msgspec.json.encode(body).decode()
    asking = Asking("/v1/generations", min(count, QUEUED_AT_ONCE), WAIT_SECONDS, body=text, count=count)
    paths = poll(server, asking).locations
    if len(paths) != count:
        raise RuntimeError(f"{len(paths)} of {count} generations were taken")
    return [wait_for_end(server, path) for path in paths]


def grown(server: Server, generations: int, tokens: int) -> Conversation:
    """One conversation with so many answers of so many tokens, one after the other."""
    made = msgspec.json.decode(ask(server, "POST", "/v1/conversations", body={}).body)
    path = f"/v1/conversations/{made['id']}/generations"
    body = {"model": "demo", "input": STORY, "if_running": "queue", "parameters": {"tokens": tokens, "rate": 0}}
    found = Conversation(made["id"], made["position"])
    left = generations
    while left:
        some = min(left, QUEUED_AT_ONCE)
        left -= some
        asked = [msgspec.json.decode(ask(server, "POST", path, body=body).body) for _ in range(some)]
        found = wait_for_end(server, f"/v1/generations/{asked[-1]['id']}")
    return found
