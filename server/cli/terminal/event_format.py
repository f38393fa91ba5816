"""Events as people read them at a terminal: the text of answers as text, every other event as one line.

Owns the line of each event type, the status line of a running answer, and the two printers (for people, and JSON
for programs). Control characters are escaped. What a person has to decide on is shown whole, as it would run; ids
are shown where an answer needs them. Formatting is pure; only the printers write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import click
import msgspec
from rich.text import Text

from server.cli.terminal.output import Output
from server.message_parts import size_in_words
from server.unicode_safety import escape_controls, escape_json, escape_line, has_hidden

Event = Mapping[str, Any]

COMMON = frozenset({"position", "type", "at", "generation"})
ENDS = frozenset({"generation.completed", "generation.failed", "generation.cancelled"})
_STYLES = {
    "generation.completed": "green",
    "generation.failed": "bold red",
    "generation.cancelled": "yellow",
    "generation.interrupted": "yellow",
    "tool.proposed": "magenta",
    "tool.approval": "magenta",
    "tool.decided": "magenta",
    "budget.reached": "yellow",
}


def format_event(event: Event) -> Text:
    """The line of an event that is not text, with its position."""
    kind = escape_line(str(event["type"]))
    line = Text(f"{event['position']:>6}  ", "dim")
    line.append(f"{kind}  ", _STYLES.get(kind, "cyan dim" if kind.startswith("generation.") else "dim"))
    match kind:
        case "message.posted":
            line.append(f"{escape_line(str(event.get('author') or event.get('role')))}: ", "bold")
            line.append(content_text(event.get("content", "")), "default")
            line.append(_delivered(event), "dim")
        case "generation.requested":
            line.append(escape_line(str(event.get("model") or event.get("workflow"))), "bold")
            line.append("".join(f"  {name}={value}" for name, value in _flat(event.get("parameters"))), "dim")
            line.append(_asked(event), "dim")
        case "generation.completed" | "generation.failed" | "generation.cancelled":
            line.append(summary(event))
        case "tool.proposed" | "tool.approval" | "tool.decided":
            line.append(describe(event) or "", "bold")
            line.append(f"  {escape_line(str(event.get('call')))}", "dim")
        case _:
            fields = "  ".join(f"{name}={value}" for name, value in _flat(event, COMMON))
            line.append(describe(event) or fields, "dim")
    return line


class Asides:
    """Running text that is not the answer: reasoning, and the arguments of a tool call while they are written.

    One instance for each log, because only the first piece of a call's arguments names its tool.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def of(self, event: Event) -> tuple[str, str] | None:
        """A label and the text to append below it; None for an event that is no aside."""
        match event:
            case {"type": "reasoning", "delta": str() as delta}:
                return "thinking", delta
            case {"type": "tool.arguments", "call": str() as call, "delta": str() as delta}:
                name = self._names.setdefault(call, str(event.get("name") or call))
                return escape_line(f"arguments of {name}"), delta
            case _:
                return None


def describe(event: Event) -> str | None:
    """What an event of a run's work says, in words; None where its fields say it best."""
    match event:
        case {"type": "generation.started", "attempt": int() as attempt} if attempt > 1:
            return f"attempt {attempt}: the answer starts again; decisions and finished work are kept"
        case {"type": "generation.interrupted", "reason": reason}:
            return escape_line(f"{reason}; it will be resumed")
        case {"type": "tool.proposed", "name": name, "arguments": arguments}:
            waits = " waits for a decision" if event.get("needs_approval") else ""
            until = f" until {event['expires_at']}" if waits and event.get("expires_at") else ""
            people = f" of {event['approvers']} people" if waits and event.get("approvers") else ""
            return escape_line(f"{name} {_json(arguments)}{waits}{people}{until}") + _warning(name, arguments)
        case {"type": "tool.approval", "by": by, "remaining": remaining}:
            instead = f" with {_json(event['arguments'])} instead" if "arguments" in event else ""
            told = f"approved{instead} by {by}; {remaining} more to approve"
            return escape_line(told) + _warning(event.get("arguments"))
        case {"type": "budget.reached", "bound": bound, "limit": limit, "used": used}:
            return escape_line(f"{used} of {limit} {bound}; it waits until the budget is raised")
        case {"type": "tool.decided", "decision": decision, "by": by}:
            instead = f" to {_json(event.get('arguments'))}" if decision == "modified" else ""
            why = f": {event['reason']}" if event.get("reason") else ""
            return escape_line(f"{decision}{instead} by {by}{why}") + _warning(event.get("arguments"))
        case {"type": "message.applied", "message": message}:
            return escape_line(f"from here on the answer knows {message}")
        case {"type": "tool.started"}:
            return escape_line(f"{event.get('call')} runs")
        case {"type": "tool.finished", "error": {"code": code, "message": message}}:
            return escape_line(f"{event.get('call')} failed: {code}: {message}")
        case {"type": "tool.finished"}:
            return escape_line(f"{event.get('call')} → {_json(event.get('result'))}")
        case {"type": "steering.changed", "name": name, "by": by}:
            return escape_line(f"{name} = {_json(event.get('value'))} by {by}")
        case {"type": "progress"}:
            return progress(event)
        case {"type": "result"}:
            return escape_line(_json(event.get("value")))
        case {"type": "step.finished", "step": step}:
            return escape_line(str(step))  # without its result, which may be long and concerns only the workflow
        case _:
            return None


def content_text(content: Any) -> str:
    """What a message says, its control characters escaped; files as `[image image/png 12 KB]`."""
    if isinstance(content, str):
        return escape_controls(content)
    if not isinstance(content, list):
        return "[a long text, which was left out]"
    return " ".join(_part_text(part) for part in content if isinstance(part, Mapping))


def _part_text(part: Mapping[str, Any]) -> str:
    if part.get("type") == "text":
        return escape_controls(str(part.get("text", "")))
    size = part.get("size")
    known = [part.get("type"), part.get("name"), part.get("media_type")]
    known.append(size_in_words(size) if isinstance(size, int) else None)
    return escape_line(f"[{' '.join(str(one) for one in known if one)}]")


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 token", "2 tokens"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def progress(event: Event) -> str:
    """The progress in words: `12 of 47 pages`."""
    done, total, unit = event.get("done"), event.get("total"), event.get("unit")
    stage = f" · {event['stage']}" if event.get("stage") else ""
    return escape_line(f"{_json(done)} of {_json(total)} {unit}{stage}")


def summary(end: Event) -> str:
    """How a generation ended, in words, from its terminal event."""
    if end["type"] == "generation.failed":
        error = end.get("error") or {}
        return escape_line(f"{error.get('code')}: {error.get('message')}")
    if end["type"] == "generation.cancelled":
        return escape_line(f"by {end.get('by')}" + (f": {end['reason']}" if end.get("reason") else ""))
    parts = []
    if end.get("finish_reason") not in (None, "stop"):
        parts.append(str(end["finish_reason"]))
    if end.get("refusal"):
        parts.append(str(end["refusal"]))
    usage = end.get("usage") or {}
    if "input_tokens" in usage:
        parts.append(f"{counted(usage['input_tokens'], 'token')} in")
    if "output_tokens" in usage:
        parts.append(f"{usage['output_tokens']} out")
    if end.get("ttft_ms") is not None:
        parts.append(f"first after {end['ttft_ms']} ms")
    return escape_line(" · ".join(parts))


def _delivered(event: Event) -> str:
    """Where a message goes that was not left to the next answer."""
    if event.get("deliver") != "now":
        return ""
    into = event.get("into")
    return escape_line(f"  → {into}" if into else "  → the next answer: none ran that takes messages")


def _asked(event: Event) -> str:
    """The other fields of a request: a workflow's input, tools, what happens if another generation runs."""
    names = [one if isinstance(one, str) else one.get("name") for one in event.get("tools") or ()]
    parts = [f"  input={_json(event['input'])}"] if "input" in event else []
    parts += [f"  tools={', '.join(map(str, names))}"] if names else []
    parts += [f"  {name}={event[name]}" for name in ("if_running", "on_crash") if name in event]
    return escape_line("".join(parts)) + ("  ephemeral" if event.get("ephemeral") else "")


def _flat(fields: Any, but: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    if not isinstance(fields, Mapping):
        return []
    return [
        (escape_line(str(name)), escape_line(value if isinstance(value, str) else _json(value)))
        for name, value in fields.items()
        if name not in but
    ]


def _warning(*values: Any) -> str:
    """A warning for values with invisible characters, which may be there to make one call look like another."""
    return "  ! HIDDEN CHARACTERS, shown as \\u…" if any(has_hidden(_json(value)) for value in values) else ""


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@dataclass(slots=True)
class StatusLine:
    """What a running answer is doing, from its events. `tokens` counts those of the current attempt.

    An answer may wait for its place in the queue, for a person's decision or for a client's tool, and may restart.
    """

    tokens: int = 0
    _started: bool = False
    _activity: str = ""
    _progress: str = ""
    # By call: its name, in the order in which they came.
    _undecided: dict[str, str] = field(default_factory=dict)
    _by_client: dict[str, str] = field(default_factory=dict)
    _running: dict[str, str] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Takes the answer's next event into account."""
        match event:
            case {"type": "token"}:
                self.tokens += 1
                self._activity = ""
            case {"type": "reasoning"}:
                self._activity = "thinks · "
            case {"type": "tool.arguments"}:
                self._activity = "writes a call · "
            case {"type": "generation.started"}:
                self._started, self.tokens, self._progress, self._activity = True, 0, "", ""
            case {"type": "generation.interrupted"}:
                self._started = False
            case {"type": "progress"}:
                self._progress = progress(event)
            case {"type": "tool.proposed", "call": str() as call, "name": name}:
                self._activity = ""
                if event.get("needs_approval"):
                    self._undecided[call] = str(name)
                if event.get("client"):
                    self._by_client[call] = str(name)
            case {"type": "tool.decided", "call": str() as call}:
                self._undecided.pop(call, None)
            case {"type": "tool.started", "call": str() as call} if call in self._by_client:
                self._running[call] = self._by_client[call]
            case {"type": "tool.finished", "call": str() as call}:
                self._undecided.pop(call, None)
                self._running.pop(call, None)

    def text(self, seconds: float) -> str:
        """The status in a few words. `seconds`: since the answer was requested."""
        if not self._started:
            return f"waits for its turn · {seconds:.0f} s"
        if self._undecided:
            return f"waits for a decision on {', '.join(self._undecided.values())}"
        if self._running:
            return f"waits for a client's {', '.join(self._running.values())}"
        progress = f"{self._progress} · " if self._progress else ""
        return f"{self._activity}{progress}{counted(self.tokens, 'token')} · {seconds:.1f} s"


class EventPrinter(Protocol):
    """Prints events; it is given them in order."""

    def print_events(self, events: Sequence[Event]) -> None:
        """Prints `events`."""


class TextEventPrinter:
    """Prints events for people, on an `Output`."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._asides = Asides()

    def print_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if event["type"] == "token":
                self._output.write(str(event.get("delta", "")))
            elif (aside := self._asides.of(event)) is not None:
                self._output.aside(*aside)
            else:
                self._output.line(format_event(event))


class JsonEventPrinter:
    """Prints one JSON object a line on standard output, for programs."""

    def print_events(self, events: Sequence[Event]) -> None:
        for event in events:
            click.echo(json_line(event))


def json_line(value: object) -> str:
    """A JSON object on one line, with control characters escaped."""
    return escape_json(msgspec.json.encode(value).decode())
