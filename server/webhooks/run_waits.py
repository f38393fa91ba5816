"""What a run waits for, read from the log: decisions on calls, results of clients' tools, a larger budget. Pure.

`OpenWaits` takes the events of one generation and says what is open after them; `new_messages` makes of it the
messages that a receiver has not had. A wait is known by the position of the event with which it began, so another
process that reads the same log tells the same of it. Must not know who is told, or when.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from eventstore import Event
from server.conversations.budget import Budget, budget_after
from server.event_types import TERMINAL, EventType
from server.webhooks.webhook_events import WaitingCall, WaitingFor, WaitMessage

BUDGET: Final = ""
"""Stands for the budget where a wait is known by its call: a run has one budget."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that a run waits for since the event at `position`. `details`: of the budget, else of the call."""

    position: int
    since: datetime
    waiting_for: WaitingFor
    details: Mapping[str, Any]


class OpenWaits:
    """What the generation waits for after the events added so far."""

    def __init__(self, generation: str) -> None:
        self._generation = generation
        self._budget = Budget()
        self._open: dict[str, Wait] = {}  # by the call's id, or BUDGET
        self._clients: dict[str, str] = {}  # calls that a client runs, and their tools' names

    def add(self, event: Event) -> bool:
        """Takes the next event of the conversation. Returns whether it may have begun or ended a wait."""
        change = _CHANGES.get(event.type)
        if change is None or event.tag != self._generation:
            return False
        change(self, event, _decode(event.data))
        return True

    def __contains__(self, position: int) -> bool:
        """Whether the wait that began at this position is open."""
        return any(wait.position == position for wait in self._open.values())

    def after(self, position: int) -> Sequence[Wait]:
        """The open waits that began after this position, in their order."""
        return sorted(
            (wait for wait in self._open.values() if wait.position > position), key=lambda wait: wait.position
        )

    def proposed(self, event: Event, fields: Mapping[str, Any]) -> None:
        """Handles `tool.proposed`."""
        if fields.get("client"):
            self._clients[fields["call"]] = fields["name"]
        if fields["needs_approval"]:
            told = {name: fields.get(name) for name in ("call", "name", "expires_at")}
            self._begin(event, "approval", fields["call"], told)

    def started(self, event: Event, fields: Mapping[str, Any]) -> None:
        """Handles `tool.started`: from here on a client has to send its tool's result."""
        call = fields["call"]
        if call in self._clients:
            self._begin(event, "input", call, {"call": call, "name": self._clients[call]})

    def decided(self, event: Event, fields: Mapping[str, Any]) -> None:
        """Handles `tool.decided`. A call of which the beginning is not retained is unknown here."""
        self._open.pop(fields["call"], None)

    def finished(self, event: Event, fields: Mapping[str, Any]) -> None:
        """Handles `tool.finished`."""
        self._open.pop(fields["call"], None)
        self._clients.pop(fields["call"], None)

    def budget_changed(self, event: Event, fields: Mapping[str, Any]) -> None:
        """Handles `budget.reached` and `budget.raised`."""
        kind = EventType(event.type)
        if kind is EventType.BUDGET_REACHED and self._budget.limit(fields["bound"]) is None:
            # The bounds stand in the request, which is not read here: this one is told again where it matters.
            self._budget = msgspec.structs.replace(self._budget, **{fields["bound"]: fields["limit"]})
        self._budget = budget_after(self._budget, kind, fields)
        if self._budget.reached is None:
            self._open.pop(BUDGET, None)
        elif kind is EventType.BUDGET_REACHED:
            self._begin(event, "budget", BUDGET, fields)

    def ended(self, event: Event, fields: Mapping[str, Any]) -> None:
        """Handles the terminal event."""
        self._open = {}

    def _begin(self, event: Event, waiting_for: WaitingFor, key: str, details: Mapping[str, Any]) -> None:
        self._open[key] = Wait(event.position, event.at, waiting_for, details)


_CHANGES: Final[Mapping[str, Callable[[OpenWaits, Event, Mapping[str, Any]], None]]] = {
    EventType.TOOL_PROPOSED: OpenWaits.proposed,
    EventType.TOOL_DECIDED: OpenWaits.decided,
    EventType.TOOL_STARTED: OpenWaits.started,
    EventType.TOOL_FINISHED: OpenWaits.finished,
    EventType.BUDGET_REACHED: OpenWaits.budget_changed,
    EventType.BUDGET_RAISED: OpenWaits.budget_changed,
    **dict.fromkeys(TERMINAL, OpenWaits.ended),
}


def new_messages(waits: OpenWaits, told_up_to: int) -> list[WaitMessage]:
    """The messages about open waits that began after `told_up_to`: one for each kind of wait, in their order.

    The calls of one round of an agent are one message: whoever decides on them is called once.
    """
    found: dict[WaitingFor, list[Wait]] = {}
    for wait in waits.after(told_up_to):
        found.setdefault(wait.waiting_for, []).append(wait)
    return [_message(kind, some) for kind, some in found.items()]


def _message(kind: WaitingFor, waits: Sequence[Wait]) -> WaitMessage:
    first = waits[0]
    if kind == "budget":
        budget = {name: first.details[name] for name in ("bound", "limit", "used")}
        return WaitMessage(first.position, first.since, kind, budget=budget)
    calls = (
        WaitingCall(wait.details["call"], wait.details["name"], wait.position, wait.details.get("expires_at"))
        for wait in waits
    )
    return WaitMessage(first.position, first.since, kind, tuple(calls))


def is_over(message: WaitMessage, waits: OpenWaits) -> bool:
    """Whether nothing of what the message tells is open any more."""
    if message.waiting_for == "budget":
        return message.position not in waits
    return not any(one.position in waits for one in message.calls)
