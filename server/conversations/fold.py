"""`fold(conversation, events)`: the state after the events. Only this code reads the fields of events. Pure.

`snapshot(k) == fold(events up to k)` holds on every transport, because all of them call this. Events are collected
in one `_GenerationFold` for each generation that they touch, and made immutable once, at the end: an event costs
what is in it, not what was there before. An event of an unknown type changes the position alone, so that the
events of a newer server do not stop an older one.
"""

from collections.abc import Callable, Iterable, Mapping
from sys import intern
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from eventstore import Event
from server.conversations.budget import Budget, budget_after
from server.conversations.conversation_state import (
    NO_TEXT,
    AppliedMessage,
    Conversation,
    Generation,
    Message,
    Progress,
    ToolCall,
    size_in_memory,
)
from server.conversations.state_machine import Status, next_status
from server.conversations.tool_call_fold import Fields, apply_to_tool_call
from server.event_types import ANONYMOUS, DEFAULT_TENANT, LOSS_REASONS, EventType
from server.message_parts import logged_content


class _Delta(msgspec.Struct):
    """The data of a `token` or a `reasoning` event."""

    delta: str


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_delta = msgspec.json.Decoder(_Delta).decode


class OutOfOrder(Exception):
    """The events do not follow the state: an event is missing or comes twice. A bug in the caller."""


def fold(state: Conversation, events: Iterable[Event]) -> Conversation:
    """The conversation after `events`, which must directly follow `state.position`, oldest first.

    Raises `OutOfOrder` at a gap or a repetition, `InvalidTransition` where a generation's state does not
    allow the event.
    """
    folding = ConversationFold(state)
    folding.add(events)
    return folding.state()


class ConversationFold:
    """A fold that takes several pages of events. `position` is that of the last event added.

    Do not use it again after it has raised an error. The states that it gave before stay right.
    """

    def __init__(self, state: Conversation) -> None:
        self._last = state
        self._generation_folds: dict[str, _GenerationFold] = {}
        self._messages = state.message_count
        self._generations = state.generation_count
        self._history = state.history
        self._size = state.size
        self._writing = False
        self._opening = (state.title, state.metadata, state.created_at, state.tenant)
        self.position = state.position

    def add(self, events: Iterable[Event]) -> None:
        """Folds more events. Raises `OutOfOrder`, `InvalidTransition`."""
        self._begin_writing()
        for event in events:
            if event.position != self.position + 1:
                raise OutOfOrder(f"position {event.position} does not follow {self.position} in {self._last.id}")
            if event.type == "token":
                generation = self._generation_fold(event.tag)
                if generation is not None:
                    generation.add_token(event)
            elif event.type == "reasoning":
                generation = self._generation_fold(event.tag)
                if generation is not None:
                    generation.add_reasoning(event)
            elif event.type == "tool.arguments":
                generation = self._generation_fold(event.tag)
                if generation is not None:
                    generation.note_activity(EventType.TOOL_ARGUMENTS, event)
            else:
                handler = _HANDLERS.get(event.type)
                if handler is not None:
                    handler(self, event, _decode(event.data))
            self.position = event.position

    def state(self) -> Conversation:
        """The conversation after all events that were added."""
        if self._writing:
            self._history.tip = self.position
            self._writing = False
        if self.position == self._last.position:
            return self._last
        running = self._last.running
        if self._generation_folds:
            running = dict(running)
            for generation in self._generation_folds.values():
                found = generation.result()
                self._size += generation.grown
                if found.ended:
                    self._history.ended[generation.place] = found
                    running.pop(generation.place, None)
                else:
                    running[generation.place] = found
            self._generation_folds = {}
        self._last = Conversation(
            self._last.id,
            self.position,
            *self._opening,
            self._messages,
            self._generations,
            running,
            self._size,
            self._history,
        )
        return self._last

    def _begin_writing(self) -> None:
        """Reserves the history for this fold, or copies it: another fold may have written to it, or be writing."""
        if self._writing:
            return
        if self._history.tip != self._last.position:
            self._history = self._history.copy(self._messages, self._generations)
        self._history.tip = -1
        self._writing = True

    def _generation_fold(self, tag: str | None) -> "_GenerationFold | None":
        """The fold of the generation that an event is about. None: the conversation has no such generation."""
        if tag is None:
            return None
        generation = self._generation_folds.get(tag)
        if generation is None:
            found = self._last.generation(tag)
            if found is None:
                return None
            generation = self._generation_folds[tag] = _GenerationFold(found, self._history.index[tag])
        return generation

    def conversation_started(self, event: Event, fields: Fields) -> None:
        """Handles `conversation.started`."""
        metadata = fields.get("metadata")
        self._size += size_in_memory(metadata) - size_in_memory(self._opening[1])
        tenant = intern(fields.get("tenant", DEFAULT_TENANT))
        self._opening = (fields.get("title"), metadata, event.at, tenant)

    def message_posted(self, event: Event, fields: Fields) -> None:
        """Handles `message.posted`."""
        message = Message(
            id=fields["message"],
            role=intern(fields["role"]),
            content=logged_content(fields["content"]),
            position=event.position,
            at=event.at,
            by=intern(fields["by"]),
            author=fields.get("author"),
            deliver=intern(fields["deliver"]) if "deliver" in fields else None,
            into=intern(fields["into"]) if "into" in fields else None,
        )
        self._history.messages.append(message)
        self._messages += 1
        self._size += message.size

    def generation_requested(self, event: Event, fields: Fields) -> None:
        """Handles `generation.requested`."""
        found = Generation(
            id=event.tag or "",
            conversation=self._last.id,
            status=Status.QUEUED,
            model=fields.get("model"),
            workflow=fields.get("workflow"),
            input=fields.get("input"),
            parameters=fields["parameters"],
            tools=tuple(fields.get("tools", ())),
            steering=fields.get("steering", {}),
            on_crash=intern(fields.get("on_crash", "fail")),
            if_running=intern(fields.get("if_running", "reject")),
            ephemeral=fields.get("ephemeral", False),
            by=intern(fields.get("by", ANONYMOUS)),
            budget=Budget(**fields["budget"]) if "budget" in fields else None,
            requested_position=event.position,
            position=event.position,
            created_at=event.at,
        )
        place = self._generations
        self._history.index[found.id] = place
        self._history.ended.append(None)
        self._generations += 1
        self._size += found.size
        self._generation_folds[found.id] = _GenerationFold(found, place)

    def generation_changed(self, event: Event, fields: Fields) -> None:
        """Handles every other event of a generation."""
        generation = self._generation_fold(event.tag)
        if generation is not None:
            generation.add(EventType(event.type), event, fields)


class _GenerationFold:
    """One generation while events are added to it.

    `place`: in the order of requests. `grown`: by so many bytes.
    """

    __slots__ = (
        *(
            "_applied",
            "_calls",
            "_changes",
            "_found",
            "_pieces",
            "_reasoning",
            "_reasoning_pieces",
            "_status",
            "_text",
        ),
        *("_tokens", "grown", "place"),
    )

    def __init__(self, found: Generation, place: int) -> None:
        self._found = found
        self._changes: dict[str, Any] = {}
        self._text = found.growing_text
        self._pieces: list[str] = []
        self._applied: list[AppliedMessage] = []
        self._reasoning = found.growing_reasoning
        self._reasoning_pieces: list[str] = []
        self._tokens = found.tokens
        self._status = found.status
        self._calls: dict[str, ToolCall] | None = None
        self.place = place
        self.grown = 0

    def add_token(self, event: Event) -> None:
        """Handles `token`. A log has thousands of them: this is the fold's hot path."""
        if self._status is not Status.RUNNING:
            self._status = next_status(self._status, EventType.TOKEN, waits=self._status is Status.WAITING)
        self._pieces.append(_decode_delta(event.data).delta)
        self._tokens += 1
        self._changes["position"] = event.position

    def add_reasoning(self, event: Event) -> None:
        """Handles `reasoning`; a log may have thousands of them, too."""
        self.note_activity(EventType.REASONING, event)
        self._reasoning_pieces.append(_decode_delta(event.data).delta)

    def note_activity(self, kind: EventType, event: Event) -> None:
        """Handles an event of which only its coming counts.

        `tool.arguments`: `tool.proposed` has them all again.
        """
        if self._status is not Status.RUNNING:
            self._status = next_status(self._status, kind, waits=self._status is Status.WAITING)
        self._changes["position"] = event.position

    def add(self, kind: EventType, event: Event, fields: Fields) -> None:
        """Handles any other event."""
        if kind in _TOOL_CALL_EVENTS:
            self._add_to_calls(kind, event, fields)
        change = _CHANGES.get(kind)
        if change is not None:
            change(self, event, fields)
        self._status = next_status(self._status, kind, waits=self._waits())
        self._changes["position"] = event.position

    def _waits(self) -> bool:
        """Whether one of its calls waits for a person's decision, or the run for a larger budget."""
        budget = self._current("budget")
        if budget is not None and budget.reached is not None:
            return True
        changed = self._calls is not None or "budget" in self._changes
        if not changed and self._status in (Status.RUNNING, Status.WAITING):
            return self._status is Status.WAITING
        found = self._found.tool_calls if self._calls is None else self._calls.values()
        return any(call.waits for call in found)

    def _add_to_calls(self, kind: EventType, event: Event, fields: Fields) -> None:
        if self._calls is None:
            self._calls = {call.call: call for call in self._found.tool_calls}
        before, after = apply_to_tool_call(self._calls, kind, fields, event.position)
        if before is None:
            self.grown += size_in_memory(after) + 8
        else:
            self.grown += sum(
                size_in_memory(getattr(after, name)) - size_in_memory(getattr(before, name))
                for name in ("arguments", "result", "error", "approvals")
                if getattr(after, name) is not getattr(before, name)
            )

    def started(self, event: Event, fields: Fields) -> None:
        """Handles `generation.started`.

        A later attempt writes its text anew. What was done for good stays: steps, tool calls, steering.
        """
        self._changes |= {"attempt": fields["attempt"], "worker": intern(fields["worker"]), "started_at": event.at}
        if fields["attempt"] > 1:
            self._text, self._pieces, self._tokens = NO_TEXT, [], 0
            self._reasoning, self._reasoning_pieces = NO_TEXT, []
            self._changes["progress"] = None
            self._set("result", None)

    def interrupted(self, event: Event, fields: Fields) -> None:
        """Handles `generation.interrupted`. A worker that died without a word may have died of this very run."""
        if fields["attempt"] > 0 and fields["reason"] in LOSS_REASONS:
            self._changes["losses"] = self._current("losses") + 1

    def clear_losses(self, event: Event, fields: Fields) -> None:
        """Handles events after which the next attempt has less to do: then the lost attempts were not in vain."""
        if self._current("losses"):
            self._changes["losses"] = 0

    def steered(self, event: Event, fields: Fields) -> None:
        """Handles `steering.changed`."""
        self._set("steering", {**self._current("steering"), fields["name"]: fields["value"]})

    def message_applied(self, event: Event, fields: Fields) -> None:
        """Handles `message.applied`."""
        self._text, self._pieces = self._text.plus("".join(self._pieces)), []
        applied = AppliedMessage(fields["message"], event.position, self._text.length)
        # Not one tuple after the other, each measured anew: an answer may take thousands of messages at once.
        self._applied.append(applied)
        self.grown += size_in_memory(applied) + 8

    def budget_changed(self, event: Event, fields: Fields) -> None:
        """Handles `budget.reached` and `budget.raised`; without a budget neither is written."""
        budget = self._current("budget")
        if budget is not None:
            self._set("budget", budget_after(budget, EventType(event.type), fields))

    def progressed(self, event: Event, fields: Fields) -> None:
        """Handles `progress`."""
        progress = self._current("progress")
        before = progress.at if progress else self._current("started_at")
        pace = (event.at - before).total_seconds() if before else None
        stage = fields.get("stage")
        self._changes["progress"] = Progress(
            fields["done"], fields["total"], fields["unit"], stage, at=event.at, pace=pace
        )

    def result_set(self, event: Event, fields: Fields) -> None:
        """Handles `result`."""
        self._set("result", fields["value"])

    def completed(self, event: Event, fields: Fields) -> None:
        """Handles `generation.completed`."""
        self._changes |= {
            "finished_at": event.at,
            "finish_reason": fields["finish_reason"],
            "ttft_ms": fields.get("ttft_ms"),
        }
        self._set("usage", fields["usage"])
        self._set("refusal", fields.get("refusal"))

    def failed(self, event: Event, fields: Fields) -> None:
        """Handles `generation.failed`."""
        self._changes |= {"finished_at": event.at, "retryable": fields["retryable"]}
        self._set("error", fields["error"])

    def cancelled(self, event: Event, fields: Fields) -> None:
        """Handles `generation.cancelled`."""
        self._changes["finished_at"] = event.at
        self._set("reason", fields.get("reason"))

    def _current(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._found, name)

    def _set(self, name: str, value: Any) -> None:
        self.grown += size_in_memory(value) - size_in_memory(self._current(name))
        self._changes[name] = value

    def result(self) -> Generation:
        """The generation after all events that were added."""
        changes = self._changes
        if self._pieces:
            self._text = self._text.plus("".join(self._pieces))
        if self._text is not self._found.growing_text:
            changes["growing_text"] = self._text
            self.grown += self._text.size - self._found.growing_text.size
        if self._reasoning_pieces:
            self._reasoning = self._reasoning.plus("".join(self._reasoning_pieces))
        if self._reasoning is not self._found.growing_reasoning:
            changes["growing_reasoning"] = self._reasoning
            self.grown += self._reasoning.size - self._found.growing_reasoning.size
        if self._applied:
            changes["applied"] = (*self._found.applied, *self._applied)
        if self._tokens != self._found.tokens:
            changes["tokens"] = self._tokens
        if self._status is not self._found.status:
            changes["status"] = self._status
        if self._calls is not None:
            changes["tool_calls"] = tuple(self._calls.values())
        return replace(self._found, **changes) if changes else self._found


_TOOL_CALL_EVENTS: Final = frozenset(
    {
        EventType.TOOL_PROPOSED,
        EventType.TOOL_APPROVAL,
        EventType.TOOL_DECIDED,
        EventType.TOOL_STARTED,
        EventType.TOOL_FINISHED,
    }
)
_CHANGES: Final[Mapping[EventType, Callable[[_GenerationFold, Event, Fields], None]]] = {
    EventType.GENERATION_STARTED: _GenerationFold.started,
    EventType.GENERATION_INTERRUPTED: _GenerationFold.interrupted,
    **dict.fromkeys(
        (EventType.STEP_FINISHED, EventType.TOOL_DECIDED, EventType.TOOL_FINISHED), _GenerationFold.clear_losses
    ),
    EventType.STEERING_CHANGED: _GenerationFold.steered,
    EventType.MESSAGE_APPLIED: _GenerationFold.message_applied,
    **dict.fromkeys((EventType.BUDGET_REACHED, EventType.BUDGET_RAISED), _GenerationFold.budget_changed),
    EventType.PROGRESS: _GenerationFold.progressed,
    EventType.RESULT: _GenerationFold.result_set,
    EventType.GENERATION_COMPLETED: _GenerationFold.completed,
    EventType.GENERATION_FAILED: _GenerationFold.failed,
    EventType.GENERATION_CANCELLED: _GenerationFold.cancelled,
}
_HANDLERS: Final[Mapping[str, Callable[[ConversationFold, Event, Fields], None]]] = {
    EventType.CONVERSATION_STARTED: ConversationFold.conversation_started,
    EventType.MESSAGE_POSTED: ConversationFold.message_posted,
    EventType.GENERATION_REQUESTED: ConversationFold.generation_requested,
    **dict.fromkeys((*_TOOL_CALL_EVENTS, *_CHANGES), ConversationFold.generation_changed),
}
