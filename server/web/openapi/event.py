"""What all event objects share. Encodes nothing; the shapes of the types stand on it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from server.web.snapshots.snapshot_json import GenerationId

At = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        description="When it was appended: UTC, microseconds; never falls within a conversation.",
    ),
]
By = Annotated[str, Meta(description="Who acted, as the server knows it; `anonymous` until there are keys.")]


class Event(msgspec.Struct, tag_field="type", kw_only=True):
    """Of a conversation."""

    position: Annotated[int, Meta(ge=1, description="1, 2, 3 … in its conversation: the only cursor there is.")]
    at: At


class OfGeneration(Event, kw_only=True):
    """Of one generation in it."""

    generation: GenerationId
