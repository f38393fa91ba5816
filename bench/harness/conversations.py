"""Makes conversations and generations of the demo over the API, which a former revision's server has as well.

Owns how they are requested and waited for; it must not know what is measured on them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.harness.poll_clients import PollPlan, poll
from bench.harness.raw_http import send_request
from bench.harness.server_process import Server

WAIT_SECONDS, LOOK_SECONDS = 60.0, 0.02
QUEUED_AT_ONCE = 8
ENDED = ("completed", "failed", "cancelled")
STORY = "Tell me about tapes."


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation in which nothing runs, and the position of its last event."""

    id: str
    position: int


def start(server: Server, parameters: Mapping[str, float], conversation: Conversation | None = None) -> str:
    """Starts a generation of the demo, in a new conversation if none is given. Returns its snapshot's path."""
    path = f"/v1/conversations/{conversation.id}/generations" if conversation else "/v1/generations"
    asked = send_request(
        server, "POST", path, body={"model": "demo", "input": STORY, "parameters": dict(parameters)}
    )
    return f"/v1/generations/{msgspec.json.decode(asked.body)['id']}"


def snapshot(server: Server, path: str) -> dict[str, Any]:
    """Fetches the snapshot at `path`."""
    return msgspec.json.decode(send_request(server, "GET", path).body, type=dict[str, Any])


def wait_for(
    server: Server, path: str, condition: Callable[[dict[str, Any]], bool], seconds: float = WAIT_SECONDS
) -> dict[str, Any]:
    """Fetches snapshots until one fulfils the condition. Raises `RuntimeError` after `seconds`."""
    until = time.monotonic() + seconds
    while not condition(seen := snapshot(server, path)):
        if time.monotonic() > until:
            raise RuntimeError(f"{path} is {seen.get('status')} after {seconds:.0f} s: not what was waited for")
        time.sleep(LOOK_SECONDS)
    return seen


def wait_for_end(server: Server, path: str, seconds: float = WAIT_SECONDS) -> Conversation:
    """Waits until a generation is completed. Returns its conversation, whose last event is that end."""
    seen = wait_for(server, path, lambda now: now["status"] in ENDED, seconds)
    if seen["status"] != "completed":
        raise RuntimeError(f"{path} is {seen['status']}: {seen['error']}")
    return Conversation(seen["conversation"], seen["position"])


def finished_conversation(server: Server, tokens: int) -> Conversation:
    """Makes one completed answer of `tokens` tokens."""
    return wait_for_end(server, start(server, {"tokens": tokens, "rate": 0}))


def finished_conversations(server: Server, count: int, tokens: int) -> list[Conversation]:
    """Makes `count` conversations with one completed answer each."""
    body = {"model": "demo", "input": STORY, "parameters": {"tokens": tokens, "rate": 0}}
    text = msgspec.json.encode(body).decode()
    plan = PollPlan("/v1/generations", min(count, QUEUED_AT_ONCE), WAIT_SECONDS, body=text, count=count)
    paths = poll(server, plan).locations
    if len(paths) != count:
        raise RuntimeError(f"{len(paths)} of {count} generations were taken")
    return [wait_for_end(server, path) for path in paths]


def long_conversation(server: Server, generations: int, tokens: int) -> Conversation:
    """Makes one conversation with `generations` answers of `tokens` tokens, one after the other."""
    made = msgspec.json.decode(send_request(server, "POST", "/v1/conversations", body={}).body)
    path = f"/v1/conversations/{made['id']}/generations"
    body = {"model": "demo", "input": STORY, "if_running": "queue", "parameters": {"tokens": tokens, "rate": 0}}
    found = Conversation(made["id"], made["position"])
    left = generations
    while left:
        some = min(left, QUEUED_AT_ONCE)
        left -= some
        asked = [msgspec.json.decode(send_request(server, "POST", path, body=body).body) for _ in range(some)]
        found = wait_for_end(server, f"/v1/generations/{asked[-1]['id']}")
    return found
