"""A parser of newline-delimited JSON. Empty lines are heartbeats; an incomplete line is kept back."""

from __future__ import annotations

import json
from typing import Any


class Parser:
    """Takes bytes and returns values. `signs` counts the empty lines."""

    def __init__(self) -> None:
        self.signs = 0
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Returns the objects that these bytes complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.signs += sum(not line for line in lines)
        return [json.loads(line) for line in lines if line]

    @property
    def rest(self) -> bytes:
        """The incomplete line."""
        return self._rest
