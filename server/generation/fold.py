"""`fold(conversation, events)`: the state after the events. Pure, and the only place that reads their fields.

`snapshot(k) == fold(events ≤ k)` holds on every transport because all of them call this. Types it does not
know leave no trace but the position: a newer server's events do not stop an older one.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from eventstore import Event
from server.events import Type
from server.generation import calls
from server.generation.state import Conversation, Generation, Message, Progress
from server.generation.states import Status, move

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_KNOWN = frozenset(kind.value for kind in Type)


class OutOfOrder(Exception):
    """The events do not follow the state: somebody folded a stream with a hole. A bug in the caller."""


def fold(state: Conversation, events: Iterable[Event]) -> Conversation:
    """The conversation after `events`, which must directly follow `state.position`, oldest first.

    Raises `OutOfOrder` at a gap or a repetition.
    """
    # Tokens come in long rows: a row is joined once, or a long answer would cost its square.
    for (kind, tag), row in groupby(events, key=lambda event: (event.type, event.tag)):
        if kind == "token" and tag is not None:
            state = _add_tokens(state, tag, list(row))
        else:
            for event in row:
                state = _add(state, event)
    return state


def _check(state: Conversation, event: Event) -> None:
    if event.position != state.position + 1:
        raise OutOfOrder(f"position {event.position} does not follow {state.position} in {state.id}")


def _add_tokens(state: Conversation, tag: str, row: list[Event]) -> Conversation:
    for position, event in enumerate(row, state.position + 1):
        if event.position != position:
            raise OutOfOrder(f"position {event.position} does not follow {position - 1} in {state.id}")
    last = row[-1]
    text = "".join(_decode(event.data)["delta"] for event in row)

    def change(found: Generation) -> Generation:
        return replace(
            found,
            status=move(found.status, Type.TOKEN, waits=found.status is Status.WAITING),
            text=found.text + text,
            tokens=found.tokens + len(row),
            position=last.position,
        )

    return _change(replace(state, position=last.position), tag, change)


def _add(state: Conversation, event: Event) -> Conversation:
    _check(state, event)
    state = replace(state, position=event.position)
    if event.type not in _KNOWN:
        return state
    return _FOLDS[Type(event.type)](state, event, _decode(event.data))


Fields = Mapping[str, Any]


def _started(state: Conversation, event: Event, fields: Fields) -> Conversation:
    return replace(state, title=fields.get("title"), metadata=fields.get("metadata"), created_at=event.at)


def _posted(state: Conversation, event: Event, fields: Fields) -> Conversation:
    message = Message(
        id=fields["message"],
        role=fields["role"],
        content=fields["content"],
        position=event.position,
        at=event.at,
        by=fields["by"],
        author=fields.get("author"),
    )
    return replace(state, messages=(*state.messages, message))


def _requested(state: Conversation, event: Event, fields: Fields) -> Conversation:
    generation = Generation(
        id=event.tag or "",
        conversation=state.id,
        status=Status.QUEUED,
        model=fields.get("model"),
        workflow=fields.get("workflow"),
        input=fields.get("input"),
        parameters=fields["parameters"],
        tools=tuple(fields.get("tools", ())),
        steering=fields.get("steering", {}),
        on_crash=fields.get("on_crash", "fail"),
        if_running=fields.get("if_running", "reject"),
        ephemeral=fields.get("ephemeral", False),
        requested_position=event.position,
        position=event.position,
        created_at=event.at,
    )
    return replace(state, generations=(*state.generations, generation))


def _change(state: Conversation, tag: str | None, change: Callable[[Generation], Generation]) -> Conversation:
    generations = tuple(change(found) if found.id == tag else found for found in state.generations)
    return replace(state, generations=generations)


def _moved(state: Conversation, event: Event, **fields: Any) -> Conversation:
    def change(found: Generation) -> Generation:
        waits = any(call.waits for call in found.tool_calls)
        status = move(found.status, Type(event.type), waits=waits)
        return replace(found, status=status, position=event.position, **fields)

    return _change(state, event.tag, change)


def _run_started(state: Conversation, event: Event, fields: Fields) -> Conversation:
    known = {"attempt": fields["attempt"], "worker": fields["worker"], "started_at": event.at}
    if fields["attempt"] > 1:  # it speaks anew; what was paid for or done, steps and calls, stays
        known |= {"text": "", "tokens": 0, "progress": None, "result": None}
    return _moved(state, event, **known)


def _noted(state: Conversation, event: Event, fields: Fields) -> Conversation:
    return _moved(state, event)


def _called(state: Conversation, event: Event, fields: Fields) -> Conversation:
    found = state.generation(event.tag or "")
    known = calls.after(found.tool_calls, Type(event.type), fields, event.position) if found else ()

    def change(found: Generation) -> Generation:
        status = move(found.status, Type(event.type), waits=any(call.waits for call in known))
        return replace(found, status=status, position=event.position, tool_calls=known)

    return _change(state, event.tag, change)


def _steered(state: Conversation, event: Event, fields: Fields) -> Conversation:
    found = state.generation(event.tag or "")
    values = {**(found.steering if found else {}), fields["name"]: fields["value"]}
    return _moved(state, event, steering=values)


def _progressed(state: Conversation, event: Event, fields: Fields) -> Conversation:
    found = state.generation(event.tag or "")
    before = (found.progress.at if found.progress else found.started_at) if found else None
    pace = (event.at - before).total_seconds() if before else None
    progress = Progress(
        fields["done"], fields["total"], fields["unit"], fields.get("stage"), at=event.at, pace=pace
    )
    return _moved(state, event, progress=progress)


def _resulted(state: Conversation, event: Event, fields: Fields) -> Conversation:
    return _moved(state, event, result=fields["value"])


def _token(state: Conversation, event: Event, fields: Fields) -> Conversation:
    return _change(state, event.tag, lambda found: found)  # a token of no generation: nothing to tell


def _completed(state: Conversation, event: Event, fields: Fields) -> Conversation:
    return _moved(
        state,
        event,
        finished_at=event.at,
        finish_reason=fields["finish_reason"],
        usage=fields["usage"],
        ttft_ms=fields.get("ttft_ms"),
    )


def _failed(state: Conversation, event: Event, fields: Fields) -> Conversation:
    return _moved(state, event, finished_at=event.at, error=fields["error"], retryable=fields["retryable"])


def _cancelled(state: Conversation, event: Event, fields: Fields) -> Conversation:
    return _moved(state, event, finished_at=event.at, reason=fields.get("reason"))


_FOLDS: Final[Mapping[Type, Callable[[Conversation, Event, Fields], Conversation]]] = {
    Type.CONVERSATION_STARTED: _started,
    Type.MESSAGE_POSTED: _posted,
    Type.GENERATION_REQUESTED: _requested,
    Type.GENERATION_STARTED: _run_started,
    Type.GENERATION_INTERRUPTED: _noted,
    Type.TOKEN: _token,
    Type.STEP_FINISHED: _noted,
    Type.TOOL_PROPOSED: _called,
    Type.TOOL_DECIDED: _called,
    Type.TOOL_STARTED: _called,
    Type.TOOL_FINISHED: _called,
    Type.STEERING_CHANGED: _steered,
    Type.PROGRESS: _progressed,
    Type.RESULT: _resulted,
    Type.GENERATION_COMPLETED: _completed,
    Type.GENERATION_FAILED: _failed,
    Type.GENERATION_CANCELLED: _cancelled,
}
