"""Events as people read them: the text of answers as text, everything else a line with its position."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import click
import msgspec
from rich.text import Text

from server.cli.clean import clean, clean_json, clean_line
from server.cli.paper import Paper

Event = Mapping[str, Any]

COMMON = frozenset({"position", "type", "at", "generation"})
ENDS = frozenset({"generation.completed", "generation.failed", "generation.cancelled"})
_STYLES = {"generation.completed": "green", "generation.failed": "bold red", "generation.cancelled": "yellow"}


class Teller(Protocol):
    """Gets events in order."""

    def tell(self, events: Sequence[Event]) -> None:
        """Shows them."""


class PeopleTeller:
    """On paper."""

    def __init__(self, paper: Paper) -> None:
        self._paper = paper

    def tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if event["type"] == "token":
                self._paper.write(str(event.get("delta", "")))
            else:
                self._paper.line(line_for(event))


class JsonTeller:
    """One event object a line on standard output, for programs."""

    def tell(self, events: Sequence[Event]) -> None:
        for event in events:
            click.echo(json_line(event))


def json_line(value: object) -> str:
    """A JSON object on one line, harmless for a terminal."""
    return clean_json(msgspec.json.encode(value).decode())


def line_for(event: Event) -> Text:
    """An event that is not text."""
    kind = clean_line(str(event["type"]))
    line = Text(f"{event['position']:>6}  ", "dim")
    line.append(f"{kind}  ", _STYLES.get(kind, "cyan dim" if kind.startswith("generation.") else "dim"))
    match kind:
        case "message.posted":
            line.append(f"{clean_line(str(event.get('author') or event.get('role')))}: ", "bold")
            line.append(clean(str(event.get("content", ""))), "default")
        case "generation.requested":
            line.append(clean_line(str(event.get("model") or event.get("workflow"))), "bold")
            line.append("".join(f"  {name}={value}" for name, value in _flat(event.get("parameters"))), "dim")
        case "generation.completed" | "generation.failed" | "generation.cancelled":
            line.append(summary(event))
        case _:
            line.append("  ".join(f"{name}={value}" for name, value in _flat(event, COMMON)), "dim")
    return line


def summary(end: Event) -> str:
    """How a generation ended, from its terminal event."""
    if end["type"] == "generation.failed":
        error = end.get("error") or {}
        return clean_line(f"{error.get('code')}: {error.get('message')}")
    if end["type"] == "generation.cancelled":
        return clean_line(f"by {end.get('by')}" + (f": {end['reason']}" if end.get("reason") else ""))
    parts = []
    if end.get("finish_reason") not in (None, "stop"):
        parts.append(str(end["finish_reason"]))
    usage = end.get("usage") or {}
    if "input_tokens" in usage:
        parts.append(f"{usage['input_tokens']} tokens in")
    if "output_tokens" in usage:
        parts.append(f"{usage['output_tokens']} out")
    if end.get("ttft_ms") is not None:
        parts.append(f"first after {end['ttft_ms']} ms")
    return clean_line(" · ".join(parts))


def _flat(fields: Any, but: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    if not isinstance(fields, Mapping):
        return []
    return [
        (
            clean_line(str(name)),
            clean_line(value if isinstance(value, str) else msgspec.json.encode(value).decode()),
        )
        for name, value in fields.items()
        if name not in but
    ]
