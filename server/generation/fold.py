"""`fold(conversation, events)`: the state after the events. Pure, and the only place that reads their fields.

`snapshot(k) == fold(events ≤ k)` holds on every transport because all of them call this. Events are gathered in
drafts, one for each generation they touch, and made immutable once, at the end: an event costs what is in it, not
what was there before. Types it does not know leave no trace but the position: a newer server's events do not
stop an older one.
"""

from collections.abc import Callable, Iterable, Mapping
from sys import intern
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from eventstore import Event
from server.events import LOSSES, Type
from server.generation import tool_call_fold
from server.generation.state import (
    NO_TEXT,
    Conversation,
    Generation,
    Message,
    Progress,
    ToolCall,
    weigh,
)
from server.generation.states import Status, move

Fields = Mapping[str, Any]


class _Delta(msgspec.Struct):
    delta: str
    """The one field of a `token` and of a `reasoning`."""


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_delta = msgspec.json.Decoder(_Delta).decode


class OutOfOrder(Exception):
    """The events do not follow the state: somebody folded a stream with a hole. A bug in the caller."""


def fold(state: Conversation, events: Iterable[Event]) -> Conversation:
    """The conversation after `events`, which must directly follow `state.position`, oldest first.

    Raises `OutOfOrder` at a gap or a repetition, `ImpossibleMove` where a generation's state allows no such event.
    """
    folding = Folding(state)
    folding.add(events)
    return folding.state()


class Folding:
    """A fold under way, for one that takes several pages of events. `position` is that of the last one added.

    After an error it is of no use any more; the states that it has given out stay right.
    """

    def __init__(self, state: Conversation) -> None:
        self._last = state
        self._drafts: dict[str, _Draft] = {}
        self._messages = state.message_count
        self._generations = state.generation_count
        self._history = state.history
        self._size = state.size
        self._owned = False
        self._opening = (state.title, state.metadata, state.created_at)
        self.position = state.position

    def add(self, events: Iterable[Event]) -> None:
        """Folds these, too. Raises `OutOfOrder`, `ImpossibleMove`."""
        self._own()
        for event in events:
            if event.position != self.position + 1:
                raise OutOfOrder(f"position {event.position} does not follow {self.position} in {self._last.id}")
            if event.type == "token":
                draft = self._draft(event.tag)
                if draft is not None:
                    draft.token(event)
            elif event.type == "reasoning":
                draft = self._draft(event.tag)
                if draft is not None:
                    draft.reasoning(event)
            elif event.type == "tool.arguments":
                draft = self._draft(event.tag)
                if draft is not None:
                    draft.speaks(Type.TOOL_ARGUMENTS, event)
            else:
                step = _FOLDS.get(event.type)
                if step is not None:
                    step(self, event, _decode(event.data))
            self.position = event.position

    def state(self) -> Conversation:
        """The conversation after all that was added."""
        if self._owned:
            self._history.tip = self.position
            self._owned = False
        if self.position == self._last.position:
            return self._last
        running = self._last.running
        if self._drafts:
            running = dict(running)
            for draft in self._drafts.values():
                found = draft.done()
                self._size += draft.grown
                if found.ended:
                    self._history.ended[draft.place] = found
                    running.pop(draft.place, None)
                else:
                    running[draft.place] = found
            self._drafts = {}
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

    def _own(self) -> None:
        """Makes the history this fold's to write: a copy where another state has been made of it since."""
        if self._owned:
            return
        if self._history.tip != self._last.position:
            self._history = self._history.copy(self._messages, self._generations)
        self._history.tip = -1
        self._owned = True

    def _draft(self, tag: str | None) -> "_Draft | None":
        if tag is None:
            return None
        draft = self._drafts.get(tag)
        if draft is None:
            found = self._last.generation(tag)
            if found is None:
                return None
            draft = self._drafts[tag] = _Draft(found, self._history.index[tag])
        return draft

    def started(self, event: Event, fields: Fields) -> None:
        """The conversation starts."""
        metadata = fields.get("metadata")
        self._size += weigh(metadata) - weigh(self._opening[1])
        self._opening = (fields.get("title"), metadata, event.at)

    def posted(self, event: Event, fields: Fields) -> None:
        """Somebody spoke."""
        message = Message(
            id=fields["message"],
            role=intern(fields["role"]),
            content=fields["content"],
            position=event.position,
            at=event.at,
            by=intern(fields["by"]),
            author=fields.get("author"),
        )
        self._history.messages.append(message)
        self._messages += 1
        self._size += message.size

    def requested(self, event: Event, fields: Fields) -> None:
        """A generation is to come."""
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
            requested_position=event.position,
            position=event.position,
            created_at=event.at,
        )
        place = self._generations
        self._history.index[found.id] = place
        self._history.ended.append(None)
        self._generations += 1
        self._size += found.size
        self._drafts[found.id] = _Draft(found, place)

    def moved(self, event: Event, fields: Fields) -> None:
        """Something happened to a generation."""
        draft = self._draft(event.tag)
        if draft is not None:
            draft.event(Type(event.type), event, fields)


class _Draft:
    """A generation while events are added to it. `grown`: by so many bytes."""

    __slots__ = (
        *("_calls", "_changes", "_found", "_pieces", "_said", "_status", "_thought", "_thoughts", "_tokens"),
        *("grown", "place"),
    )

    def __init__(self, found: Generation, place: int) -> None:
        self._found = found
        self._changes: dict[str, Any] = {}
        self._said = found.said
        self._pieces: list[str] = []
        self._thought = found.thought
        self._thoughts: list[str] = []
        self._tokens = found.tokens
        self._status = found.status
        self._calls: dict[str, ToolCall] | None = None
        self.place = place
        self.grown = 0

    def token(self, event: Event) -> None:
        """It speaks on. The one event that comes in thousands."""
        if self._status is not Status.RUNNING:
            self._status = move(self._status, Type.TOKEN, waits=self._status is Status.WAITING)
        self._pieces.append(_decode_delta(event.data).delta)
        self._tokens += 1
        self._changes["position"] = event.position

    def reasoning(self, event: Event) -> None:
        """It thinks on; these come in thousands, too."""
        self.speaks(Type.REASONING, event)
        self._thoughts.append(_decode_delta(event.data).delta)

    def speaks(self, kind: Type, event: Event) -> None:
        """It is at work, in words that are no token. Arguments are not kept: their call is proposed whole."""
        if self._status is not Status.RUNNING:
            self._status = move(self._status, kind, waits=self._status is Status.WAITING)
        self._changes["position"] = event.position

    def event(self, kind: Type, event: Event, fields: Fields) -> None:
        """Anything else."""
        if kind in _OF_CALLS:
            self._call(kind, event, fields)
        self._status = move(self._status, kind, waits=self._waits())
        self._changes["position"] = event.position
        change = _CHANGES.get(kind)
        if change is not None:
            change(self, event, fields)

    def _waits(self) -> bool:
        """Whether a call of it waits for its decision."""
        if self._calls is None and self._status in (Status.RUNNING, Status.WAITING):
            return self._status is Status.WAITING
        found = self._found.tool_calls if self._calls is None else self._calls.values()
        return any(call.waits for call in found)

    def _call(self, kind: Type, event: Event, fields: Fields) -> None:
        if self._calls is None:
            self._calls = {call.call: call for call in self._found.tool_calls}
        before, after = tool_call_fold.apply(self._calls, kind, fields, event.position)
        if before is None:
            self.grown += weigh(after) + 8
        else:
            self.grown += sum(
                weigh(getattr(after, name)) - weigh(getattr(before, name))
                for name in ("arguments", "result", "error")
                if getattr(after, name) is not getattr(before, name)
            )

    def run_started(self, event: Event, fields: Fields) -> None:
        """An attempt begins. It speaks anew; what was paid for or done, steps and calls, stays."""
        self._changes |= {"attempt": fields["attempt"], "worker": intern(fields["worker"]), "started_at": event.at}
        if fields["attempt"] > 1:
            self._said, self._pieces, self._tokens = NO_TEXT, [], 0
            self._thought, self._thoughts = NO_TEXT, []
            self._changes["progress"] = None
            self._set("result", None)

    def interrupted(self, event: Event, fields: Fields) -> None:
        """Its worker is gone. One that went without a word may have been taken down by this very run."""
        if fields["attempt"] > 0 and fields["reason"] in LOSSES:
            self._changes["losses"] = self._now("losses") + 1

    def progressed_durably(self, event: Event, fields: Fields) -> None:
        """What is done now is not done again: the attempts before this one were not in vain."""
        if self._now("losses"):
            self._changes["losses"] = 0

    def steered(self, event: Event, fields: Fields) -> None:
        """A parameter has another value now."""
        self._set("steering", {**self._now("steering"), fields["name"]: fields["value"]})

    def progressed(self, event: Event, fields: Fields) -> None:
        """So much is done."""
        progress = self._now("progress")
        before = progress.at if progress else self._now("started_at")
        pace = (event.at - before).total_seconds() if before else None
        stage = fields.get("stage")
        self._changes["progress"] = Progress(
            fields["done"], fields["total"], fields["unit"], stage, at=event.at, pace=pace
        )

    def resulted(self, event: Event, fields: Fields) -> None:
        """The JSON result of a job."""
        self._set("result", fields["value"])

    def completed(self, event: Event, fields: Fields) -> None:
        """It ended well."""
        self._changes |= {
            "finished_at": event.at,
            "finish_reason": fields["finish_reason"],
            "ttft_ms": fields.get("ttft_ms"),
        }
        self._set("usage", fields["usage"])
        self._set("refusal", fields.get("refusal"))

    def failed(self, event: Event, fields: Fields) -> None:
        """It ended badly."""
        self._changes |= {"finished_at": event.at, "retryable": fields["retryable"]}
        self._set("error", fields["error"])

    def cancelled(self, event: Event, fields: Fields) -> None:
        """Somebody ended it."""
        self._changes["finished_at"] = event.at
        self._set("reason", fields.get("reason"))

    def _now(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._found, name)

    def _set(self, name: str, value: Any) -> None:
        self.grown += weigh(value) - weigh(self._now(name))
        self._changes[name] = value

    def done(self) -> Generation:
        """The generation after them."""
        changes = self._changes
        if self._pieces:
            self._said = self._said.plus("".join(self._pieces))
        if self._said is not self._found.said:
            changes["said"] = self._said
            self.grown += self._said.size - self._found.said.size
        if self._thoughts:
            self._thought = self._thought.plus("".join(self._thoughts))
        if self._thought is not self._found.thought:
            changes["thought"] = self._thought
            self.grown += self._thought.size - self._found.thought.size
        if self._tokens != self._found.tokens:
            changes["tokens"] = self._tokens
        if self._status is not self._found.status:
            changes["status"] = self._status
        if self._calls is not None:
            changes["tool_calls"] = tuple(self._calls.values())
        return replace(self._found, **changes) if changes else self._found


_OF_CALLS: Final = frozenset({Type.TOOL_PROPOSED, Type.TOOL_DECIDED, Type.TOOL_STARTED, Type.TOOL_FINISHED})
_CHANGES: Final[Mapping[Type, Callable[[_Draft, Event, Fields], None]]] = {
    Type.GENERATION_STARTED: _Draft.run_started,
    Type.GENERATION_INTERRUPTED: _Draft.interrupted,
    **dict.fromkeys((Type.STEP_FINISHED, Type.TOOL_DECIDED, Type.TOOL_FINISHED), _Draft.progressed_durably),
    Type.STEERING_CHANGED: _Draft.steered,
    Type.PROGRESS: _Draft.progressed,
    Type.RESULT: _Draft.resulted,
    Type.GENERATION_COMPLETED: _Draft.completed,
    Type.GENERATION_FAILED: _Draft.failed,
    Type.GENERATION_CANCELLED: _Draft.cancelled,
}
_FOLDS: Final[Mapping[str, Callable[[Folding, Event, Fields], None]]] = {
    Type.CONVERSATION_STARTED: Folding.started,
    Type.MESSAGE_POSTED: Folding.posted,
    Type.GENERATION_REQUESTED: Folding.requested,
    **dict.fromkeys((*_OF_CALLS, *_CHANGES), Folding.moved),
}
