"""Snapshots as JSON: the msgspec structs of conversations, generations and lists of them, and how they are filled.

Owns the form of a snapshot: the same structs are encoded, and described in `/openapi.json`. Every field is always
present, so that clients can rely on it. The ETag of a snapshot is its position. Must not know how a state is
folded, nor HTTP. Docstrings and descriptions of structs are part of the document.
"""

import math
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from server.conversations.conversation_state import Conversation, Generation, Message, ToolCall
from server.conversations.state_machine import CallStatus, Status
from server.ids import id_pattern
from server.message_parts import Content, ImagePart, Part, TextPart, text_of
from server.unicode_safety import find_hidden_characters

encode = msgspec.json.Encoder().encode

Position = Annotated[int, Meta(ge=0, description="Position of the last event that is in it: also its ETag.")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ConversationId = Annotated[str, Meta(pattern=id_pattern("conv"))]
GenerationId = Annotated[str, Meta(pattern=id_pattern("gen"))]
CallId = Annotated[str, Meta(pattern=id_pattern("call"))]

MIN_RETRY, MAX_RETRY, WAITING_RETRY = 1, 30, 5
"""Seconds of `Retry-After`: the least, the most, and while the generation waits for a person."""


MAX_ITEMS = 100
"""Messages and generations of a conversation's snapshot."""
PAGE_BYTES = 4 * 1024 * 1024
"""A conversation's snapshot ends early after so many bytes; its `next` says where to continue."""
LONG_TEXT = 64 * 1024
"""A text of more bytes is left out of a conversation's snapshot, which then says where its events are."""


class Failure(TypedDict):
    """Why a generation or a call failed: a code for programs, a sentence for people."""

    code: str
    message: str
    reference: NotRequired[
        Annotated[str, Meta(pattern=id_pattern("ref"), description="Finds what happened in the server's own log.")]
    ]


class ProgressShown(msgspec.Struct, frozen=True, kw_only=True):
    """How far the work is: 12 of 47 pages."""

    done: float
    total: float
    unit: str
    stage: str | None


class BudgetShown(msgspec.Struct, frozen=True, kw_only=True):
    """How much the generation may use, all together. It waits where it has reached a bound."""

    tokens: int | None
    cost: Annotated[float | None, Meta(description="In the currency of the server's prices.")]
    reached: Annotated[Literal["tokens", "cost"] | None, Meta(description="The bound at which it waits.")]
    used: Annotated[float | None, Meta(description="How much of that it has used.")]


class ToolCallShown(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call, as its events made it. `waits` for a decision when it needs one and is `proposed`."""

    call: CallId
    name: str
    status: CallStatus
    needs_approval: bool
    client: Annotated[bool, Meta(description="Whether a client runs it, and posts its result.")]
    arguments: Annotated[dict[str, Any], Meta(description="What runs: as proposed, or as modified.")]
    hidden_characters: Annotated[
        list[str],
        Meta(
            description="Characters in the name or the arguments that nobody sees, or that reorder what is seen, "
            "as `U+202E`: show them as escapes to whoever decides."
        ),
    ]
    arguments_digest: Digest
    proposed_digest: Annotated[Digest, Meta(description="What a decision has to name.")]
    expires_at: datetime | None
    decision: Literal["approved", "rejected", "modified"] | None
    reason: str | None
    by: Annotated[str | None, Meta(description="Who decided.")]
    approvers: Annotated[int, Meta(ge=1, description="How many people have to approve it.")]
    another_person: Annotated[bool, Meta(description="Whether who asked for the generation may not approve it.")]
    approvals: Annotated[list[str], Meta(description="Who has approved what stands in `arguments`.")]
    result: Any
    error: Failure | None
    position: Position


class AppliedShown(msgspec.Struct, frozen=True, kw_only=True):
    """A message that the answer took while it ran."""

    message: str
    position: Annotated[int, Meta(ge=1, description="From here on the answer knows it.")]
    text_length: Annotated[
        int, Meta(ge=0, description="Characters (Unicode code points) of the text that were written before it.")
    ]


class GenerationSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a model or a workflow, as its events up to `position` made it."""

    id: GenerationId
    conversation: ConversationId
    status: Status
    waiting_for: Annotated[
        Literal["approval", "budget"] | None,
        Meta(description="While its status is `waiting`: a decision on a call, or a larger budget."),
    ]
    model: str | None
    workflow: str | None
    input: Annotated[Any, Meta(description="What a workflow was given; a model's is in the messages.")]
    parameters: dict[str, Any]
    tools: Annotated[list[str | dict[str, Any]], Meta(description="Names, and those that a client declared.")]
    on_crash: Literal["fail", "restart"]
    ephemeral: bool
    budget: BudgetShown | None
    text: Annotated[
        str | None,
        Meta(
            description="All tokens so far, joined; those of the present attempt. Null only in a conversation's "
            "snapshot, where a text of more than 64 KiB is left out."
        ),
    ]
    text_bytes: Annotated[int | UnsetType, Meta(description="Where the text is left out: its bytes in UTF-8.")] = (
        UNSET
    )
    text_events: Annotated[
        str | UnsetType, Meta(description="Where the text is left out: where its events are.")
    ] = UNSET
    reasoning: Annotated[
        str | None,
        Meta(
            description="What the model thought aloud so far, joined: no part of the text. Of the present "
            "attempt, and null, as the text."
        ),
    ]
    reasoning_bytes: Annotated[
        int | UnsetType, Meta(description="Where the reasoning is left out: its bytes in UTF-8.")
    ] = UNSET
    reasoning_events: Annotated[
        str | UnsetType, Meta(description="Where the reasoning is left out: where its events are.")
    ] = UNSET
    tokens: Annotated[int, Meta(ge=0, description="How many token events there are.")]
    progress: ProgressShown | None
    tool_calls: list[ToolCallShown]
    applied: Annotated[list[AppliedShown], Meta(description="Messages that were put into it while it ran.")]
    steering: Annotated[dict[str, Any], Meta(description="The parameters that can be steered, as they stand.")]
    result: Annotated[Any, Meta(description="What the workflow returned.")]
    finish_reason: str | None
    refusal: Annotated[str | None, Meta(description="The words with which the model refused to answer.")]
    usage: Annotated[
        dict[str, int | float] | None,
        Meta(description="What the upstream counted, and its `cost` where the server knows the prices."),
    ]
    ttft_ms: Annotated[int | None, Meta(description="Milliseconds from the start to the first token.")]
    error: Failure | None
    retryable: Annotated[bool | None, Meta(description="After a failure: the same request may succeed.")]
    reason: Annotated[str | None, Meta(description="After a cancellation: the reason that was given.")]
    position: Position
    attempt: Annotated[int, Meta(ge=0)]
    worker: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class CancelledGeneration(GenerationSnapshot, frozen=True, kw_only=True):
    """The snapshot after a cancel."""

    upstream_closed: Annotated[bool, Meta(description="Whether the connection to the upstream is closed.")]


FileDigest = Annotated[
    Digest, Meta(description="The SHA-256 of the file's bytes, which are at `/v1/files/{digest}`.")
]
MediaType = Annotated[str, Meta(description="The type of the file by its content.")]
FileSize = Annotated[int, Meta(ge=1, description="In bytes.")]


class TextPartShown(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A text, as part of a message."""

    text: str


class ImagePartShown(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image, as part of a message."""

    file: FileDigest
    media_type: MediaType
    size: FileSize


class FilePartShown(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """A file, as part of a message."""

    file: FileDigest
    media_type: MediaType
    size: FileSize
    name: str | UnsetType = UNSET


Parts = list[TextPartShown | ImagePartShown | FilePartShown]


Delivered = Annotated[
    Literal["queued", "applied", "returned"],
    Meta(
        description="Of a message with `deliver: now`. `queued`: the answer has not taken it yet. `applied`: it "
        "has. `returned`: the answer ended first, or there was none; it is a message like any other, which the "
        "next answer sees."
    ),
]


class MessageShown(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody spoke."""

    id: str
    role: str
    content: Annotated[
        str | Parts | None, Meta(description="As it was posted. Null where more than 64 KiB of text is left out.")
    ]
    position: int
    at: datetime
    by: str
    author: str | UnsetType = UNSET
    content_bytes: Annotated[int | UnsetType, Meta(description="Where it is left out: its bytes in UTF-8.")] = (
        UNSET
    )
    content_events: Annotated[str | UnsetType, Meta(description="Where it is left out: where its event is.")] = (
        UNSET
    )
    delivery: Delivered | UnsetType = UNSET
    into: Annotated[GenerationId | UnsetType, Meta(description="The generation that was to take it.")] = UNSET
    applied_position: Annotated[
        int | UnsetType, Meta(description="Where it is `applied`: from here on the answer knows it.")
    ] = UNSET


class ConversationSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation: the fold of all its events up to `position`, with its newest messages and generations."""

    id: ConversationId
    title: str | None
    metadata: dict[str, Any] | None
    created_at: datetime | None
    messages: list[MessageShown]
    generations: list[GenerationSnapshot]
    position: Position
    next: Annotated[
        int | None, Meta(description="The `before` that gives the ones before; null where there are none.")
    ]


class ConversationLine(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a list."""

    id: ConversationId
    title: str | None
    created_at: datetime
    position: Position


class ConversationList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of conversations, newest first."""

    conversations: list[ConversationLine]
    next: Annotated[str | None, Meta(description="The `before` of the next page; null on the last one.")]


class Health(msgspec.Struct, frozen=True):
    """What a probe is told."""

    status: Literal["alive", "ready"]


def generation(found: Generation) -> GenerationSnapshot:
    """A generation's snapshot."""
    return GenerationSnapshot(**_fields(found))


def cancelled(found: Generation, upstream_closed: bool) -> CancelledGeneration:
    """The snapshot after a cancel."""
    return CancelledGeneration(**_fields(found), upstream_closed=upstream_closed)


def conversation(state: Conversation, before: int | None = None) -> bytes:
    """A conversation's snapshot as JSON: its newest messages and generations, or those before a position.

    At most `MAX_ITEMS` of both together, and about `PAGE_BYTES`, but always at least one where there is one.
    """
    # One more than a page may hold, to know whether there are more.
    messages = list(state.newest_messages(MAX_ITEMS + 1, before))
    generations = list(state.newest_generations(MAX_ITEMS + 1, before))
    size = 0
    shown_messages: list[msgspec.Raw] = []
    shown_generations: list[msgspec.Raw] = []
    oldest: int | None = None
    while messages or generations:
        full = len(shown_messages) + len(shown_generations) >= MAX_ITEMS or size > PAGE_BYTES
        if full:
            break
        if not generations or (messages and messages[-1].position > generations[-1].requested_position):
            message = messages.pop()
            oldest, encoded, shown = message.position, encode(_message(state, message)), shown_messages
        else:
            found = generations.pop()
            oldest, encoded, shown = found.requested_position, encode(_short(found)), shown_generations
        size += len(encoded)
        shown.append(msgspec.Raw(encoded))
    fields = {
        "id": state.id,
        "title": state.title,
        "metadata": state.metadata,
        "created_at": state.created_at,
        "messages": shown_messages[::-1],
        "generations": shown_generations[::-1],
        "position": state.position,
        "next": oldest if messages or generations else None,
    }
    return encode(fields)


def posted(event: bytes, deliver: str | None) -> bytes:
    """The event object of a new message as the answer to who posted it: with `delivery`, where it has one."""
    if deliver is None:
        return event
    delivery = "queued" if "into" in msgspec.json.decode(event) else "returned"
    return event[:-1] + b',"delivery":"%b"}' % delivery.encode()


def _message(state: Conversation, message: Message) -> MessageShown:
    delivery = state.delivery_of(message)
    position = delivery.applied_position if delivery is not None else None
    shown = MessageShown(
        id=message.id,
        role=message.role,
        content=_content(message.content),
        position=message.position,
        at=message.at,
        by=message.by,
        author=message.author if message.author is not None else UNSET,
        delivery=delivery.status if delivery is not None else UNSET,
        into=message.into if message.into is not None else UNSET,
        applied_position=position if position is not None else UNSET,
    )
    size = long_text(text_of(message.content))
    if size is None:
        return shown
    events = f"/v1/conversations/{state.id}/events?after={message.position - 1}&limit=1"
    return replace(shown, content=None, content_bytes=size, content_events=events)


def _content(content: Content) -> str | Parts:
    return content if isinstance(content, str) else list(map(_part, content))


def _part(part: Part) -> TextPartShown | ImagePartShown | FilePartShown:
    if isinstance(part, TextPart):
        return TextPartShown(text=part.text)
    if isinstance(part, ImagePart):
        return ImagePartShown(file=part.digest, media_type=part.media_type, size=part.size)
    name = part.name if part.name is not None else UNSET
    return FilePartShown(file=part.digest, media_type=part.media_type, size=part.size, name=name)


def _short(found: Generation) -> GenerationSnapshot:
    shown = generation(found)
    events = f"/v1/generations/{found.id}/events"
    if (size := long_text(found.text)) is not None:
        shown = replace(shown, text=None, text_bytes=size, text_events=events)
    if (size := long_text(found.reasoning)) is not None:
        where = f"{events}?types=reasoning"
        shown = replace(shown, reasoning=None, reasoning_bytes=size, reasoning_events=where)
    return shown


def long_text(text: str) -> int | None:
    """How many bytes of UTF-8 a text has, if it is too long for a conversation's snapshot; None if it is not."""
    if len(text) * 4 <= LONG_TEXT or (text.isascii() and len(text) <= LONG_TEXT):
        return None
    size = len(text) if text.isascii() else len(text.encode())
    return size if size > LONG_TEXT else None


def retry_after(found: Generation) -> int:
    """Seconds after which a client should ask again: about the time between two steps of the progress."""
    if found.status is Status.WAITING:
        return WAITING_RETRY
    progress = found.progress
    if progress is None or progress.pace is None:
        return MIN_RETRY
    return min(MAX_RETRY, max(MIN_RETRY, math.ceil(progress.pace)))


def _fields(found: Generation) -> dict[str, Any]:
    progress, calls = found.progress, found.tool_calls
    return {
        **{name: getattr(found, name) for name in _SAME},
        "tools": list(found.tools),
        "progress": None if progress is None else ProgressShown(**_picked(ProgressShown, progress)),
        "tool_calls": [_call(call) for call in calls],
        "applied": [AppliedShown(**_picked(AppliedShown, one)) for one in found.applied],
        "budget": None if found.budget is None else BudgetShown(**_picked(BudgetShown, found.budget)),
    }


def _call(call: ToolCall) -> ToolCallShown:
    hidden = find_hidden_characters(call.name, call.arguments)
    fields = _picked(ToolCallShown, call, but=("hidden_characters", "approvals"))
    return ToolCallShown(**fields, hidden_characters=hidden, approvals=list(call.approvals))


def _picked(shape: type[msgspec.Struct], value: Any, but: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: getattr(value, name) for name in shape.__struct_fields__ if name not in but}


_LEFT_OUT = ("text_bytes", "text_events", "reasoning_bytes", "reasoning_events")
_SAME = tuple(
    name
    for name in GenerationSnapshot.__struct_fields__
    if name not in ("tools", "progress", "tool_calls", "applied", "budget", *_LEFT_OUT)
)


def etag(position: int) -> str:
    """The ETag of a snapshot (RFC 9110 section 8.8.3): strong, as a position always folds to the same text."""
    return f'"{position}"'
