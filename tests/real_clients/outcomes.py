"""What became of a follower, in a word: so a whole table of libraries is held against what is expected."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.clients.api import Api

from .followers import Follower
from .libraries import Library


def outcome(follower: Follower, log: list[dict[str, Any]]) -> str:
    """One follower's events against its log: exact, loses, repeats, disorders, dies or goes on."""
    positions = [event["position"] for event in follower.events]
    if follower.events == log:
        return "exact" if follower.outcome == "returned" and follower.ended.is_set() else _unfinished(follower)
    if set(positions) < {event["position"] for event in log}:
        return "loses" if follower.outcome == "returned" and follower.ended.is_set() else _unfinished(follower)
    return "repeats" if len(positions) > len(set(positions)) else "disorders"


def snapshots_outcome(follower: Follower, last: dict[str, Any]) -> str:
    """The same for one that polls snapshots: each newer than the one before, and the last as it is now."""
    positions = [snapshot["position"] for snapshot in follower.events]
    if follower.outcome != "returned":
        return _unfinished(follower)
    if positions != sorted(set(positions)):
        return "repeats"
    return "exact" if follower.events and follower.events[-1] == last else "loses"


async def judge(library: Library, follower: Follower, api: Api, conversation: str, generation: str) -> str:
    """What became of it, by the server's own word of its log."""
    if library.transport == "snapshots":
        return snapshots_outcome(follower, await api.get(generation))
    if library.transport == "post":
        asked = {event["generation"] for event in follower.events}
        if len(asked) != 1:
            return f"asked for {len(asked)} generations"
        generation = f"/v1/generations/{asked.pop()}"
    return outcome(follower, await api.log(library.log_path(conversation, generation)))


def tally(outcomes: list[str]) -> str:
    """Many followers of one program: "exact", or how many were not and why, as in "6 repeat"."""
    wrong = Counter(one for one in outcomes if one != "exact")
    plural = {"loses": "lose", "repeats": "repeat", "disorders": "disorder", "dies": "die", "goes on": "go on"}
    return ", ".join(f"{count} {plural[one]}" for one, count in sorted(wrong.items())) or "exact"


def _unfinished(follower: Follower) -> str:
    return "dies" if follower.ended.is_set() else "goes on"
