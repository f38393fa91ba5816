"""Who decided what: the audit of the agent's calls, read from the log alone.

    python -m service_bot.audit                 all conversations, the newest first
    python -m service_bot.audit conv_… --json   one of them, a JSON object for each call

For each call it says when and with which arguments it was proposed, who approved, modified or rejected it, and
when, what ran, and what came of it. Each digest is computed again from the arguments that stand beside it (SHA-256
of their canonical JSON, RFC 8785): one that does not fit ends the command with status 1. A key with the scope
`audit` is enough for a conversation that is named, one with `read` lists them all.

Owns the fold of events into calls, and how a call is printed. It must not know the agent's tools.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2
import rfc8785

TYPES = "tool.proposed,tool.approval,tool.decided,tool.started,tool.finished"
PAGE = 1000
TRIES = 8
UNSAFE_INTEGER = "not checked: an integer beyond 2^53"


@dataclass
class Decision:
    """One person's word on a call. `what`: approved, modified or rejected.

    `saw`: the digest of what the person had seen. `remaining` others have to approve it yet.
    """

    at: str
    by: str
    what: str
    saw: str
    arguments: Any
    digest: str
    remaining: int
    reason: str | None


@dataclass
class Call:
    """One call. `ran`: the arguments it was started with, None where it never was."""

    conversation: str
    generation: str
    call: str
    name: str
    position: int
    proposed_at: str
    proposed: Any
    proposed_digest: str
    asked: bool
    approvers: int
    hidden_characters: list[str]
    decisions: list[Decision] = field(default_factory=list)
    started_at: str | None = None
    ran: Any = None
    ran_digest: str | None = None
    finished_at: str | None = None
    result: Any = None
    error: Any = None
    faults: list[str] = field(default_factory=list)
    """What does not fit: the log was changed, or this program is wrong."""


def fold(conversation: str, events: Iterable[dict[str, Any]]) -> list[Call]:
    """The calls of a conversation, in the order of their proposals."""
    calls: dict[str, Call] = {}
    for event in events:
        if event["type"] == "tool.proposed":
            calls[event["call"]] = _proposed(conversation, event)
        elif (call := calls.get(event["call"])) is None:
            raise ValueError(f"{conversation}: position {event['position']} names a call that was never proposed")
        elif event["type"] in ("tool.approval", "tool.decided"):
            _decide(call, event)
        elif event["type"] == "tool.started":
            call.started_at = event["at"]
            last = call.decisions[-1] if call.decisions else None
            call.ran = last.arguments if last else call.proposed
            call.ran_digest = last.digest if last else call.proposed_digest
            approved = {
                one.by for one in call.decisions if one.what != "rejected" and one.digest == call.ran_digest
            }
            if call.asked and len(approved) < call.approvers:
                call.faults.append(f"it ran, and {len(approved)} of {call.approvers} had approved it")
        elif event["type"] == "tool.finished":
            call.finished_at, call.result, call.error = event["at"], event.get("result"), event.get("error")
    return list(calls.values())


def _proposed(conversation: str, event: dict[str, Any]) -> Call:
    call = Call(
        conversation=conversation,
        generation=event["generation"],
        call=event["call"],
        name=event["name"],
        position=event["position"],
        proposed_at=event["at"],
        proposed=event["arguments"],
        proposed_digest=event["arguments_digest"],
        asked=event["needs_approval"],
        approvers=event.get("approvers", 1),
        hidden_characters=event.get("hidden_characters", []),
    )
    _check(call, call.proposed, call.proposed_digest, "proposed")
    return call


def _decide(call: Call, event: dict[str, Any]) -> None:
    before = call.decisions[-1] if call.decisions else None
    shown, its_digest = (before.arguments, before.digest) if before else (call.proposed, call.proposed_digest)
    if event["proposed_digest"] != its_digest:
        call.faults.append(f"{event['by']} decided on other arguments than those that stood there")
    modified = event["arguments_digest"] != event["proposed_digest"]
    rejected = event.get("decision") == "rejected"
    decision = Decision(
        at=event["at"],
        by=event["by"],
        what="rejected" if rejected else "modified" if modified else "approved",
        saw=event["proposed_digest"],
        arguments=event.get("arguments", shown),
        digest=event["arguments_digest"],
        remaining=event.get("remaining", 0),
        reason=event.get("reason"),
    )
    call.decisions.append(decision)
    call.hidden_characters += event.get("hidden_characters", [])
    _check(call, decision.arguments, decision.digest, decision.what)


def _check(call: Call, arguments: Any, digest: str, what: str) -> None:
    try:
        found = digest_of(arguments)
    except rfc8785.IntegerDomainError:  # the library stops where JavaScript's numbers do; the server goes on
        call.faults.append(f"the digest of what was {what} is {UNSAFE_INTEGER}")
        return
    if found != digest:
        call.faults.append(f"the digest of what was {what} does not fit: it is {found}")


def digest_of(arguments: Any) -> str:
    """The SHA-256 of the arguments' canonical JSON (RFC 8785)."""
    return hashlib.sha256(rfc8785.dumps(arguments)).hexdigest()


def print_call(call: Call) -> None:
    """For people. What is not seen, or reorders what is seen, stands there as \\u…."""
    print(f"{_time(call.proposed_at)}  {_visible(call.name)}  {call.call}  {call.conversation}")
    print(f"    proposed  {_arguments(call.proposed)}")
    print(f"              SHA-256 {call.proposed_digest}")
    if call.hidden_characters:
        print(f"              with hidden characters: {', '.join(sorted(set(call.hidden_characters)))}")
    if not call.asked:
        print("    asked     nobody: the tool's rule wants no approval of this call")
    elif not call.decisions:
        people = "1 person" if call.approvers == 1 else f"{call.approvers} people"
        print(f"    waits     for {people}" if call.finished_at is None else "    decided   by nobody")
    for one in call.decisions:
        why = f": {_visible(one.reason)}" if one.reason else ""
        rest = f", {one.remaining} more had to approve" if one.remaining else ""
        print(f"    {one.what:8}  by {_visible(one.by)}, {_time(one.at)}{rest}{why}")
        if one.what == "modified":
            print(f"              {_arguments(one.arguments)}")
            print(f"              SHA-256 {one.digest}")
    if call.started_at is not None:
        print(f"    ran       {_time(call.started_at)}  {_arguments(call.ran)}")
        print(f"              SHA-256 {call.ran_digest}")
    if call.error is not None:
        print(f"    error     {_visible(call.error['code'])}: {_visible(call.error['message'])}")
    elif call.finished_at is not None:
        print(f"    result    {_arguments(call.result)}")
    for fault in call.faults:
        print(f"    FAULT     {_visible(fault)}")
    print()


def _time(at: str) -> str:
    return f"{at[:10]} {at[11:19]} UTC"


def _arguments(value: Any) -> str:
    return json.dumps(value)  # ASCII: whatever may not be seen as it is stands there as \u…


def _visible(text: str) -> str:
    return json.dumps(text)[1:-1]


class Log:
    """The server's logs, read as pages, through cuts."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def conversations(self) -> Iterator[str]:
        """All that the key may see, the newest first."""
        before: dict[str, str] = {}
        while True:
            page = self._get("/v1/conversations", {"limit": "100", **before})
            yield from (line["id"] for line in page["conversations"])
            if page["next"] is None:
                return
            before = {"before": page["next"]}

    def events(self, conversation: str) -> Iterator[dict[str, Any]]:
        """What happened to its calls, up to now."""
        after, done = 0, False
        while not done:
            where = f"/v1/conversations/{conversation}/events"
            page = self._get(where, {"after": str(after), "limit": str(PAGE), "types": TYPES})
            yield from page["events"]
            after, done = page["next"], page["up_to_date"]

    def _get(self, path: str, query: dict[str, str]) -> Any:
        for tries in range(TRIES):
            try:
                answer = self._client.get(path, params=query)
            except httpx2.TransportError as error:
                if tries == TRIES - 1:
                    raise SystemExit(f"No answer from {self._client.base_url}: {error}") from None
            else:
                if answer.status_code == 200:
                    return answer.json()
                if answer.status_code not in (429, 503) or tries == TRIES - 1:
                    raise SystemExit(f"{path}: {answer.json()['detail']}")
            time.sleep(min(4, 0.2 * 2**tries))
        raise AssertionError


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m service_bot.audit", description="Who decided what.")
    parser.add_argument("conversations", nargs="*", metavar="conv_…", help="those alone; all without any")
    parser.add_argument("--url", default=os.environ.get("TOKENTAPE_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--json", action="store_true", help="a JSON object for each call")
    asked = parser.parse_args()
    key = os.environ.get("TOKENTAPE_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    faults = 0
    with httpx2.Client(base_url=asked.url, headers=headers, timeout=30) as client:
        log = Log(client)
        for conversation in asked.conversations or log.conversations():
            for call in fold(conversation, log.events(conversation)):
                faults += any(UNSAFE_INTEGER not in fault for fault in call.faults)
                if asked.json:
                    print(json.dumps(asdict(call)))
                else:
                    print_call(call)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
