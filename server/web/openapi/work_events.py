"""The event objects of what a generation does between its start and its end, besides speaking, and of what people
tell it then. Encodes nothing; the tests hold what is written against these.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from server.events import Type
from server.web.openapi.event import By, OfGeneration
from server.web.snapshots.snapshot_json import CallId, Digest, Failure

Arguments = dict[str, Any]
Hidden = Annotated[
    list[Annotated[str, Meta(pattern="^U\\+[0-9A-F]{4,6}$")]] | UnsetType,
    Meta(
        description="Characters in the name or the arguments that nobody sees, or that reorder what is seen: "
        "show them as escapes to whoever decides. The arguments, and their digest, hold them as they are."
    ),
]


class StepFinished(OfGeneration, tag=Type.STEP_FINISHED.value, kw_only=True):
    """What is not to be paid for again has a result: a later attempt takes it from here. Clients may ignore it."""

    step: str
    result: Any


class ToolArguments(OfGeneration, tag=Type.TOOL_ARGUMENTS.value, kw_only=True):
    """One chunk of a call's arguments, while the model writes them. The call is `tool.proposed`, with the same id.

    Chunks without it before the next `generation.started`, or the end, are of an answer that was cut: throw them
    away.
    """

    call: CallId
    delta: Annotated[str, Meta(description="More of the JSON text; no JSON by itself.")]
    name: Annotated[str | UnsetType, Meta(description="The tool's; with the first chunk.")] = UNSET


class ToolProposed(OfGeneration, tag=Type.TOOL_PROPOSED.value, kw_only=True):
    """A call is wanted. Where it needs approval the generation waits for a decision."""

    call: CallId
    name: str
    arguments: Arguments
    arguments_digest: Annotated[
        Digest, Meta(description="SHA-256 of the arguments as canonical JSON (RFC 8785): what a decision names.")
    ]
    needs_approval: bool
    expires_at: Annotated[
        datetime | UnsetType, Meta(description="From then on it counts as rejected, with the reason `expired`.")
    ] = UNSET
    client: Annotated[bool | UnsetType, Meta(description="Whether a client runs it, and posts its result.")] = (
        UNSET
    )
    hidden_characters: Hidden = UNSET
    step: Annotated[str, Meta(description="By which part of the run.")]


class ToolDecided(OfGeneration, tag=Type.TOOL_DECIDED.value, kw_only=True):
    """Somebody saw the arguments of `proposed_digest`, and said so; `tokentape` where nobody did in time."""

    call: CallId
    decision: Literal["approved", "rejected", "modified"]
    proposed_digest: Annotated[Digest, Meta(description="Of what was seen.")]
    arguments: Annotated[Arguments, Meta(description="What runs.")]
    arguments_digest: Digest
    hidden_characters: Hidden = UNSET
    reason: str | UnsetType = UNSET
    by: By


class ToolStarted(OfGeneration, tag=Type.TOOL_STARTED.value, kw_only=True):
    """Durable before the effect. A client that runs the call begins now."""

    call: CallId


class ToolFinished(OfGeneration, tag=Type.TOOL_FINISHED.value, kw_only=True):
    """What became of the call: a result or an error, one of both."""

    call: CallId
    result: Any | UnsetType = UNSET
    error: Failure | UnsetType = UNSET
    by: Annotated[str | UnsetType, Meta(description="The client that ran it.")] = UNSET


class SteeringChanged(OfGeneration, tag=Type.STEERING_CHANGED.value, kw_only=True):
    """A parameter has another value from here on."""

    name: str
    value: Any
    by: By


class Progress(OfGeneration, tag=Type.PROGRESS.value, kw_only=True):
    """So much of the work is done: 12 of 47 pages."""

    done: float
    total: float
    unit: str
    stage: str | UnsetType = UNSET


class Result(OfGeneration, tag=Type.RESULT.value, kw_only=True):
    """What the workflow returned."""

    value: Any
