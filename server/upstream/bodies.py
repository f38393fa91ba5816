"""What the bodies of all providers' requests have in common.

Owns the refusal of parameters that the server sets itself, of a prompt of nothing, and of what is no JSON. Pure:
must not know a provider's names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from .errors import BadParameters
from .model import Prompt

__all__ = ["NOTHING", "encoded", "refuse"]

NOTHING = "there is nothing to answer: give an input, or post a message first"


def refuse(prompt: Prompt, ours: Collection[str]) -> None:
    """Raise `BadParameters` (the client's fault) for parameters that are `ours`, and for a prompt of nothing."""
    if "tools" in prompt.parameters:  # would take the place of the prompt's own, whose calls are carried out
        raise BadParameters("parameters.tools", "is no parameter: give `tools` beside `parameters`")
    for name in ours:
        if name in prompt.parameters:
            raise BadParameters(f"parameters.{name}", "is set by the server and must not be given")
    if not prompt.messages:
        raise BadParameters("input", NOTHING)


def encoded(body: Mapping[str, Any], parameters: Mapping[str, Any]) -> bytes:
    """The body and the client's parameters as JSON. Raises `BadParameters`."""
    try:
        return msgspec.json.encode({**body, **parameters})
    except (TypeError, ValueError, RecursionError) as error:
        raise BadParameters("parameters", "must be JSON without unpaired surrogates") from error
